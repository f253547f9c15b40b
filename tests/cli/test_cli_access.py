"""`streamer keys`, `members` and `whoami` as users run them: processes, pipes, terminals and exit codes."""

import asyncio
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from streamer.app import Server
from streamer.cli.when import expiry_of, until
from streamer.client import Client, Timing, Unreachable
from streamer.store.engine.database import Database
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Api
from tests.support.cli import Cli
from tests.support.databases import sqlite_url
from tests.support.keys import store_key
from tests.support.process import free_port
from tests.support.proxy import proxy_to
from tests.support.scripted import scripted
from tests.support.tools import ROOT
from tests.support.waiting import SECONDS, eventually

KEYS = "/v1/workspaces/my/keys"
MEMBERS = "/v1/workspaces/my/members"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only, because the commands never see it."""
    return sqlite_url(tmp_path)


@pytest.fixture(autouse=True)
async def my(api: Api) -> None:
    """Create a workspace."""
    (await api.append("my")).expect(201)


async def keys_of(api: Api) -> list[dict[str, Any]]:
    """Return the workspace's keys in order of creation."""
    keys = (await api.get(KEYS)).expect(200)["keys"]
    return sorted(keys, key=lambda key: (key["created_at"], key["id"]))


def in_seconds(moment: str | None) -> float:
    """Return the seconds until a timestamp."""
    assert moment is not None
    return (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()


# ---- keys create


async def test_the_secret_alone_goes_to_stdout(cli: Cli, api: Api) -> None:
    """`KEY=$(streamer keys create …)` captures a working key and nothing else. The description goes to stderr."""
    scopes = ["--scope", "workspace:read", "--scope", "workspace:write"]
    actor = ["--actor-type", "agent", "--actor-id", "bob"]
    ended = await cli("keys", "create", "my", "--name", "Bob\x1b[31m", *scopes, *actor, "--expires", "30d")
    (secret,) = ended.lines
    (key,) = await keys_of(api)
    assert ended.code == 0
    assert ended.out == secret + "\n"
    assert key["scopes"] == ["workspace:read", "workspace:write"]
    assert key["actor"] == {"type": "agent", "id": "bob"}
    assert 29.9 < in_seconds(key["expires_at"]) / 86400 <= 30
    assert [line.split(maxsplit=1)[0] for line in ended.err.splitlines()] == [
        "id",
        "name",
        "scopes",
        "actor",
        "expires",
        "The",
    ]
    assert key["id"] in ended.err
    assert "(in 30 d)" in ended.err
    assert "only once" in ended.err
    assert secret not in ended.err
    assert ended.err.replace("\n", "").isprintable()
    stored = (await api.with_key(secret).append("my", actor=None)).expect(201)
    assert stored["actor"]["id"] == "bob"


async def test_a_key_as_json(cli: Cli, api: Api) -> None:
    """`-o json` prints the server's whole response, including the secret, and nothing else."""
    ended = await cli("keys", "create", "my", "--name", "ci", "--template", "read_only", "-o", "json")
    made = json.loads(ended.out)
    assert (ended.code, ended.err) == (0, "")
    assert made.pop("key").startswith("sk_")
    assert [made] == await keys_of(api)
    assert (made["scopes"], made["expires_at"]) == (["audit:read", "workspace:read"], None)


async def test_a_secret_that_nobody_reads(cli: Cli, api: Api) -> None:
    """If the secret cannot be written, the command fails and names the key to revoke."""
    async with cli.started("keys", "create", "my", "--name", "ci", "--template", "read_only") as process:
        assert process.stdout is not None
        process.stdout._transport.close()  # type: ignore[attr-defined]
        async with asyncio.timeout(SECONDS):
            assert process.stderr is not None
            said = (await process.stderr.read()).decode()
            assert await process.wait() == 1
    (key,) = await keys_of(api)
    assert f"streamer keys revoke my {key['id']}" in said
    assert "Traceback" not in said


async def test_a_key_is_made_once(server: Server, cli: Cli, api: Api) -> None:
    """If the response is lost, the call is not repeated, and the error says how to find the key."""
    async with proxy_to(server.url) as proxy:
        proxy.cut_after = 1
        ended = await cli("keys", "create", "my", "--name", "ci", "--template", "read_only", "--url", proxy.url)
        assert proxy.connections == 1
    assert ended.code == 5
    assert "streamer keys list my" in ended.err
    assert len(await keys_of(api)) <= 1


# ---- keys list


async def test_keys_as_a_table(cli: Cli, api: Api, database: Database) -> None:
    """On a terminal, keys are a table of one line each, without secrets and without control characters."""
    secret = await api.create_key(
        "my", name="ci \x1b[31m", template="submit_observe", actor={"type": "user", "id": "ann"}
    )
    await store_key(database, "my", ["workspace:read"], expires_at=1)
    later = f"{datetime.now(UTC) + timedelta(hours=5):%Y-%m-%dT%H:%M:%SZ}"
    await api.create_key("my", name="soon", scopes=["admin"], expires_at=later)
    async with cli.on_terminal("keys", "list", "my") as terminal:
        assert await terminal.ended() == 0
    lines = terminal.shown.splitlines()
    assert len(lines) == 4
    assert all(word in lines[0] for word in ("ID", "NAME", "SCOPES", "ACTOR", "CREATED", "EXPIRES"))
    first, second, third = sorted(lines[1:], key=lambda line: ["expired" in line, "in 5 h" in line])
    for text in (" ci \ufffd[31m ", "audit:read, workspace:read, workspace:write", "user ann", " never"):
        assert text in first
    assert " in 5 h" in second
    assert " expired" in third
    assert all(key["id"] in terminal.shown for key in await keys_of(api))
    assert secret not in terminal.shown


async def test_keys_for_programs(cli: Cli, api: Api) -> None:
    """In a pipe, keys are JSON lines as the server returns them. `-o` selects the format."""
    for name in ("one", "two"):
        await api.create_key("my", name=name)
    keys = await keys_of(api)
    assert [json.loads(line) for line in (await cli("keys", "list", "my")).lines] == keys
    assert json.loads((await cli("keys", "list", "my", "-o", "json")).out) == keys
    table = (await cli("keys", "list", "my", "-o", "table")).lines
    assert [line.split()[:2] for line in table] == [["ID", "NAME"], *([key["id"], key["name"]] for key in keys)]


# ---- keys revoke


async def test_revoke_keys(cli: Cli, api: Api) -> None:
    """Without a terminal, nothing is asked. Existing keys are revoked, and a missing one is an error with the next step."""
    secret = await api.create_key("my", name="one")
    await api.create_key("my", name="two")
    one, two = (key["id"] for key in await keys_of(api))
    ended = await cli("keys", "revoke", "my", one, "key_0", two, one)
    assert (ended.code, ended.lines) == (1, [f"revoked {one}  one", f"revoked {two}  two"])
    assert "my has no key key_0\n" in ended.err
    assert "streamer keys list my" in ended.err
    assert await keys_of(api) == []
    assert (await api.with_key(secret).get("/v1/session")).status == 401


async def test_revoke_the_calling_key(cli: Cli, api: Api) -> None:
    """The calling key can revoke itself together with others. It is revoked last, wherever it is named."""
    cli.variables["STREAMER_KEY"] = await api.create_key("my", name="own", scopes=["admin"])
    for name in ("one", "two"):
        await api.create_key("my", name=name)
    own, one, two = (key["id"] for key in await keys_of(api))
    ended = await cli("keys", "revoke", "my", own, one, two)
    assert (ended.code, ended.err) == (0, "")
    assert ended.lines == [f"revoked {one}  one", f"revoked {two}  two", f"revoked {own}  own"]
    assert await keys_of(api) == []


@pytest.mark.parametrize(
    ("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 1), ("\n", 1, 1), ("\x04", 1, 1), ("\x03", 130, 1)]
)
async def test_revoke_asks_on_a_terminal(cli: Cli, api: Api, answer: str, code: int, left: int) -> None:
    """On a terminal, the command shows the keys and asks. Only a yes revokes them, and Ctrl-C interrupts the command."""
    await api.create_key("my", name="of the robot")
    (key,) = await keys_of(api)
    async with cli.on_terminal("keys", "revoke", "my", key["id"]) as terminal:
        await eventually(lambda: "[y/N]" in terminal.shown)
        assert "of the robot" in terminal.shown
        assert len(await keys_of(api)) == 1
        terminal.type(answer)
        assert await terminal.ended() == code
    assert ("revoked key_" in terminal.shown) == (left == 0)
    assert len(await keys_of(api)) == left


@pytest.mark.parametrize(("flag", "variable"), [("--yes", "NOTHING"), ("--url", "AI_AGENT")])
async def test_nobody_is_asked(server: Server, cli: Cli, api: Api, flag: str, variable: str) -> None:
    """`--yes` suppresses the question, and AI agents are never asked, even on a terminal."""
    await api.create_key("my")
    (key,) = await keys_of(api)
    cli.variables[variable] = "1"
    options = [flag] if flag == "--yes" else [flag, server.url]
    async with cli.on_terminal("keys", "revoke", "my", key["id"], *options) as terminal:
        assert await terminal.ended() == 0
    assert "[y/N]" not in terminal.shown
    assert await keys_of(api) == []


# ---- members


async def test_members_of_any_name(cli: Cli, api: Api) -> None:
    """Members are added, changed, listed and removed, whatever characters their ids contain."""
    users = ["a/b", "ann@example.com", "auth0|12", "ä ?#%2F&+"]
    for user in users:
        assert (await cli("members", "set", "my", user, "--role", "viewer")).out == f"{user} is now viewer in my\n"
    assert (await cli("members", "set", "my", "a/b", "--role", "owner")).code == 0
    listed = [json.loads(line) for line in (await cli("members", "list", "my")).lines]
    assert [(member["user"], member["role"]) for member in listed] == [
        (user, "owner" if user == "a/b" else "viewer") for user in users
    ]
    assert (await cli("members", "remove", "my", users[-1])).out == f"{users[-1]} is no longer a member of my\n"
    again = await cli("members", "remove", "my", users[-1])
    assert again.code == 1
    assert "streamer members list my" in again.err
    assert [member["user"] for member in (await api.get(MEMBERS)).expect(200)["members"]] == users[:-1]


async def test_members_on_a_terminal(cli: Cli, api: Api) -> None:
    """On a terminal, members are a table, an empty list is explained, and a removal is confirmed first."""
    async with cli.on_terminal("members", "list", "my") as terminal:
        assert await terminal.ended() == 0
    assert "my has no members" in terminal.shown
    (await api.put(f"{MEMBERS}/ann", {"role": "member"})).expect(201)
    async with cli.on_terminal("members", "list", "my") as terminal:
        assert await terminal.ended() == 0
    heading, line = terminal.shown.splitlines()
    assert "USER" in heading
    assert line.split()[:2] == ["ann", "member"]
    for answer, code in (("no", 1), ("yes", 0)):
        async with cli.on_terminal("members", "remove", "my", "ann") as terminal:
            await eventually(lambda: "Remove ann from my" in terminal.shown)
            terminal.type(answer + "\n")
            assert await terminal.ended() == code
    assert (await api.get(MEMBERS)).expect(200)["members"] == []


async def test_all_pages_of_members(make_server: MakeServer, cli: Cli) -> None:
    """A list of several pages is printed completely, with each member once."""
    server = await make_server(max_page_events=2)
    users = ["a&limit=1", "b+ c", "c/d", "d%", "é"]
    async with Client(server.url, ADMIN_KEY) as client:
        for user in reversed(users):
            assert (await client.put_member("my", user, "viewer"))["user"] == user
        assert [member["user"] async for member in client.members("my")] == users
    ended = await cli("members", "list", "my", "-o", "json", "--url", server.url)
    assert [member["user"] for member in json.loads(ended.out)] == users


# ---- whoami


async def test_whoami(server: Server, cli: Cli, api: Api) -> None:
    """People see the server, the caller, the grants and the expiry; programs get the response. The key is never printed."""
    cli.variables["STREAMER_KEY"] = secret = await api.create_key(
        "my", name="robot", scopes=["workspace:read", "audit:read"], actor={"type": "agent", "id": "bob"},
        expires_at="2999-01-01T12:00:00Z",
    )  # fmt: skip
    async with cli.on_terminal("whoami") as terminal:
        assert await terminal.ended() == 0
    lines = terminal.shown.splitlines()
    (key,) = await keys_of(api)
    found = dict(line.split(maxsplit=1) for line in lines[:5])
    assert found | {"expires": ""} == {
        "server": server.url, "id": key["id"], "name": "robot", "actor": "agent bob", "expires": ""
    }  # fmt: skip
    assert found["expires"].startswith(("2999-01-01", "2999-01-02"))
    assert lines[-1].split(maxsplit=1) == ["my", "audit:read, workspace:read"]
    piped = await cli("whoami")
    assert json.loads(piped.out) == (await api.with_key(secret).get("/v1/session")).expect(200)
    assert secret not in terminal.shown + piped.out + piped.err


async def test_whoami_of_the_admin(cli: Cli) -> None:
    """The grant for every workspace is put in words."""
    ended = await cli("whoami", "-o", "table")
    assert "expires  never\n" in ended.out
    assert ended.lines[-1].split("  ")[0] == "* (every workspace)"
    assert ended.lines[-1].endswith("  admin")


async def test_whoami_with_roles(cli: Cli) -> None:
    """Memberships are listed with their roles, next to the grants."""

    async def session(_request: web.Request) -> web.Response:
        about = {"id": "user:ann", "name": "Ann", "actor": {"type": "user", "id": "ann"}, "expires_at": None}
        return web.json_response({**about, "grants": {"one": ["admin"]}, "roles": {"one": "viewer", "two": "owner"}})

    async with scripted(session) as url:
        ended = await cli("whoami", "-o", "table", "--url", url)
    assert [line.split() for line in ended.lines[-2:]] == [["one", "viewer", "admin"], ["two", "owner"]]


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ("keys", 2, "revoke"),
        ("keys make", 2, "make"),
        ("keys create my --template read_only", 2, "--name"),
        ("keys create my --name ci", 2, "streamer keys create my --name ci --template read_only"),
        ("keys create my --name ci --scope admin --template read_only", 2, "not by both"),
        ("keys create my --name ci --scope everything", 2, "workspace:read"),
        ("keys create my --name= --scope admin", 1, "--name: must not be empty"),
        ("keys create my --name ci --scope admin --actor-id bob", 2, "--actor-type"),
        ("keys create my --name ci --scope admin --expires soon", 2, "such as 12h or 30d"),
        ("keys create my --name ci --scope admin --expires 2020-01-01", 1, "--expires: must lie in the future"),
        ("keys create my --name ci --scope admin --actor-type a --actor-id LONG", 1, "--actor-id: "),
        ("keys create other --name ci --scope admin", 1, "no workspace other"),
        ("keys list my --key READER", 4, "this needs the scope admin"),
        ("keys list my --key sk_wrong", 4, "STREAMER_KEY"),
        ("keys list my --url http://127.0.0.1:NOBODY", 5, "Is the server running?"),
        ("keys revoke my", 2, "ID"),
        ("members set my ann", 2, "--role"),
        ("members set my ann --role king", 2, "viewer"),
        ("members set my LONG --role viewer", 1, "USER: 1-512 characters"),
        ("members set my ann --role owner --key MANAGER", 4, "only an owner can add"),
        ("members remove my ann --key READER", 4, "streamer whoami"),
        ("whoami --key sk_wrong", 4, "Give a valid key"),
    ],
)
async def test_exit_codes(cli: Cli, api: Api, arguments: str, code: int, text: str) -> None:
    """Each failure has its exit code and names the next step in terms of the command line."""
    for name, scope in (("READER", "workspace:read"), ("MANAGER", "admin")):
        if name in arguments:
            arguments = arguments.replace(name, await api.create_key("my", scopes=[scope]))
    ended = await cli(*arguments.replace("NOBODY", str(free_port())).replace("LONG", "x" * 513).split())
    assert (ended.code, ended.out) == (code, ""), ended.err
    assert text in ended.err


