"""Browsers: what pages of listed, unlisted and own origins may do with keys, tickets and cookies, and the response headers."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from streamer.access.origins import SETTING, Origins, parse_origins
from streamer.app import Server
from streamer.http.native.routes import ROUTES
from streamer.http.operation import Operation
from streamer.settings import SettingsError, load
from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Api, events, make_event
from tests.support.databases import sqlite_url
from tests.support.raw import RawConnection
from tests.support.waiting import eventually
from tests.support.websocket import open_socket

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

WS = "w"
APP = "https://app.example.com"
OTHER = "https://other.example.com"
BEGINNING = "2000-01-01T00:00:00Z"
EXPOSED = {
    "Link",
    "Retry-After",
    "X-Next-Cursor",
    "X-Request-Id",
    "X-Workspaces-Omitted",
    "X-Position",
    "RateLimit",
    "RateLimit-Policy",
}


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on SQLite only, because browsers never see the database."""
    return sqlite_url(tmp_path)


@pytest.fixture
async def listing(make_server: MakeServer, http: aiohttp.ClientSession) -> Api:
    """Start a server that lists one origin and has an event in the workspace."""
    api = Api(http, (await make_server(cors_origins=f"{APP}, http://127.0.0.1:1")).url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    return api


def words(text: str) -> set[str]:
    """Return the members of a list in a header."""
    return {word.strip() for word in text.split(",")}


def cors(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the CORS headers of a response, with lower-case names."""
    return {name.lower(): value for name, value in headers.items() if name.lower().startswith("access-control-")}


def has_cors(headers: Mapping[str, str], origin: str | None) -> bool:
    """Check that the response allows this origin's scripts, or none, and that `Vary` separates cached copies."""
    lower = {name.lower(): value for name, value in headers.items()}
    assert "origin" in words(lower["vary"].lower())
    found = cors(headers)
    assert "access-control-allow-credentials" not in found
    if origin is None:
        return not found
    assert words(found.pop("access-control-expose-headers")) == EXPOSED
    return found == {"access-control-allow-origin": origin}


async def preflight(api: Api, path: str, origin: str = APP, method: str = "GET", **headers: str) -> Any:
    """Send a preflight request as a browser does before a page's request."""
    sent = {"Origin": origin, "Access-Control-Request-Method": method, **headers}
    return await api.with_key(None).request("OPTIONS", path, headers=sent)


# ---- the setting


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("", set()),
        (" , ", set()),
        ("*", {"*"}),
        (APP, {APP}),
        (f"{APP} ,http://localhost:3000,", {APP, "http://localhost:3000"}),
        ("https://app.example.com:8443", {"https://app.example.com:8443"}),
        ("http://[::1]:3000", {"http://[::1]:3000"}),
        ("http://app.example.com:443", {"http://app.example.com:443"}),
        ("capacitor://localhost, chrome-extension://abc", {"capacitor://localhost", "chrome-extension://abc"}),
    ],
)
def test_origins_are_read(text: str, listed: set[str]) -> None:
    """A list of origins, or a star, is accepted unchanged."""
    assert parse_origins(text) == Origins(frozenset(listed))
    assert load({}, {SETTING: text}).origins == Origins(frozenset(listed))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("https://app.example.com/", "write https://app.example.com$"),
        ("https://app.example.com/path?query#part", "write https://app.example.com$"),
        ("https://App.Example.com", "write https://app.example.com$"),
        ("HTTPS://app.example.com", "write https://app.example.com$"),
        ("https://app.example.com:443", "write https://app.example.com$"),
        ("http://app.example.com:80", "write http://app.example.com$"),
        ("https://app.example.com:", "write https://app.example.com$"),
        ("https://ann@app.example.com", "write https://app.example.com$"),
        (f"{APP},https://app.example.org/", "write https://app.example.org$"),
        ("app.example.com", "is not an origin"),
        ("localhost:3000", "is not an origin"),
        ("//app.example.com", "is not an origin"),
        ("https://", "is not an origin"),
        ("https:app.example.com", "is not an origin"),
        ("https://*.example.com", "is not an origin"),
        ("https://a b", "is not an origin"),
        ("https://a\\b", "is not an origin"),
        ("https://bücher.example", "is not an origin"),
        ("https://app.example.com:99999", "is not an origin"),
        ("https://app.example.com:x", "is not an origin"),
        ("https://[::1", "is not an origin"),
        ("ftp://app.example.com", "is not an origin"),
        ("null", "is not an origin"),
        ("data:text/html,x", "is not an origin"),
        ("Capacitor://localhost/", "write capacitor://localhost$"),
        ("file://", "is not an origin"),
        (f"*,{APP}", "cannot be combined with others"),
    ],
)
def test_what_is_no_origin_stops_the_start(text: str, said: str) -> None:
    """An origin that no browser sends stops the start, because it would never match. The error names the setting and the fix."""
    with pytest.raises(SettingsError, match=f"^{SETTING}: .*{said}"):
        load({}, {SETTING: text})


