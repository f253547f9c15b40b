"""The page in a real browser: sign-in, history and live events, pauses and outages without loss, and accessibility."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import aiohttp
import pytest
from playwright.async_api import expect

from streamer.app import Server, running
from streamer.feed.reasons import Reason
from streamer.settings import Settings
from tests.conftest import ADMIN_KEY
from tests.support.api import Api
from tests.support.waiting import SECONDS, eventually

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page, Route

KEEP = 2000
"""The number of rows that the page keeps."""

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""The page does not depend on the server's database."""

Open = Callable[..., Awaitable["Page"]]


@pytest.fixture
async def open_page(browser: "Browser") -> AsyncIterator[Open]:
    """Open a page in a fresh browser profile. Errors and CSP violations in the browser's console fail the test."""
    complaints: list[str] = []

    async def open_at(url: str, **context: Any) -> "Page":
        profile = await browser.new_context(
            **({"timezone_id": "Europe/Berlin", "viewport": {"width": 1280, "height": 800}} | context)
        )
        page = await profile.new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        # The browser always reports a failed request. Whether it was expected is for the test to check.
        page.on("console", lambda m: None if m.text.startswith("Failed to load") else complaints.append(m.text))
        await page.goto(url)
        return page

    yield open_at
    assert complaints == []


class Screen:
    """The page as a person sees and operates it."""

    def __init__(self, page: "Page") -> None:
        self.page = page

    async def seqs(self) -> list[int]:
        """Return the rows' seqs, from top to bottom."""
        texts = await self.page.locator(".seq").all_text_contents()
        return [int(text.replace(",", "")) for text in texts]

    async def shows(self, seqs: Sequence[int]) -> None:
        """Wait until the page shows exactly these rows."""

        async def same() -> bool:
            shown = await self.seqs()
            assert shown == list(seqs), f"{len(shown)} rows, the first {shown[:5]}"
            return True

        await eventually(same)

    async def state(self, text: str) -> None:
        """Wait until the status pill shows this text."""
        await self.page.locator("#state", has_text=text).wait_for()

    async def counts(self, text: str) -> None:
        """Wait until the button above the list shows this number of new events."""
        await self.page.locator("#fresh", has_text=text).wait_for()

    async def sees(self, text: str) -> None:
        """Wait until a text is visible."""
        await self.page.get_by_text(text).filter(visible=True).first.wait_for()

    async def listen(self) -> None:
        """Start to collect screen reader announcements, which `heard` returns."""
        await self.page.evaluate(
            """() => {
                window.heard = [];
                const region = document.querySelector("[role=status]");
                new MutationObserver(() => window.heard.push(region.textContent))
                    .observe(region, { childList: true, characterData: true, subtree: true });
            }"""
        )

    async def heard(self) -> list[str]:
        """Return the screen reader announcements."""
        found: list[str] = await self.page.evaluate("window.heard")
        return found

    async def focused(self) -> str:
        """Return the id of the focused element, or its row's seq."""
        found: str = await self.page.evaluate(
            "(document.activeElement.querySelector('.seq')?.textContent ?? document.activeElement.id)"
        )
        return found

    @property
    def query(self) -> dict[str, list[str]]:
        """Return the address's parameters."""
        return parse_qs(urlsplit(self.page.url).query)


async def signed_in(open_page: Open, server: Server, address: str = "", **context: Any) -> Screen:
    """Open the page, signed in."""
    link = await server.sign_in_link()
    return Screen(await open_page(link.replace("/#", f"/{address}#"), **context))


def numbered(count: int, **event: object) -> list[dict[str, object]]:
    """Return distinct events."""
    return [{"description": f"Ann did thing {number}", **event} for number in range(count)]


def down(first: int, last: int) -> list[int]:
    """Return the seqs from `first` down to `last`."""
    return list(range(first, last - 1, -1))


# ---- signing in


