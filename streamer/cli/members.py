"""`streamer members`: manage members and roles."""

import click

from streamer.access.principal import ROLES
from streamer.cli.listing import Columns, Output, output_of_list, show
from streamer.cli.pretty import printable
from streamer.cli.remote import Failure, connection, failure, open_client, run
from streamer.cli.stdin import agreed
from streamer.cli.values import not_empty, workspace_argument
from streamer.cli.when import local
from streamer.client import ApiError, Client, ClientError

_COLUMNS: Columns = {
    "USER": lambda member: member["user"],
    "ROLE": lambda member: member["role"],
    "ADDED": lambda member: local(member["added_at"]),
    "BY": lambda member: member["added_by"],
}
_ARGUMENTS = {"user": "USER", "role": "--role"}
"""The arguments and options for a member's fields."""


@click.group()
def command() -> None:
    """Manage the members of a workspace and their roles.

    \b
    streamer members set my ann@example.com --role member
    streamer members list my
    streamer members remove my ann@example.com

    A person is the sub of their tokens. A viewer reads; a member also writes; an admin also manages members and keys and
    reads audit events; an owner also appoints owners and deletes the workspace.
    """


@command.command("set")
@workspace_argument
@click.argument("user", callback=not_empty)
@click.option("--role", type=click.Choice(list(ROLES)), required=True, help="The person's role.")
@connection
def set_(*, workspace: str, user: str, role: str, url: str, key: str | None) -> None:
    """Add a person to a workspace, or change their role.

    \b
    streamer members set my ann@example.com --role admin
    streamer members set my 'auth0|12' --role viewer

    Only an owner can appoint owners and change their role. A changed role closes the person's streams; their clients reconnect.
    """
    run(_set(open_client(url, key), workspace, user, role), workspace=workspace)


async def _set(client: Client, workspace: str, user: str, role: str) -> None:
    async with client:
        try:
            member = await client.put_member(workspace, user, role)
        except ClientError as error:
            raise failure(error, workspace, name=lambda path: _ARGUMENTS.get(path, path)) from None
    click.echo(f"{printable(member['user'])} is now {member['role']} in {workspace}")


@command.command("list")
@workspace_argument
@output_of_list
@connection
def list_(*, workspace: str, output: Output | None, url: str, key: str | None) -> None:
    """List a workspace's members, ordered by id.

    \b
    streamer members list my
    streamer members list my | jq -r 'select(.role == "owner") | .user'
    """
    run(_list(open_client(url, key), workspace, output), workspace=workspace)


async def _list(client: Client, workspace: str, output: Output | None) -> None:
    async with client:
        members = [member async for member in client.members(workspace)]
    show(members, output, _COLUMNS, none=f"{workspace} has no members: streamer members set --help")


@command.command()
@workspace_argument
@click.argument("user", callback=not_empty)
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation. Without a terminal it never asks.")
@connection
def remove(*, workspace: str, user: str, yes: bool, url: str, key: str | None) -> None:
    """Remove a person from a workspace, close their streams, and revoke the keys that act as them there.

    \b
    streamer members remove my ann@example.com
    """
    run(_remove(open_client(url, key), workspace, user, yes=yes), workspace=workspace)


async def _remove(client: Client, workspace: str, user: str, *, yes: bool) -> None:
    if not yes and not await agreed(
        f"Remove {printable(user)} from {workspace}, and revoke the keys that act as them there?"
    ):
        raise Failure("nobody was removed")
    async with client:
        try:
            await client.remove_member(workspace, user)
        except ApiError as error:
            failed = failure(error, workspace, name=lambda path: _ARGUMENTS.get(path, path))
            if error.code == "not_found":
                failed.hint = f"Those it has: streamer members list {workspace}"
            raise failed from None
    click.echo(f"{printable(user)} is no longer a member of {workspace}")
