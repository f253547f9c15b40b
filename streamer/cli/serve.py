"""`streamer serve`: the server in the foreground."""

import asyncio
import os
import signal
import sys
from typing import Any

import click

from streamer.app import Server, redactor, running
from streamer.cli.workers import Worker, Workers
from streamer.core.errors import StreamerError
from streamer.observe.collector import TURN_SECONDS, Collector
from streamer.observe.logs import configure
from streamer.observe.output import never_block
from streamer.settings import PREFIX, Settings, SettingsError, load
from streamer.store.engine.postgresql import BadDatabaseUrl

SWITCH_SECONDS = 0.001


def _flags(command: click.Command) -> click.Command:
    """Give the command a flag for each setting, except credentials, which the process list would show."""
    for name, setting in reversed(Settings.model_fields.items()):
        if name not in {"admin_key", "database_url", "jwt_secret", "redis_url"}:
            flag = "--" + name.replace("_", "-")
            shown = "the host name" if setting.default_factory else "none" if setting.default == () else setting.default
            default = f" [default: {shown}]"
            kind: dict[str, Any] = (
                {"is_flag": True, "default": None} if setting.annotation is bool else {"metavar": "VALUE"}
            )
            command.params.append(click.Option([flag, name], help=(setting.description or "") + default, **kind))
    command.params.reverse()
    return command


@click.command(
    epilog=f"Every flag is also a variable, --data-dir is {PREFIX}DATA_DIR. {PREFIX}DATABASE_URL, {PREFIX}REDIS_URL, {PREFIX}ADMIN_KEY "
    f"and {PREFIX}JWT_SECRET are variables only. See docs/settings.md."
)
def serve(**flags: Any) -> None:
    """Run the server: SQLite in ./data and port 8080 by default.

    \b
    streamer serve --port 9000 --data-dir /srv/streamer
    STREAMER_DATABASE_URL=postgresql://user:password@db/streamer streamer serve
    """
    try:
        settings = load(flags)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    never_block(settings.log_queue_bytes)
    configure(settings.log_format, settings.log_level, redactor(settings).redact_text)
    worker = Worker.of(os.environ)
    try:
        with runner() as loop:
            if worker is None and settings.workers > 1:
                sys.exit(loop.run(Workers(settings).run()))
            loop.run(_serve(settings, worker))
    except StreamerError as error:
        raise click.ClickException(error.message) from None
    except BadDatabaseUrl as error:
        raise click.UsageError(f"{PREFIX}DATABASE_URL: {error}") from None
    except OSError as error:
        where = error.filename or f"{settings.host}:{settings.port}"
        raise click.ClickException(f"cannot start on {where}: {error.strerror or error}") from None


command = _flags(serve)


def runner() -> asyncio.Runner:
    """Return an asyncio runner, on uvloop if it is available."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


async def _serve(settings: Settings, worker: Worker | None) -> None:
    stop = _stopped_by_signal()
    terminal = sys.stdout.isatty()
    if worker is not None:
        settings = worker.settings(settings)
    async with running(settings, show_key=terminal, mesh=None if worker is None else worker.folder) as server:
        if worker is None or worker.number == 1:
            click.echo(await _welcome(server, terminal=terminal), err=not terminal)
        if worker is not None:
            worker.say_ready(stop.set)
        # By default, a database thread that wants the GIL waits 5 ms for a busy event loop, several times in each commit.
        sys.setswitchinterval(SWITCH_SECONDS)
        server.loops.start("collector", Collector().turn, every=TURN_SECONDS)
        await stop.wait()
        if worker is not None:
            return
        seconds = settings.drain_notice_seconds + settings.drain_seconds
        click.echo(f"stopping within {seconds:g} s: streams are closed (again to stop at once)", err=True)


def _stopped_by_signal() -> asyncio.Event:
    """Return an event that the first signal to stop sets. A second signal ends the server at once, like `kill -9`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def first() -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, first)
    return stop


async def _welcome(server: Server, *, terminal: bool) -> str:
    """Print the server's address and what to type next. Credentials are printed on a terminal only, never in a log."""
    key = server.admin_key if terminal and server.first_start else "$STREAMER_KEY"
    first, *others = server.urls
    lines = [f"streamer listens on {first}" + (f" ({', '.join(others)})" if others else "")]
    if terminal:
        lines.append(f"\n  page    {await server.sign_in_link()}\n          (signs in once, within ten minutes)")
    if server.first_start and terminal:
        lines.append(f"  key     {key}\n          (the admin key, shown only once: export STREAMER_KEY={key})")
    elif server.first_start:
        lines.append(f"the admin key is in {server.key_file}")
    if terminal:
        event = '{"action":"issue.created","actor":{"type":"user","id":"ann"},"entity":{"type":"issue","id":"1"}}'
        lines.append(
            f'\n  append  curl {server.url}/v1/workspaces/my/events -H "Authorization: Bearer {key}" \\\n'
            f"            -H 'Content-Type: application/json' -d '{event}'"
            f'\n  follow  curl -N {server.url}/v1/workspaces/my/events/stream -H "Authorization: Bearer {key}"\n'
        )
    return "\n".join(lines)