async def test_a_link_signs_in_once(open_page: Open, server: Server, api: Api) -> None:
    """A sign-in link disappears from the address and sets an HttpOnly cookie. A second use is refused with an explanation."""
    await api.append("demo")
    link = await server.sign_in_link()
    first = await open_page(link)
    await Screen(first).state("Live")
    assert "sign-in" not in first.url
    cookies = await first.context.cookies()
    assert [(c["httpOnly"], c["sameSite"]) for c in cookies] == [(True, "Strict")]
    assert await first.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]

    second = await open_page(link)
    await Screen(second).sees("This sign-in link was used before")
    assert "sign-in" not in second.url
    assert not await second.locator("#view").is_visible()

    # In a signed-in browser it does no harm, even when it is typed into the open page's address.
    await first.goto(link)
    await Screen(first).sees("You are still signed in")
    await Screen(first).state("Live")


async def test_without_a_session_the_page_says_how_to_get_one(open_page: Open, server: Server) -> None:
    """Without a session, the page explains where to get a link and shows nothing else. A link typed into its address works."""
    page = await open_page(f"{server.url}/?workspace=demo")
    await Screen(page).sees("This page needs a sign-in link")
    for part in ("#view", "#filters", "#controls"):
        assert not await page.locator(part).is_visible()
    code = (await server.sign_in_link()).partition("#")[2]
    await page.evaluate("hash => { location.hash = hash }", code)
    await page.locator("#view").wait_for()
    assert page.url == f"{server.url}/?workspace=demo"


async def test_signing_out_leaves_nothing(open_page: Open, server: Server, api: Api) -> None:
    """Signing out ends the session on the server and the stream, and clears the screen."""
    await api.append("demo", description="a secret matter")
    screen = await signed_in(open_page, server)
    await screen.shows([1])
    await screen.page.locator(".row").click()
    await screen.page.locator("#detail").wait_for()
    await screen.page.locator("#sign-out").click()
    await screen.sees("You are signed out")
    assert "a secret matter" not in await screen.page.locator("body").inner_html()
    assert await screen.page.context.cookies() == []
    await screen.page.reload()
    await screen.sees("This page needs a sign-in link")


async def test_signing_out_ends_the_other_tabs_stream(open_page: Open, server: Server, api: Api) -> None:
    """A second tab shares the session: it shows the end of the session at once, and does not reconnect."""
    await api.append("demo")
    first = await signed_in(open_page, server)
    await first.state("Live")
    second = Screen(await first.page.context.new_page())
    await second.page.goto(server.url)
    await second.state("Live")
    await first.page.locator("#sign-out").click()
    await first.sees("You are signed out")
    await second.sees("You signed out. Open a new sign-in link")
    await second.state("Offline")
    await second.page.reload()
    await second.sees("This page needs a sign-in link")


async def test_a_session_that_ended_leads_to_the_door(open_page: Open, server: Server, api: Api) -> None:
    """When the server no longer knows the session, the page says so instead of failing silently."""
    await api.append("demo")
    screen = await signed_in(open_page, server)
    await screen.shows([1])
    await screen.page.context.clear_cookies()
    await screen.page.locator(".row").click()
    await screen.sees("Your session has expired")


# ---- history and live


async def test_history_joins_live(open_page: Open, server: Server, api: Api) -> None:
    """The page shows the newest hundred events, newest first, in local time. New events appear at the top."""
    await api.append_all("demo", numbered(150))
    screen = await signed_in(open_page, server)
    await screen.shows(down(150, 51))
    await screen.state("Live")
    await api.append("demo", actor={"type": "agent", "id": "b", "name": "Bob"}, entity={"type": "issue", "id": "7"})
    await screen.shows(down(151, 51))
    row = screen.page.locator(".row").first
    assert await row.locator(".actor").text_content() == "agent Bob"
    await expect(row.locator(".entity")).to_have_text("issue 7")
    stored = (await api.history("demo", limit=1))[0]["timestamp"]
    assert await row.locator("time").get_attribute("datetime") == stored
    shown = await row.locator("time").text_content()
    berlin = datetime.fromisoformat(stored).astimezone(ZoneInfo("Europe/Berlin"))
    assert shown == berlin.isoformat(" ", "milliseconds").partition("+")[0]


