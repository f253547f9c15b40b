"""`streamer whoami`: show the identity and permissions of the key."""

import sys
from collections.abc import Mapping
from typing import Any, Literal

import click
import orjson

from streamer.cli.listing import Columns, actor_of, expiry_in_full, facts, table, write
from streamer.cli.remote import connection, open_client, run
from streamer.cli.screen import for_people
from streamer.client import Client

_COLUMNS: Columns = {
    "WORKSPACE": lambda row: "* (every workspace)" if row["workspace"] == "*" else row["workspace"],
    "ROLE": lambda row: row["role"],
    "SCOPES": lambda row: ", ".join(row["scopes"]),
}


@click.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), help="[default: table on a terminal, else json]")
@connection
def command(*, output: Literal["table", "json"] | None, url: str, key: str | None) -> None:
    """Show the key's identity, permissions and expiry; never the key itself.

    \b
    streamer whoami
    streamer whoami -o json | jq .grants

    A role adds its scopes to the granted ones. * is every workspace.
    """
    run(_whoami(open_client(url, key), url, output or ("table" if for_people(sys.stdout) else "json")))


async def _whoami(client: Client, url: str, output: Literal["table", "json"]) -> None:
    async with client:
        caller = await client.session()
    write(orjson.dumps(caller) + b"\n" if output == "json" else _described(caller, url).encode())


def _described(caller: Mapping[str, Any], url: str) -> str:
    about = {"server": url, "id": caller["id"], "name": caller["name"]}
    about["actor"] = actor_of(caller) or "any that it claims"
    about["expires"] = expiry_in_full(caller["expires_at"])
    grants, roles = caller["grants"], caller["roles"]
    rows = [
        {"workspace": workspace, "role": roles.get(workspace, ""), "scopes": grants.get(workspace, [])}
        for workspace in sorted({*grants, *roles})
    ]
    may = table(rows, _COLUMNS, sys.stdout) if rows else "No grants and no memberships: nothing is permitted.\n"
    return f"{facts(about)}\n{may}"
