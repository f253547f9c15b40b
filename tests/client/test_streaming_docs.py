"""The examples of docs/streaming.md and docs/deploy.md are correct. test_real_clients.py runs the programs."""

import configparser
import re
from typing import TYPE_CHECKING

import pytest

from streamer.app import Server
from streamer.settings import PREFIX, Settings
from tests.support.api import Api
from tests.support.consumers import HELPERS, RUNTIMES
from tests.support.nginx import Nginx
from tests.support.snippets import snippets
from tests.support.tools import ROOT

if TYPE_CHECKING:
    from playwright.async_api import Browser

DEPLOY = (ROOT / "docs" / "deploy.md").read_text()


def test_every_program_is_run() -> None:
    """Each code block of docs/streaming.md is one of the tested programs or part of one."""
    assert set(snippets()) == {*HELPERS, *(name for names in RUNTIMES.values() for name in names)}


def test_the_proxy_waits_longer_than_the_server() -> None:
    """The limits of nginx exceed the server's: timeouts, the longest poll and the largest body."""
    settings = {name: field.default for name, field in Settings.model_fields.items()}
    (seconds,) = re.findall(r"proxy_read_timeout (\d+)s;", DEPLOY)
    assert int(seconds) > max(settings["heartbeat_seconds"], settings["max_wait_seconds"])
    (mebibytes,) = re.findall(r"client_max_body_size (\d+)m;", DEPLOY)
    assert int(mebibytes) * 2**20 > settings["max_body_bytes"]


def test_the_unit_leaves_time_to_drain() -> None:
    """The systemd unit uses existing settings and allows enough time for the drain."""
    found = re.search(r"```ini\n(.*?)```", DEPLOY, re.DOTALL)
    assert found
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(found[1])
    service = unit["Service"]
    assert int(service["TimeoutStopSec"]) > Settings.model_fields["drain_seconds"].default
    assert service["Environment"].partition("=")[0].removeprefix(PREFIX).lower() in Settings.model_fields


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_page_behind_nginx(server: Server, api: Api, nginx: Nginx, browser: "Browser") -> None:
    """Over TLS and HTTP/2, sign-in, the secure cookie, the live stream and signing out work."""
    (await api.append("my")).expect(201)
    await nginx.start(server.url)
    context = await browser.new_context(ignore_https_errors=True)
    page = await context.new_page()
    await page.goto((await server.sign_in_link()).replace(server.url, nginx.url))
    await page.locator("#state", has_text="Live").wait_for()
    (cookie,) = await context.cookies()
    assert cookie["secure"]
    assert await page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol") == "h2"
    assert await page.evaluate("fetch('/v1/session', { method: 'DELETE' }).then(({ status }) => status)") == 204