async def test_older_events_come_page_by_page(open_page: Open, server: Server, api: Api) -> None:
    """The button below the list loads older events, each once, and disappears at the first event."""
    await api.append_all("demo", numbered(250))
    screen = await signed_in(open_page, server)
    for last in (51, 1):
        await screen.page.locator("#older").click()
        await screen.shows(down(250, last))
    await screen.sees("No older events.")
    assert not await screen.page.locator("#older").is_visible()


async def test_an_empty_workspace_shows_how_to_begin(open_page: Open, server: Server, api: Api) -> None:
    """Without an existing workspace, the page shows a command with the real address. The command's event appears."""
    screen = await signed_in(open_page, server)
    await screen.sees(f"curl {server.url}/v1/workspaces/my/events")
    await api.append("my")
    await screen.shows([1])
    assert screen.query == {"workspace": ["my"]}

    await screen.page.goto(f"{server.url}/?workspace=new")
    await screen.sees(f"curl {server.url}/v1/workspaces/new/events")
    await api.put("/v1/workspaces/new")
    await screen.sees("Nothing has happened here yet")
    await api.append("new")
    await screen.shows([1])

    await screen.page.goto(f"{server.url}/?workspace=$(reboot)")
    await screen.sees("There is no such workspace")
    assert not await screen.page.locator("#empty pre").is_visible()


async def test_the_workspace_is_in_the_address(open_page: Open, server: Server, api: Api) -> None:
    """Choosing a workspace changes the address, and Back returns."""
    await api.append("one", description="in one")
    await api.append_all("two", numbered(2))
    screen = await signed_in(open_page, server)
    await screen.shows([1])
    await screen.page.locator("#workspace").select_option("two")
    await screen.shows([2, 1])
    assert screen.query == {"workspace": ["two"]}
    await screen.page.go_back()
    await screen.sees("in one")
    assert await screen.page.locator("#workspace").input_value() == "one"


async def test_filters_hold_for_history_and_live(open_page: Open, server: Server, api: Api) -> None:
    """A search and the selects filter history and live events, appear in the address and survive a reload. Back undoes them."""
    agent = {"type": "agent", "id": "bob"}
    await api.append_all(
        "demo", [{}, {"actor": agent}, {"actor": agent, "description": "Fix it"}, {"description": "Fix me"}]
    )
    screen = await signed_in(open_page, server)
    await screen.shows([4, 3, 2, 1])
    await screen.page.locator("#actor_type").select_option("agent")
    await screen.shows([3, 2])
    await screen.page.locator("#q").fill("fix")
    await screen.shows([3])
    assert screen.query == {"workspace": ["demo"], "actor_type": ["agent"], "q": ["fix"]}
    await screen.state("Live")
    await api.append_all("demo", [{"actor": agent}, {"description": "fix"}, {"actor": agent, "description": "to FIX"}])
    await screen.shows([7, 3])
    await screen.page.reload()
    await screen.shows([7, 3])
    await screen.page.go_back()
    await screen.shows([7, 5, 3, 2])
    await screen.page.locator("#q").fill("nothing has this")
    await screen.sees("No event matches")
    await screen.page.locator("#unfilter").click()
    await screen.shows(down(7, 1))


async def test_a_refused_filter_is_explained(open_page: Open, server: Server, api: Api) -> None:
    """When the server refuses a filter, the page shows the reason."""
    await api.append("demo")
    screen = await signed_in(open_page, server, "?workspace=demo&category=nonsense")
    await screen.sees("category: must be one of activity, audit")
    await screen.state("Offline")