@pytest.mark.parametrize("command", ["whoami", "tail my", "publish my", "keys list my", "members list my"])
async def test_a_password_in_the_url(server: Server, cli: Cli, command: str) -> None:
    """A URL with a user or password, or an invalid one, is a usage error. It says where the key goes and hides the password."""
    del cli.variables["STREAMER_KEY"]
    with_password = server.url.replace("//", "//ann:hunter2@")
    for url in (with_password, with_password.removeprefix("http://"), "http://ann:hunter2@h\u2100st"):
        cli.variables["STREAMER_URL"] = url
        for key in ([], ["--key", ADMIN_KEY]):
            ended = await cli(*command.split(), *key)
            assert (ended.code, ended.out) == (2, ""), ended.err
            assert "the key goes into --key or STREAMER_KEY" in ended.err
            assert "hunter2" not in ended.err


async def test_the_last_owner(cli: Cli) -> None:
    """The last owner of a workspace cannot be removed. The error says what to do first."""

    async def refuse(_request: web.Request) -> web.Response:
        return web.json_response({"error": {"code": "last_owner", "message": "without an owner"}}, status=409)

    async with scripted(refuse) as url:
        ended = await cli("members", "remove", "my", "ann", "--url", url)
    assert ended.code == 1
    assert "without an owner\nstreamer members set my USER --role owner" in ended.err


