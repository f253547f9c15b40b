"""Names in the log that JavaScript objects define, too, are plain text on the page."""

from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from streamer.app import Server
from tests.support.api import Api
from tests.support.waiting import SECONDS

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
NAMES = ("toString", "__proto__", "constructor", "hasOwnProperty", "valueOf")


async def test_names_that_javascript_knows(api: Api, server: Server, browser: "Browser") -> None:
    """Types, actions, ids and fields with the names of JavaScript object properties are displayed unchanged."""
    for name in NAMES:
        event = {"actor": {"type": name, "id": name}, "entity": {"type": name, "id": name}, "details": {name: name}}
        (await api.append("w", id=name, action=name, changes={name: {"from": name, "to": 1}}, **event)).expect(201)
    page = await browser.new_page()
    expect.set_options(timeout=SECONDS * 1000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    await page.goto(await server.sign_in_link())
    rows = page.locator("#feed .row")
    await expect(rows).to_have_count(len(NAMES))
    for row, name in zip(await rows.all(), reversed(NAMES), strict=True):
        actor = row.locator(".actor")
        assert await actor.get_attribute("data-kind") == "other"
        assert await actor.get_attribute("title") == f"{name} ({name})"
        assert await actor.locator(".unseen").text_content() == f"{name} "
        assert await row.locator(".entity").text_content() == f"{name} {name}"
        await row.locator(".seq").click()
        shown = page.locator("#detail dd")
        await expect(shown.get_by_text(f"{name} {name}", exact=True).first).to_be_visible()
        await expect(page.locator("#detail table tbody td").first).to_have_text(name)
        assert f'"{name}": "{name}"' in str(await page.locator("#detail pre").text_content())
        assert "native code" not in await page.locator("body").inner_text()
        await page.locator("#close").click()
    assert errors == []