# ---- outages


async def test_the_stream_resumes_exactly_after_a_restart(
    open_page: Open, http: aiohttp.ClientSession, tmp_path: Path, database_url: str
) -> None:
    """After a server restart, the page shows missed events, each once, and announces the reconnection."""
    async with AsyncExitStack() as first:
        server = await first.enter_async_context(running(_settings(tmp_path, database_url)))
        api = Api(http, server.url, ADMIN_KEY)
        await api.append_all("demo", numbered(5))
        screen = await signed_in(open_page, server)
        await screen.state("Live")
        await screen.listen()
        await api.append("demo")
        await screen.shows(down(6, 1))
    await screen.state("Reconnecting")
    await _while_away(http, tmp_path, database_url, lambda api: api.append_all("demo", numbered(20)))
    async with running(_settings(tmp_path, database_url, urlsplit(server.url).port)):
        await screen.shows(down(26, 1))
        await screen.state("Live")
        await api.append("demo")
        await screen.shows(down(27, 1))
        heard = await screen.heard()
        assert heard.index("Connection lost, trying again") < heard.index("Connection restored, 20 events caught up")


async def test_a_gap_is_a_row_that_says_what_is_missing(
    open_page: Open, http: aiohttp.ClientSession, tmp_path: Path, database_url: str
) -> None:
    """Events that were removed before the page could read them leave a row with their range and the reason."""
    async with AsyncExitStack() as first:
        server = await first.enter_async_context(running(_settings(tmp_path, database_url)))
        await Api(http, server.url, ADMIN_KEY).append_all("demo", numbered(5))
        screen = await signed_in(open_page, server)
        await screen.state("Live")
    await _while_away(http, tmp_path, database_url, lambda api: api.append_all("demo", numbered(20)))
    with sqlite3.connect(database_url.removeprefix("sqlite:///")) as database:
        database.execute("DELETE FROM events WHERE seq <= 12")
        database.execute("UPDATE workspaces SET earliest = 13")
    database.close()
    async with running(_settings(tmp_path, database_url, urlsplit(server.url).port)):
        await screen.shows([*down(25, 13), *down(5, 1)])
        texts = await screen.page.locator("#feed > article").all_text_contents()
        assert texts[13] == "Events 6 to 12 missing: removed from the log before this page could read them (retention)"


async def test_a_log_created_again_is_a_gap(
    open_page: Open, http: aiohttp.ClientSession, tmp_path: Path, database_url: str
) -> None:
    """When a workspace was recreated, a row says so, and the new log is shown from its start."""
    async with AsyncExitStack() as first:
        server = await first.enter_async_context(running(_settings(tmp_path, database_url)))
        await Api(http, server.url, ADMIN_KEY).append_all("demo", numbered(3))
        screen = await signed_in(open_page, server)
        await screen.state("Live")

    async def remake(api: Api) -> None:
        (await api.delete("/v1/workspaces/demo")).expect(204)
        await api.append_all("demo", numbered(2))

    await _while_away(http, tmp_path, database_url, remake)
    async with running(_settings(tmp_path, database_url, urlsplit(server.url).port)):
        await screen.shows([2, 1, 3, 2, 1])
        await screen.sees("Events from 4 on missing: the log was re-created")


async def test_a_stream_that_is_refused_is_tried_again(open_page: Open, server: Server, api: Api) -> None:
    """After an error response, which ends the browser's own retries, the page retries and resumes exactly."""
    await api.append("demo")
    screen = await signed_in(open_page, server)
    await screen.state("Live")
    await api.append("demo")
    await screen.shows([2, 1])
    refusals = 0

    async def refuse(route: "Route") -> None:
        nonlocal refusals
        refusals += 1
        if refusals == 1:
            await api.append_all("demo", numbered(3))
            await route.fulfill(status=503, content_type="application/json", body="{}")
        else:
            await route.continue_()

    await screen.page.route("**/events/stream?*", refuse)
    server.channels.close_workspace("demo", Reason.RESET)
    await screen.state("Reconnecting")
    await screen.shows(down(5, 1))
    await screen.state("Live")


