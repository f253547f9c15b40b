"""`streamer keys`: credentials for programs, each for one workspace."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import click
import orjson

from streamer.access.principal import SCOPES, TEMPLATES
from streamer.cli.listing import Columns, Output, actor_of, expiry_in_full, facts, output_of_list, show, table, write
from streamer.cli.pretty import printable
from streamer.cli.remote import Failure, connection, failure, open_client, run, say_no_more
from streamer.cli.stdin import agreed
from streamer.cli.values import workspace_argument
from streamer.cli.when import expiry_of, local, until
from streamer.client import Client, ClientError, Unreachable

_COLUMNS: Columns = {
    "ID": lambda key: key["id"],
    "NAME": lambda key: key["name"],
    "SCOPES": lambda key: ", ".join(key["scopes"]),
    "ACTOR": actor_of,
    "CREATED": lambda key: local(key["created_at"]),
    "EXPIRES": lambda key: until(key["expires_at"]),
}
_OPTIONS = {
    "name": "--name",
    "scopes": "--scope",
    "template": "--template",
    "expires_at": "--expires",
    "actor.type": "--actor-type",
    "actor.id": "--actor-id",
}
"""The options for the fields of a new key."""


@click.group()
def command() -> None:
    """Create, list and revoke a workspace's keys: credentials for programs.

    \b
    streamer keys create my --name ci --template submit_observe
    streamer keys list my
    streamer keys revoke my key_0123456789abcdef

    This needs the scope admin in the workspace. Help for a subcommand: streamer keys create --help
    """


@command.command()
@workspace_argument
@click.option("--name", metavar="NAME", required=True, help="A display name, such as where the key is used.")
@click.option(
    "--scope",
    "scopes",
    metavar="SCOPE",
    multiple=True,
    type=click.Choice(SCOPES),
    help=f"A permission (repeatable): {', '.join(SCOPES)}.",
)
@click.option(
    "--template",
    metavar="NAME",
    type=click.Choice(list(TEMPLATES)),
    help="A set of scopes: " + "; ".join(f"{name} ({', '.join(scopes)})" for name, scopes in TEMPLATES.items()) + ".",
)
@click.option("--actor-type", metavar="TYPE", help="The key acts only as this actor: user, agent, system …")
@click.option("--actor-id", metavar="ID", help="… with this id.")
@click.option("--expires", metavar="WHEN", help="Expiry: 12h or 30d from now, or a time. [default: never]")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["secret", "json"]),
    default="secret",
    show_default=True,
    help="What stdout gets.",
)
@connection
def create(  # noqa: PLR0913 - the options
    *,
    workspace: str,
    name: str,
    scopes: tuple[str, ...],
    template: str | None,
    actor_type: str | None,
    actor_id: str | None,
    expires: str | None,
    output: Literal["secret", "json"],
    url: str,
    key: str | None,
) -> None:
    """Create a key. Its secret goes to stdout and is shown only once; all other output goes to stderr.

    \b
    streamer keys create my --name ci --scope workspace:read --scope workspace:write
    streamer keys create my --name bob --template submit_observe --actor-type agent --actor-id bob --expires 30d
    STREAMER_KEY=$(streamer keys create my --name ci --template read_only) streamer tail my
    """
    if bool(scopes) == bool(template):
        raise click.UsageError(
            "give the key permissions with --scope or --template" + (", not by both" if scopes else "") + ":\n"
            f"  streamer keys create {workspace} --name {name} --scope workspace:read --scope workspace:write\n"
            f"  streamer keys create {workspace} --name {name} --template read_only"
        )
    if (actor_type is None) != (actor_id is None):
        raise click.UsageError("an actor has a type and an id: give both --actor-type and --actor-id")
    wanted: dict[str, Any] = {"name": name, "scopes": scopes or None, "template": template}
    if actor_type is not None:
        wanted["actor"] = {"type": actor_type, "id": actor_id}
    if expires is not None:
        wanted["expires_at"] = expiry_of(expires)
        if wanted["expires_at"] is None:
            raise click.UsageError(
                f"--expires {expires}: not a span of time, such as 12h or 30d, nor a time, such as 2030-01-01T00:00Z"
            )
    run(_create(open_client(url, key), workspace, wanted, output), workspace=workspace)


async def _create(client: Client, workspace: str, wanted: dict[str, Any], output: Literal["secret", "json"]) -> None:
    async with client:
        try:
            made = await client.create_key(workspace, **wanted)
        except ClientError as error:
            failed = failure(error, workspace, name=_option)
            if isinstance(error, Unreachable):
                failed.hint += f"\nIf only the response was lost, a key without a known secret exists: streamer keys list {workspace}"
            raise failed from None
    if output == "secret":
        about = {"id": made["id"], "name": made["name"], "scopes": ", ".join(made["scopes"])}
        about |= {"actor": actor_of(made)} if made["actor"] else {}
        about |= {"expires": expiry_in_full(made["expires_at"])}
        click.echo(facts(about) + "The secret is shown only once:", err=True)
    try:
        write(made["key"].encode() + b"\n" if output == "secret" else orjson.dumps(made) + b"\n")
    except OSError as error:
        say_no_more()
        raise Failure(
            f"the secret of {made['id']} is lost, it could not be written: {error.strerror}",
            hint=f"streamer keys revoke {workspace} {made['id']}",
        ) from None


def _option(path: str) -> str:
    """Return the option for a field of a new key."""
    return _OPTIONS.get(path.partition("[")[0], path)


@command.command("list")
@workspace_argument
@output_of_list
@connection
def list_(*, workspace: str, output: Output | None, url: str, key: str | None) -> None:
    """List a workspace's keys in the order of their creation. No secret is shown, because the server stores only hashes.

    \b
    streamer keys list my
    streamer keys list my | jq -r 'select(.expires_at == null) | .id'
    """
    run(_list(open_client(url, key), workspace, output), workspace=workspace)


async def _list(client: Client, workspace: str, output: Output | None) -> None:
    async with client:
        keys = await client.keys(workspace)
    show(keys, output, _COLUMNS, none=f"{workspace} has no keys: streamer keys create --help")


@command.command()
@workspace_argument
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation. Without a terminal it never asks.")
@connection
def revoke(*, workspace: str, ids: tuple[str, ...], yes: bool, url: str, key: str | None) -> None:
    """Revoke keys at once, and close their streams.

    \b
    streamer keys revoke my key_0123456789abcdef
    streamer keys revoke my key_0123456789abcdef key_fedcba9876543210 --yes

    If no key has one of the ids, the command fails after revoking the others. The calling key is revoked last.
    """
    run(_revoke(open_client(url, key), workspace, tuple(dict.fromkeys(ids)), yes=yes), workspace=workspace)


async def _revoke(client: Client, workspace: str, ids: tuple[str, ...], *, yes: bool) -> None:
    async with client:
        known = {key["id"]: key for key in await client.keys(workspace) if key["id"] in ids}
        if known and not yes and not await _confirmed(known.values()):
            raise Failure("nothing was revoked")
        caller = (await client.session())["id"]
        ended: list[str] = []
        try:
            # Our own key last, because no call works after it.
            for key_id in sorted(known, key=lambda key_id: key_id == caller):
                await client.revoke_key(workspace, key_id)
                ended.append(f"revoked {key_id}  {printable(known[key_id]['name'])}\n")
        finally:
            write("".join(ended).encode())
    missing = [key_id for key_id in ids if key_id not in known]
    if missing:
        raise Failure(
            f"{workspace} has no key {', '.join(missing)}", hint=f"Those it has: streamer keys list {workspace}"
        )


async def _confirmed(keys: Iterable[Mapping[str, Any]]) -> bool:
    return await agreed(
        f"{table([*keys], _COLUMNS, sys.stderr)}Revoke them? Programs that use them stop working at once."
    )