async def test_an_empty_user_is_no_member(cli: Cli, api: Api) -> None:
    """An empty variable as the user removes nobody."""
    assert (await cli("members", "remove", "my", "")).code == 2
    assert (await api.get(MEMBERS)).status == 200


async def test_ctrl_c(cli: Cli) -> None:
    """Ctrl-C ends a slow call with exit code 130 and without output."""
    called, never = asyncio.Event(), asyncio.Event()

    async def wait(_request: web.Request) -> web.Response:
        called.set()
        await never.wait()
        return web.Response()

    async with scripted(wait) as url, cli.started("whoami", "--url", url) as process:
        async with asyncio.timeout(SECONDS):
            await called.wait()
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
        never.set()
    assert (process.returncode, out, err) == (130, b"", b"")


async def test_a_revocation_is_asked_once() -> None:
    """A revocation is never retried, because a second attempt could not tell what the first one did."""
    calls: list[str] = []

    async def busy(request: web.Request) -> web.Response:
        calls.append(request.method)
        if request.method == "DELETE":
            assert request.transport is not None
            request.transport.abort()
        return web.Response()

    async with (
        scripted(busy) as url,
        Client(url, "sk_x", timing=Timing(unit=0.001, connect=10_000, silence=15_000)) as client,
    ):
        for calling in (client.revoke_key("my", "key_1"), client.remove_member("my", "ann")):
            with pytest.raises(Unreachable):
                await calling
    assert calls == ["DELETE", "DELETE"]


# ---- details


def test_a_group_is_loaded_when_it_runs() -> None:
    """The help of the command line imports no module of its command groups."""
    code = (
        "import sys; from streamer.cli import main; main(['--help'], standalone_mode=False);"
        "assert not {'streamer.cli.keys', 'streamer.cli.members', 'aiohttp'} & sys.modules.keys()"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "members" in shown


def test_when_a_key_ends() -> None:
    """A span counts from now and a time is absolute. Invalid values are refused, and values too far away become the latest time."""
    assert 0 <= 30 * 86400 - in_seconds(expiry_of("30d")) < 60
    assert expiry_of("2027-01-01T00:00:00Z") == "2027-01-01T00:00:00.000000Z"
    assert expiry_of("99999999w") == "9999-12-31T23:59:59.999999Z"
    assert expiry_of("tomorrow") is expiry_of("") is None
    assert until(expiry_of("30d")) == "in 30 d"
    assert until(expiry_of("1h")) == "in 1 h"
    assert until(expiry_of("100m")) == "in 2 h"
    assert until("2020-01-01T00:00:00.000000Z") == "expired"
    assert until(None) == "never"