async def test_a_stream_that_is_over_says_why(open_page: Open, server: Server, api: Api) -> None:
    """When the workspace is deleted, the page stops, says so, and keeps its rows."""
    await api.append("demo")
    screen = await signed_in(open_page, server)
    await screen.state("Live")
    (await api.delete("/v1/workspaces/demo")).expect(204)
    await screen.sees("This workspace was deleted")
    await screen.state("Offline")
    assert await screen.seqs() == [1]


# ---- pausing


async def test_a_pause_loses_nothing(open_page: Open, server: Server, api: Api) -> None:
    """While paused, the list stays unchanged and counts new events. Resuming shows them all."""
    await api.append_all("demo", numbered(3))
    screen = await signed_in(open_page, server)
    await screen.state("Live")
    await screen.page.keyboard.press("Space")
    await screen.state("Paused")
    await api.append_all("demo", numbered(37))
    await screen.counts("37 new")
    assert await screen.seqs() == [3, 2, 1]
    assert await screen.page.title() == "(37) demo · streamer"
    await screen.page.keyboard.press("Space")
    await screen.shows(down(40, 1))
    await screen.state("Live")
    await screen.page.locator("#pause").click()
    await api.append("demo")
    await screen.page.locator("#fresh").click()
    await screen.shows(down(41, 1))


async def test_a_pause_beyond_what_is_kept_loses_nothing(open_page: Open, server: Server, api: Api) -> None:
    """The page keeps a limited number of rows. The others are announced, and can be loaded from the log without a gap."""
    await api.put("/v1/workspaces/demo")
    screen = await signed_in(open_page, server)
    await screen.state("Live")
    await screen.page.keyboard.press("Space")
    for _ in range(5):
        (await api.append_all("demo", numbered(1000))).expect(201)
    await screen.counts("5,000 new")
    await screen.page.keyboard.press("Space")
    await screen.shows(down(5000, 5000 - KEEP + 1))
    await screen.sees("The newest 2,000 are kept here; older ones are in the log.")
    await screen.page.locator("#older").click()
    await screen.shows(down(5000, 5000 - KEEP - 100 + 1))
    # At the top, the page is live again, and limited.
    await screen.page.locator("#pause").click()
    await api.append("demo")
    await screen.shows(down(5001, 5001 - KEEP + 1))


async def test_reading_is_a_pause(open_page: Open, server: Server, api: Api) -> None:
    """Rows do not move while a person has scrolled down. At the top, new ones appear."""
    await api.append_all("demo", numbered(100))
    screen = await signed_in(open_page, server)
    await screen.state("Live")
    await screen.page.locator("#scroller").evaluate("e => e.scrollTo(0, 600)")
    await screen.state("Paused")
    await api.append_all("demo", numbered(2))
    await screen.counts("2 new")
    assert len(await screen.seqs()) == 100
    await screen.page.locator("#scroller").evaluate("e => e.scrollTo(0, 0)")
    await screen.shows(down(102, 1))
    await screen.state("Live")


# ---- one event


