"""Quotes from requests in errors and log lines are limited, however long the request's names and values are."""

from typing import Any

import aiohttp
import orjson
import pytest

from streamer.core.quoting import MAX_NAMED, MAX_QUOTED, MAX_TEXT, bounded, cut, cut_names
from streamer.observe.logs import MAX_TRACEBACK
from tests.conftest import ADMIN_KEY, MakeProcess, MakeServer
from tests.ingest.redaction_cases import GITHUB
from tests.support.api import Answer, Api, events, make_event
from tests.support.tokens import SECRET, person
from tests.support.websocket import open_socket

LONG = "cookie:" * 72_000
"""A name whose redaction costs as much as its length allows, because each part may start a secret."""
IN_URL = "cookie:" * 500
MANY = {f"unknown{number}": "1" for number in range(300)}
MAX_ANSWER = 16_384

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Quotes in errors do not depend on the database."""

LISTS = [
    events("w"),
    f"{events('w')}/stream",
    "/v1/workspaces",
    "/v1/workspaces/w/activity",
    "/v1/workspaces/w/audit",
    "/v1/audit",
    "/v1/activity/stream",
    "/api/v1/workspaces/w/activity",
    "/api/companies/w/activity",
]
"""Lists and streams of the native API and of the three dialects."""


def texts_of(value: Any) -> list[str]:
    """Return all texts in a JSON value, including the names of keys."""
    if isinstance(value, dict):
        return [*value, *(text for item in value.values() for text in texts_of(item))]
    if isinstance(value, list):
        return [text for item in value for text in texts_of(item)]
    return [value] if isinstance(value, str) else []


def check_bounded(answer: Answer) -> Any:
    """Require that an error quotes little. Return its body."""
    assert answer.status in {400, 422}, answer.body[:500]
    assert len(answer.body) < MAX_ANSWER
    found = orjson.loads(answer.body)
    assert max(map(len, texts_of(found))) <= MAX_TEXT + 1
    return found


@on_sqlite
async def test_names_in_bodies_are_cut(api: Api) -> None:
    """The error for a body whose field has a name of half a megabyte quotes only its start, with and without a credential."""
    body = orjson.dumps({"code": "x", LONG: 1})
    for caller, method, path in (
        (api.with_key(None), "POST", "/v1/session"),
        (api, "POST", "/v1/workspaces/w/keys"),
        (api, "PUT", "/v1/workspaces/w"),
    ):
        found = check_bounded(await caller.request(method, path, data=body))
        names = [name for name in found["error"]["details"]["fields"] if name.startswith("cookie:")]
        assert [MAX_QUOTED - 10 < len(name) <= MAX_QUOTED + 1 for name in names] == [True]
    for event in (make_event(**{LONG[:250_000]: 1}), make_event(changes={LONG[:250_000]: {"x": 1}})):
        found = check_bounded(await api.post(events("w"), event))
        assert all(len(name) <= MAX_QUOTED + 1 for name in found["error"]["details"]["fields"])


@on_sqlite
async def test_names_on_a_socket_are_cut(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """The same holds for a message over a WebSocket of a caller without grants."""
    server = await make_server(jwt_secret=SECRET)
    async with await open_socket(person(Api(http, server.url, ADMIN_KEY), "nobody")) as socket:
        for message in ({"type": "ping", LONG: 1}, {"type": "subscribe", "sub": "s", LONG: 1}, {"type": LONG}):
            error = (await socket.ask(message, "error"))["error"]
            assert len(orjson.dumps(error)) < MAX_ANSWER
            assert all(len(name) <= MAX_QUOTED + 1 for name in error["details"]["fields"])


@on_sqlite
async def test_names_and_values_of_parameters_are_cut(api: Api) -> None:
    """The same holds for the names of unknown parameters, the values of invalid ones, and the number of both."""
    (await api.append("w")).expect(201)
    for path in LISTS:
        for params in ({IN_URL: "1"}, {"view": IN_URL, "order": IN_URL, IN_URL: IN_URL}):
            found = check_bounded(await api.get(path, **params))
            assert IN_URL[: MAX_QUOTED + 10] not in "".join(texts_of(found))
        found = check_bounded(await api.get(path, **MANY))
        assert 0 < orjson.dumps(found).count(b"unknown") <= 4 * MAX_NAMED


@on_sqlite
async def test_log_lines_are_cut(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """A path of any length produces one short log line."""
    process = make_process()
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    assert (await api.get(f"/{'cookie:' * 1000}/end")).status == 404
    assert await process.stop() == 0
    (line,) = [line for line in process.log.splitlines() if "cookie:" in line]
    assert MAX_TEXT - 10 < len(orjson.loads(line)["path"]) <= MAX_TEXT + 1
    assert MAX_TRACEBACK > MAX_TEXT


def test_a_cut_breaks_no_token() -> None:
    """If a quote would end within a token, the partial token is left out, because no redaction rule would recognize it."""
    assert cut("x" * MAX_QUOTED) == "x" * MAX_QUOTED
    for start in range(MAX_QUOTED - 1):
        text = cut(f"{'a ' * (start // 2)}{' ' * (start % 2)}{GITHUB} and more{' ' * MAX_QUOTED}")
        assert GITHUB in text or GITHUB[:5] not in text
        assert len(text) <= MAX_QUOTED + 1
    assert cut("y" * 500) == "y" * MAX_QUOTED + "…"
    assert cut(f"{'a ' * 490}{GITHUB}, and more", MAX_TEXT) == f"{'a ' * 490}…"


def test_structures_are_bounded() -> None:
    """Lists and objects in an error have few items, whatever caused them."""
    assert bounded({"a": [1] * 1000, "b" * 1000: None}) == {"a": [1] * (MAX_NAMED + 1), "b" * MAX_QUOTED + "…": None}
    fields = cut_names({str(number): "wrong" for number in range(500)})
    assert (len(fields), fields["and more"]) == (MAX_NAMED + 1, "at least 500 fields are invalid; these are the first")