# ---- CORS


def path_of(route: Operation, workspace: str = WS) -> str:
    """Return a path that matches the route."""
    return route.path.format(ws=workspace, id="nothing", user="nobody", file="app.js", type="issue", entity="none")


async def test_a_preflight_of_a_listed_origin(listing: Api) -> None:
    """A preflight from a listed origin gets the methods of every API path, without a key, even if no workspace exists."""
    for route in ROUTES:
        methods = {each.method for each in ROUTES if each.path == route.path}
        if any(each.method == "GET" and not each.streams for each in ROUTES if each.path == route.path):
            methods.add("HEAD")
        for asked in (path_of(route, workspace) for workspace in (WS, "nowhere", "system", "no%20id")):
            answer = await preflight(listing, asked, method=route.method)
            assert (answer.status, answer.body) == (204, b""), asked
            assert has_vary(answer.headers)
            found = cors(answer.headers)
            assert words(found["access-control-allow-methods"]) == methods, asked
            assert words(found["access-control-allow-headers"]) == {
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "Last-Event-ID",
            }
            assert found["access-control-max-age"] == "600"
            assert found["access-control-allow-origin"] == APP
            assert "access-control-allow-credentials" not in found


@pytest.mark.parametrize(
    "asked",
    [
        "cache-control",
        "x-requested-with",
        "last-event-id, cache-control",
        "authorization,baggage,content-type,if-none-match,sentry-trace,traceparent,tracestate",
        "X-Some-Library",
    ],
)
async def test_a_preflight_is_answered_with_what_it_asks_for(listing: Api, asked: str) -> None:
    """Listed origins may send the additional headers of libraries and tracers. Unlisted origins may send none."""
    answer = await preflight(listing, events(WS) + "/stream", **{"Access-Control-Request-Headers": asked})
    allowed = {name.lower() for name in words(cors(answer.headers)["access-control-allow-headers"])}
    assert allowed == {*words(asked.lower()), "authorization", "content-type", "idempotency-key", "last-event-id"}
    refused = await preflight(listing, events(WS), OTHER, **{"Access-Control-Request-Headers": asked})
    assert not cors(refused.headers)