async def test_an_event_opens_with_all_it_holds(open_page: Open, server: Server, api: Api) -> None:
    """A click shows an event's fields, its changes and its stored form with exact numbers. Its address opens it again."""
    stored = await api.append(
        "demo",
        actor={"type": "agent", "id": "bob", "on_behalf_of": "ann"},
        changes={"status": {"from": "todo", "to": "done"}},
        details={"large": 1234567890123456789, "float": 1.0},
    )
    await api.append_all("demo", numbered(2))
    screen = await signed_in(open_page, server)
    await screen.page.locator(".row").nth(2).click()
    detail = screen.page.locator("#detail")
    await detail.wait_for()
    assert screen.query["event"] == [stored.json["id"]]
    facts = await detail.locator("dl").inner_text()
    assert "On behalf of\nann" in facts
    assert stored.json["timestamp"] in facts
    assert await detail.locator("tbody tr").all_inner_texts() == ["status\ttodo\tdone"]
    text = await detail.locator("pre").inner_text()
    assert '"large": 1234567890123456789' in text
    assert '"float": 1.0' in text
    await screen.page.go_back()
    await detail.wait_for(state="hidden")
    await screen.page.go_forward()
    await detail.wait_for()
    await screen.page.reload()
    await detail.wait_for()
    await screen.page.locator("#close").click()
    await detail.wait_for(state="hidden")
    assert "event" not in screen.query
    await screen.page.goto(f"{server.url}/?workspace=demo&event=none")
    await screen.sees("This event is not in the log")


HOSTILE = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>\"'><svg onload=window.hacked=1>"


async def test_data_stays_text(open_page: Open, server: Server, api: Api) -> None:
    """Any content of an event, a workspace name or an address is displayed as text and never becomes part of the page."""
    await api.put("/v1/workspaces/demo", {"name": HOSTILE})
    await api.append(
        "demo",
        action=HOSTILE,
        description=HOSTILE,
        actor={"type": HOSTILE, "id": HOSTILE, "name": HOSTILE, "role": HOSTILE, "on_behalf_of": HOSTILE},
        entity={"type": HOSTILE, "id": HOSTILE, "identifier": HOSTILE, "name": HOSTILE},
        run_id=HOSTILE,
        details={HOSTILE: HOSTILE},
        changes={HOSTILE: {"from": HOSTILE, "to": {HOSTILE: HOSTILE}}},
    )
    screen = await signed_in(open_page, server)
    row = screen.page.locator(".row")
    await expect(row.locator(".sentence span")).to_have_text(HOSTILE)
    await expect(row.locator(".entity")).to_contain_text(HOSTILE)
    await row.click()
    await screen.page.locator("#detail").wait_for()
    assert await screen.page.locator("#detail h2").inner_text() == HOSTILE
    await screen.page.goto(f"{server.url}/?workspace=demo&q={HOSTILE}&event={HOSTILE}".replace("#", "%23"))
    await screen.sees("This event is not in the log")
    await screen.page.goto(f"{server.url}/?workspace={HOSTILE}")
    await screen.sees("There is no such workspace")
    assert await screen.page.locator("main img, main script, main svg, select *:not(option)").count() == 0
    assert await screen.page.evaluate("window.hacked") is None


# ---- accessibility


async def test_everything_works_by_keyboard(open_page: Open, server: Server, api: Api) -> None:
    """Keys move through the feed as ARIA specifies, and open, close, search and leave. The focus is never lost."""
    await api.append_all("demo", numbered(10))
    screen = await signed_in(open_page, server)
    await screen.state("Live")
    press = screen.page.keyboard.press
    for key, there in [("ArrowDown", "10"), ("j", "9"), ("PageDown", "8"), ("k", "9"), ("End", "1"), ("Home", "10")]:
        await press(key)
        assert await screen.focused() == there, key
    assert await screen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    await press("ArrowDown")
    await press("Enter")
    await screen.page.locator("#detail").wait_for()
    await eventually(lambda: _is(screen.focused(), "detail-title"))
    await press("j")
    await screen.page.locator("#detail h2", has_text="Ann did thing 7").wait_for()
    await press("Escape")
    await screen.page.locator("#detail").wait_for(state="hidden")
    assert await screen.focused() == "8"
    await press("Control+Home")
    assert await screen.focused() == "pause"
    await press("Shift+Tab")
    await press("Tab")
    await press("Tab")
    await press("Tab")
    assert await screen.focused() == "8", "only the row read last can be reached with Tab"
    await press("/")
    assert await screen.focused() == "q"
    await press("Space")
    assert await screen.page.locator("#q").input_value() == " "


