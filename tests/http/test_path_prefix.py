"""The server behind a proxy path: the page, its session and stream, and all URLs in responses."""

from typing import TYPE_CHECKING

import aiohttp
import pytest
from playwright.async_api import expect

from streamer.settings import Settings, SettingsError, load
from tests.conftest import MakeServer
from tests.support.api import Api
from tests.support.nginx import Nginx
from tests.support.tokens import SECRET, person
from tests.support.waiting import SECONDS

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
PREFIX = "/streamer"


async def test_the_page_under_a_path(
    make_server: MakeServer, http: aiohttp.ClientSession, nginx: Nginx, browser: "Browser"
) -> None:
    """Through nginx configured as in docs/deploy.md, a browser can sign in, read, follow and sign out."""
    public = f"{nginx.url}{PREFIX}"
    server = await make_server(public_url=public, jwt_secret=SECRET)
    await nginx.start(server.url, path=PREFIX)
    api = Api(http, server.url, "sk_admin_of_the_tests_0123456789")
    (await api.append("w", description="the first")).expect(201)
    profile = await browser.new_context(ignore_https_errors=True)
    page = await profile.new_page()
    expect.set_options(timeout=SECONDS * 1000)
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
    link = await server.sign_in_link()
    assert link.startswith(f"{public}/#sign-in=")
    await page.goto(link)
    await expect(page.locator("#feed .row")).to_have_count(1)
    (await api.append("w", description="the second")).expect(201)
    await expect(page.locator("#feed .row")).to_have_count(2)
    (cookie,) = await profile.cookies()
    assert (cookie["path"], cookie["secure"]) == (f"{PREFIX}/", True)
    assert failed == []
    await page.reload()
    await expect(page.locator("#feed .row")).to_have_count(2)
    await page.locator("#sign-out").click()
    await expect(page.locator("#door")).to_be_visible()
    assert await profile.cookies() == []


async def test_what_answers_lead_to(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """`Link`, redirects and OpenAPI's `servers` start with the public URL, or without one with the server's own."""
    plain = Api(http, (await make_server(jwt_secret=SECRET)).url, "sk_admin_of_the_tests_0123456789")
    under = plain.at((await make_server(jwt_secret=SECRET, public_url="https://example.com/streamer/")).url)
    for _ in range(3):
        (await plain.append("w", actor={"type": "user", "id": "ann"})).expect(201)
    paths = ("/v1/workspaces/w/events", "/api/v1/workspaces/w/activity", "/api/companies/w/activity")
    for path in (*paths, "/api/v1/users/me/activity"):
        caller = (person(plain, "ann", grants={"w": ["workspace:read"]}), person(under, "ann", grants={"w": ["workspace:read"]}))  # fmt: skip
        assert (await caller[0].get(path, limit=1)).headers["Link"].startswith(f"<{path}?")
        assert (await caller[1].get(path, limit=1)).headers["Link"].startswith(f"<{PREFIX}{path}?")
    slash = "/api/v1/workspaces/w/activity/"
    assert (await under.get(slash)).headers["Location"] == PREFIX + slash.rstrip("/")
    assert (await plain.get(slash)).headers["Location"] == slash.rstrip("/")
    assert (await under.get("/openapi.json")).json["servers"] == [{"url": "https://example.com/streamer"}]
    assert "servers" not in (await plain.get("/openapi.json")).json


@pytest.mark.usefixtures("database_url")
def test_public_urls() -> None:
    """A public URL is http(s) with a host and an optional path. Anything else stops the start."""
    assert Settings(public_url="https://example.com/a/b/").public_path == "/a/b"
    assert Settings(public_url="http://example.com:8443").public_path == Settings().public_path == ""
    for wrong in (
        "example.com/x",
        "ftp://example.com",
        "https://",
        "https://a@b/",
        "https://a/x?y",
        "https://a/x y",
        "https://a/\r\nx",
    ):
        with pytest.raises(SettingsError):
            load({}, {"STREAMER_PUBLIC_URL": wrong})
