"""The command line. A command's module is imported when the command runs, so that every command starts fast."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from streamer import __version__
from streamer.cli.streams import guarded

COMMANDS = {
    "serve": "Run the server.",
    "demo": "Run the server with sample activity.",
    "tail": "Show a workspace's events, and follow them.",
    "publish": "Append events to a workspace.",
    "keys": "Create, list and revoke a workspace's keys.",
    "members": "Manage members and roles.",
    "whoami": "Show the key's identity and permissions.",
    "backup": "Back up the database while servers run.",
    "restore": "Replace the database by a backup.",
    "rebuild": "Rebuild entities from the logs.",
    "doctor": "Check an installation, and how to fix it.",
    "migrate": "Run database migrations.",
}
"""Every command with its short help."""


class _Lazy(click.Group):
    def main(self, args: Sequence[str] | None = None, **options: Any) -> Any:  # type: ignore[override]
        """Run the command line."""
        arguments = sys.argv[1:] if args is None else args
        with guarded(arguments):
            return super().main(arguments, **options)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"streamer.cli.{cmd_name}").command
        assert isinstance(command, click.Command)  # noqa: S101
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Lazy,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Without a command the server runs. Help for a command: streamer COMMAND --help",
)
@click.version_option(__version__, prog_name="streamer")
@click.pass_context
def main(context: click.Context) -> None:
    """A durable, real-time activity log: append an event, and every authorized client receives it at once."""
    if context.invoked_subcommand is None:
        context.invoke(import_module("streamer.cli.serve").command)