async def test_screen_readers_are_told_little(open_page: Open, server: Server, api: Api) -> None:
    """The feed is not a live region: a screen reader announces the number of new events once, not each event."""
    await api.append("demo")
    screen = await signed_in(open_page, server)
    await screen.state("Live")
    await screen.listen()
    feed = screen.page.locator("[role=feed]")
    assert await feed.locator("article[aria-labelledby]").count() == 1
    assert await screen.page.locator("#view").locator("[aria-live], [role=log]").count() == 0
    await api.append_all("demo", numbered(12))
    await screen.shows(down(13, 1))
    await api.append_all("demo", numbered(5))
    await screen.shows(down(18, 1))
    heard = await screen.heard()
    assert len(heard) == 1
    assert heard[0].endswith(("new event", "new events"))


CONTRAST = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const color = channels(getComputedStyle(e).backgroundColor);
      if (color[3] === undefined || color[3] === 1) return color;
    }
    return channels("rgb(255, 255, 255)");
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const texts = [...e.childNodes].filter((n) => n.nodeType === 3 && n.data.trim());
    if (!texts.length || !e.checkVisibility() || e.closest("template, noscript, .unseen, option")) continue;
    const [a, b] = [light(channels(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), e.className || e.id || e.tagName]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_has_contrast(open_page: Open, server: Server, api: Api, scheme: str) -> None:
    """All text has a contrast of 4.5 to 1 (WCAG), in light and dark mode."""
    kinds = ("user", "agent", "system", "webhook")
    await api.append_all("demo", [{"actor": {"type": kind, "id": kind}} for kind in kinds])
    await api.append("demo", category="audit", changes={"a": {"from": 1, "to": 2}})
    screen = await signed_in(open_page, server, color_scheme=scheme, reduced_motion="reduce")
    await screen.shows(down(5, 1))
    await screen.page.locator(".row").nth(1).click()  # not the audit event: reading it would append another event
    await screen.page.locator("#detail").wait_for()
    await api.append("demo")
    await screen.counts("1 new")
    found = await screen.page.evaluate(CONTRAST)
    assert len(found) > 40
    assert [(name, round(ratio, 2)) for ratio, name in found if ratio < 4.5] == []


async def test_a_phone_shows_all_of_it(open_page: Open, server: Server, api: Api) -> None:
    """On a narrow screen, nothing overflows. An open event covers the list, which cannot be focused then."""
    await api.append_all("demo", numbered(30, description="Ann did something that takes rather long to tell " * 3))
    screen = await signed_in(open_page, server, viewport={"width": 360, "height": 640}, has_touch=True)
    await screen.state("Live")
    assert await screen.page.evaluate("document.documentElement.scrollWidth") == 360
    await screen.page.locator(".row").nth(1).tap()
    await screen.page.locator("#detail").wait_for()
    box = await screen.page.locator("#detail").bounding_box()
    assert box == {"x": 0, "y": 0, "width": 360, "height": 640}
    assert await screen.page.locator("#list").evaluate("e => e.inert")
    await screen.page.go_back()
    await screen.page.locator("#detail").wait_for(state="hidden")
    assert not await screen.page.locator("#list").evaluate("e => e.inert")


def _settings(folder: Path, database_url: str, port: int | None = 0) -> Settings:
    values = {"data_dir": folder / "data", "port": port, "database_url": database_url, "admin_key": ADMIN_KEY}
    return Settings.model_validate(values)


async def _while_away(
    http: aiohttp.ClientSession, folder: Path, database_url: str, work: Callable[[Api], Awaitable[Any]]
) -> None:
    """Do something with a server at another address, which the page does not know."""
    async with running(_settings(folder, database_url)) as server:
        await work(Api(http, server.url, ADMIN_KEY))


async def _is(found: Awaitable[str], wanted: str) -> bool:
    return await found == wanted
