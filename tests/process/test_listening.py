"""The values of `STREAMER_HOST`, the addresses that a start prints, and a failed bind, which changes nothing."""

import re
import socket
from pathlib import Path

import aiohttp
import pytest

from streamer.server.listening import bind, urls
from tests.conftest import MakeProcess
from tests.support.cli import Cli
from tests.support.databases import sqlite_url
from tests.support.waiting import SECONDS


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only."""
    return sqlite_url(tmp_path)


async def test_a_port_in_use_changes_nothing(make_process: MakeProcess, tmp_path: Path) -> None:
    """A second server that cannot bind its port creates no folder, no database and no key."""
    server = make_process()
    await server.start()
    variables = {"STREAMER_PORT": str(server.port), "STREAMER_DATA_DIR": str(tmp_path / "new")}
    ended = await Cli(tmp_path, variables)("serve")
    assert (ended.code, ended.err) == (
        1,
        f"Error: cannot start on 127.0.0.1:{server.port}: Address already in use\n",
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1"]),
        ("::", ["127.0.0.1"]),
        ("[::]", ["127.0.0.1"]),
        ("::1", ["[::1]"]),
        ("::ffff:127.0.0.1", ["[::ffff:127.0.0.1]"]),
    ],
)
async def test_addresses(host: str, shown: list[str]) -> None:
    """Every printed address works, even with a port that the system chose."""
    if ":" in host and not has_ipv6():
        pytest.skip("no IPv6 here")
    sockets = await bind(host, 0)
    try:
        port = sockets[0].getsockname()[1]
        assert urls(host, sockets) == [f"http://{address}:{port}" for address in shown]
        for made in sockets:
            made.listen()
        for address in [*shown, *(["[::1]"] if host == "::" else [])]:
            with socket.create_connection((address.strip("[]"), port), timeout=SECONDS):
                pass
    finally:
        for made in sockets:
            made.close()


def has_ipv6() -> bool:
    """Check whether this machine has an IPv6 address of its own."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


async def test_a_name(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """A name is bound on all its addresses, on one port. The start prints each, and each responds."""
    server = make_process(host="localhost")
    await server.start()
    (line,) = [line for line in server.log.splitlines() if line.startswith("streamer listens on ")]
    found = re.findall(r"http://[^ ,)]+", line)
    assert found[0] == f"http://localhost:{server.port}"
    assert f"http://127.0.0.1:{server.port}" in found[1:]
    for url in found:
        async with http.get(f"{url}/livez") as answer:
            assert answer.status == 200
    assert await server.stop() == 0


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "192.0.2.1", "x" * 300])
async def test_a_host_that_is_not_here(host: str) -> None:
    """A host that cannot be bound is a system error that names the address."""
    with pytest.raises(OSError, match=r".+") as caught:
        await bind(host, 8080)
    assert caught.value.filename == f"{host!r}:8080" if "." * 2 in host or len(host) > 255 else f"{host}:8080"