async def test_what_is_no_name_of_a_header_is_not_repeated(listing: Api) -> None:
    """Only valid header names are allowed. Invalid names are ignored."""
    odd = 'ok, "quoted", a b, (x), é, , <script>'
    answer = await preflight(listing, events(WS), **{"Access-Control-Request-Headers": odd})
    names = words(cors(answer.headers)["access-control-allow-headers"])
    assert names == {"Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "ok"}


async def test_pages_of_applications(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Origins with an application's own scheme work like others, and never count as this server's page."""
    listed = "capacitor://localhost, ionic://localhost, app://localhost, tauri://localhost, chrome-extension://abcdefgh"
    api = Api(http, (await make_server(cors_origins=listed)).url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    for origin in words(listed):
        answer = await api.get(events(WS), headers={"Origin": origin})
        assert has_cors(answer.headers, origin)
        assert (await preflight(api, events(WS), origin)).status == 204
        async with await open_socket(api, WS, headers={"Origin": origin}) as socket:
            await socket.next("synced")
    for origin in ("capacitor://other", "null", "tauri://localhost:1"):
        assert has_cors((await api.get(events(WS), headers={"Origin": origin})).headers, None)
    host = api.url.removeprefix("http://")
    answer = await api.get(f"{events(WS)}/ws", headers={**UPGRADE, "Origin": f"capacitor://{host}"})
    assert answer.error == "permission_denied"


def has_vary(headers: Mapping[str, str]) -> bool:
    """Check that caches are told that the response depends on the origin."""
    return "Origin" in words(headers.get("Vary", ""))


async def test_what_is_no_preflight_of_a_listed_origin(listing: Api, server: Server) -> None:
    """From unlisted origins, without a requested method or without listed origins, OPTIONS is an unsupported method."""
    for origin in (
        OTHER,
        "null",
        "",
        f"{APP}.evil.example",
        f"{APP}:443",
        f"{APP}/",
        "http://app.example.com",
        APP.upper(),
        f"{APP}, {APP}",
    ):
        answer = await preflight(listing, events(WS), origin)
        assert (answer.status, answer.error) == (405, "method_not_allowed"), origin
        assert has_cors(answer.headers, None)
    alone = await listing.with_key(None).request("OPTIONS", events(WS), headers={"Origin": APP})
    assert alone.status == 405
    assert has_cors(alone.headers, APP)
    nowhere = await preflight(listing, "/v1/nothing/here")
    assert (nowhere.status, nowhere.error) == (404, "not_found")
    unlisted = await preflight(listing.at(server.url), events(WS))
    assert unlisted.status == 405
    assert not cors(unlisted.headers)
    assert not has_vary(unlisted.headers), "without listed origins, the response is the same for all"


async def test_answers_are_for_listed_origins(listing: Api) -> None:
    """Responses, errors and streams name the origin whose scripts may read them, and caches keep origins apart."""
    for origin, shown in ((APP, APP), (OTHER, None), ("null", None), (None, None)):
        sent = {} if origin is None else {"Origin": origin}
        for answer, status in (
            (await listing.get(events(WS), headers=sent), 200),
            (await listing.request("HEAD", events(WS), headers=sent), 200),
            (await listing.post(events(WS), make_event(), headers=sent), 201),
            (await listing.post(events(WS), {}, headers=sent), 400),
            (await listing.with_key(None).get(events(WS), headers=sent), 401),
            (await listing.get(events("nowhere"), headers=sent), 404),
            (await listing.get("/v1/nothing/here", headers=sent), 404),
            (await listing.get("/livez", headers=sent), 200),
        ):
            assert answer.status == status
            assert has_cors(answer.headers, shown), (origin, status)
        async with await listing.stream(WS, headers=sent) as stream:
            await stream.next("synced")
            assert has_cors(stream.headers, shown)
            assert stream.headers["cache-control"] == "no-cache, no-transform"


async def test_a_star_lists_every_origin(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """With `*`, any page may use a key or ticket, but never credentials that the browser adds."""
    server = await make_server(cors_origins="*")
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    for origin in (APP, OTHER, "null"):
        assert has_cors((await api.get(events(WS), headers={"Origin": origin})).headers, "*")
        assert (await preflight(api, events(WS), origin)).status == 204
        async with await open_socket(api, WS, headers={"Origin": origin}) as socket:
            assert socket.status == 101
    cookie = await cookie_of(server, api)
    refused = await api.with_key(None).get(events(WS), headers={**cookie, "Origin": APP})
    assert (refused.status, refused.error) == (403, "permission_denied")
    answer = await (await open_socket(api.with_key(None), WS, headers={**cookie, "Origin": APP})).answer()
    assert (answer.status, answer.error) == (403, "permission_denied")


# ---- origins of sockets, and of requests with the cookie


async def cookie_of(server: Server, api: Api) -> dict[str, str]:
    """Sign in a browser; return the header that it sends automatically."""
    code = (await server.sign_in_link()).partition("#sign-in=")[2]
    answer = await api.with_key(None).post("/v1/session", {"code": code})
    answer.expect(200)
    return {"Cookie": answer.headers["Set-Cookie"].split(";")[0]}


async def test_sockets_are_for_listed_origins(listing: Api) -> None:
    """With any credential, only pages of our own or listed origins may open sockets. Other programs send no origin."""
    for workspace in (WS, None):
        for origin in (None, APP, listing.url, "http://127.0.0.1:1"):
            async with await open_socket(listing, workspace, headers={"Origin": origin} if origin else {}) as socket:
                assert socket.status == 101, origin
        for origin in (OTHER, "null", "", f"{APP}.evil.example", f"{APP}:444", "http://[", listing.url + "0"):
            answer = await (await open_socket(listing, workspace, headers={"Origin": origin})).answer()
            assert (answer.status, answer.error) == (403, "permission_denied"), origin
            assert SETTING in answer.json["error"]["message"]
            assert not origin or origin not in answer.json["error"]["message"]
            # A caller without access gets that error first.
            answer = await (await open_socket(listing.with_key("sk_x"), workspace, headers={"Origin": origin})).answer()
            assert answer.status == 401
    for origin, status in ((APP, 101), (OTHER, 403)):
        ticket = (await listing.post("/v1/tickets", {"workspace": WS})).expect(201)["ticket"]
        socket = await open_socket(listing.with_key(None), WS, ticket=ticket, headers={"Origin": origin})
        assert socket.status == status
        socket.close()


async def test_the_cookie_is_for_our_own_page(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """With the cookie, no page of another origin gets a response, even if listed. A browser's own requests do."""
    server = await make_server(cors_origins=APP)
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    cookie, nobody = await cookie_of(server, api), api.with_key(None)
    own = {"Origin": server.url}
    may_read: list[dict[str, str]] = [
        {}, own, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin"}, own | {"Sec-Fetch-Site": "same-origin"},
    ]  # fmt: skip
    may_nothing: list[dict[str, str]] = [
        {"Origin": APP}, {"Origin": OTHER}, {"Origin": "null"}, {"Origin": ""}, {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "x"}, own | {"Sec-Fetch-Site": "same-site"},
        {"Origin": APP, "Sec-Fetch-Site": "same-origin"},
    ]  # fmt: skip
    for sent in (*may_read, *may_nothing):
        expected = 200 if sent in may_read else 403
        for method, path in (
            ("GET", events(WS)),
            ("HEAD", events(WS)),
            ("GET", "/v1/session"),
            ("GET", "/v1/workspaces"),
        ):
            answer = await nobody.request(method, path, headers=cookie | sent)
            assert answer.status == expected, (sent, method)
        for workspace in (WS, "nowhere"):  # the response does not mention the workspace
            answer = await nobody.get(events(workspace), headers=cookie | sent)
            assert answer.status == (403 if expected == 403 else 200 if workspace == WS else 404)
        async with await nobody.stream(WS, headers=cookie | sent) as stream:
            assert stream.status == expected
        changing = 201 if expected == 200 and "Origin" in sent else 403
        assert (await nobody.post(events(WS), make_event(), headers=cookie | sent)).status == changing, sent
        socket = await open_socket(nobody, WS, headers=cookie | sent)
        assert socket.status == (101 if changing == 201 else 403), sent
        socket.close()
        # Next to a key the cookie is ignored, because browsers send it to other ports of the same host, too.
        assert (await api.get(events(WS), headers=cookie | sent)).status == 200
    ticket = (await api.post("/v1/tickets", {"workspace": WS})).expect(201)["ticket"]
    async with await nobody.stream(WS, ticket=ticket, headers=cookie | {"Origin": APP}) as stream:
        assert stream.status == 200
    assert (await nobody.get(events(WS), headers={"Cookie": "streamer_session=x", "Origin": OTHER})).status == 401


# ---- headers of every response


async def test_headers_of_every_answer(listing: Api) -> None:
    """Every response forbids type guessing, referrers and embedding. API responses also forbid caching."""
    (await listing.append("x")).expect(201)
    found: list[tuple[str, Mapping[str, str]]] = []
    for route in ROUTES:
        if not route.streams:
            for api in (listing, listing.with_key(None)):
                answer = await api.request(route.method, path_of(route, "x"))
                found.append((f"{answer.status} {route.path}", answer.headers))
    answers = (await listing.get("/v1/nothing"), await listing.request("TRACE", "/v1/session"))
    found += [(str(answer.status), answer.headers) for answer in answers]
    async with await listing.stream(WS) as stream, await open_socket(listing, WS) as socket:
        found += [("stream", stream.headers), ("socket", socket.headers)]
    async with await RawConnection.open(listing.url) as raw:
        await raw.send(b"NONSENSE\r\n\r\n")
        found.append(("malformed", (await raw.answer()).headers))
    assert {name.split()[0] for name, _ in found} >= {"200", "204", "400", "401", "404", "405"}
    for name, headers in found:
        lower = {each.lower(): value for each, value in headers.items()}
        assert lower["x-content-type-options"] == "nosniff", name
        assert lower["referrer-policy"] == "no-referrer", name
        assert lower["cross-origin-resource-policy"] == "same-origin", name
        assert lower["server"] == "streamer", name
        own = {"stream": "no-cache, no-transform", "200 /": "no-cache", "200 /static/{file}": "no-cache"}
        assert lower["cache-control"] == own.get(name, "no-store"), name


async def test_the_page_is_alone(server: Server, api: Api) -> None:
    """The page shares no window with its opener, and requests no permissions."""
    for path in ("/", "/static/app.js"):
        headers = (await api.with_key(None).get(path)).headers
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert "camera=()" in headers["Permissions-Policy"]
        assert "Strict-Transport-Security" not in headers, "the server is not reached over TLS"


# ---- a real browser


@asynccontextmanager
async def origin(host: str) -> AsyncIterator[str]:
    """Serve an empty page on another port; yields its origin."""

    async def page(_: web.BaseRequest) -> web.Response:
        return web.Response(text="<!doctype html><title>x</title><link rel=icon href=data:,>", content_type="text/html")

    runner = web.ServerRunner(web.Server(page))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://{host}:{runner.addresses[0][1]}"
    await runner.cleanup()


SCRIPT = """async ([url, key, workspace]) => {
    const found = {};
    const attempt = async (name, work) => { found[name] = await work().catch((error) => error.name); };
    const headers = { Authorization: `Bearer ${key}` };
    const events = `${url}/v1/workspaces/${workspace}/events`;
    const event = { action: "issue.created", actor: { type: "user", id: "ann" } };
    await attempt("history", async () => (await (await fetch(`${events}?order=asc`, { headers })).json()).events.map((e) => e.seq));
    await attempt("link", async () => (await fetch(`${events}?limit=1`, { headers })).headers.get("Link") !== null);
    await attempt("append", async () => (await fetch(events, {
        method: "POST", body: JSON.stringify(event),
        headers: { ...headers, "Content-Type": "application/json", "Idempotency-Key": "one" },
    })).status);
    await attempt("error", async () => (await (await fetch(`${events}?limit=0`, { headers })).json()).error.code);
    await attempt("embedded", async () => (await fetch(`${url}/livez`, { mode: "no-cors" })).type);
    await attempt("session", async () => (await fetch(`${url}/v1/session`, { credentials: "include" })).status);
    await attempt("blind", async () => (await fetch(`${url}/v1/session`, { mode: "no-cors", credentials: "include" })).type);
    return found;
}"""
LIVE = """async ([url, streaming, talking, workspace]) => {
    const events = `${url}/v1/workspaces/${workspace}/events`;
    const after = "2000-01-01T00:00:00Z";
    const stream = () => new Promise((done) => {
        const source = new EventSource(`${events}/stream?ticket=${streaming}&after=${after}`);
        source.addEventListener("activity", ({ data }) => { source.close(); done(JSON.parse(data).seq); });
        source.addEventListener("error", () => { source.close(); done("refused"); });
    });
    const socket = (query) => new Promise((done) => {
        const socket = new WebSocket(`${events.replace("http", "ws")}/ws?${query}after=${after}`);
        socket.addEventListener("message", ({ data }) => { socket.close(); done(JSON.parse(data).events[0].seq); });
        socket.addEventListener("error", () => done("refused"));
    });
    return { stream: await stream(), socket: await socket(`ticket=${talking}&`), by_cookie: await socket("") };
}"""


async def attempts(page: "Page", server: Server, api: Api) -> dict[str, Any]:
    """Let a page try every kind of API call; return the results."""
    tickets = [(await api.post("/v1/tickets", {"workspace": WS})).expect(201)["ticket"] for _ in range(2)]
    found: dict[str, Any] = await page.evaluate(SCRIPT, [server.url, api.key, WS])
    live: dict[str, Any] = await page.evaluate(LIVE, [server.url, *tickets, WS])
    return found | live


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["cross-site", "same-site"])
async def test_pages_of_other_origins_in_a_browser(
    make_server: MakeServer, http: aiohttp.ClientSession, browser: "Browser", host: str
) -> None:
    """Pages of a listed origin can read, append and stream with keys and tickets. Others cannot, and none can use the cookie."""
    async with origin(host) as listed, origin(host) as unlisted:
        server = await make_server(cors_origins=listed)
        api = Api(http, server.url, ADMIN_KEY)
        (await api.append(WS)).expect(201)
        (await api.append(WS)).expect(201)
        profile = await browser.new_context()
        own = await profile.new_page()
        await own.goto(await server.sign_in_link())  # gives the browser a cookie to send
        await own.locator("#view").wait_for()
        page = await profile.new_page()

        await page.goto(unlisted)
        assert await attempts(page, server, api) == {
            "history": "TypeError", "link": "TypeError", "append": "TypeError", "error": "TypeError", "embedded": "TypeError",
            "session": "TypeError", "blind": "TypeError", "stream": "refused", "socket": "refused", "by_cookie": "refused",
        }  # fmt: skip
        assert len(await api.history(WS)) == 2
        await page.goto(listed)
        with capture_logs() as entries:
            found = await attempts(page, server, api)
        assert found == {
            "history": [1, 2], "link": True, "append": 201, "error": "validation_error", "embedded": "TypeError",
            "session": "TypeError", "blind": "TypeError", "stream": 1, "socket": 1, "by_cookie": "refused",
        }  # fmt: skip
        assert len(await api.history(WS)) == 3
        # To a page of another site, the browser does not send the cookie; to a page of the same site, the server gives
        # nothing.
        statuses = [entry["status"] for entry in entries if entry.get("path") == "/v1/session"]
        assert statuses == [401 if host == "localhost" else 403] * 2
        (status,) = [
            entry["status"] for entry in entries if entry.get("path") == f"{events(WS)}/ws" and entry["status"] >= 400
        ]
        assert status == (401 if host == "localhost" else 403)
        assert await own.evaluate("fetch('/v1/session').then((answer) => answer.status)") == 200


async def test_no_violation_is_reported_on_the_page(server: Server, api: Api, browser: "Browser") -> None:
    """The page works under its policies without violations, and forbidden actions are blocked."""
    (await api.append(WS)).expect(201)
    page = await (await browser.new_context()).new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(await server.sign_in_link())
    await page.locator("#state", has_text="Live").wait_for()
    (await api.append(WS)).expect(201)
    await eventually(lambda: has_rows(page, 2))
    assert complaints == []
    assert await page.evaluate("crossOriginIsolated") is False  # the page does not need it
    await page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.broken = true";
        document.body.append(script);
    }""")
    await eventually(lambda: any("Content Security Policy" in text for text in complaints))
    assert await page.evaluate("window.broken === undefined")
    assert await page.evaluate("fetch('http://localhost:1').catch((error) => error.name)") == "TypeError"


async def has_rows(page: "Page", count: int) -> bool:
    """Check whether the page shows this many events."""
    return await page.locator(".row").count() == count
