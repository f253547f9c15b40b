"""Exchanges as data: requests and expected responses. They are replayed against a server and compared."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any

import aiohttp
from yarl import URL


@dataclass(frozen=True)
class Count:
    """A response that is a list with this many items."""

    items: int


@dataclass(frozen=True)
class Envelope:
    """A response that is an error in Evershell's form, which is also the native one. `fields` are those that it names."""

    code: str
    fields: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Exchange:
    """A request and its response. `{name}` in the path, the headers and the response is replaced by a value."""

    request: str
    """Method, path and query, as sent."""
    status: int
    answer: Any = field(default=...)
    """The decoded body, a text that is not JSON, Count or Envelope; `...` matches anything."""
    sent: Mapping[str, str] = field(default_factory=dict)
    """Headers, which replace those of the table's requests; an empty text removes one."""
    body: Any = None
    """The JSON body; bytes are sent unchanged."""
    headers: Mapping[str, str | None] = field(default_factory=dict)
    """Headers of the response; None: the header must be absent."""
    instead_of: str = ""
    """If this server differs from the recorded one: the recorded response, and the reason."""


async def play(
    http: aiohttp.ClientSession,
    url: str,
    exchanges: Iterable[Exchange],
    sent: Mapping[str, str],
    values: Mapping[str, str],
) -> None:
    """Replay exchanges in order; `sent` are headers of all requests.

    Raises:
        AssertionError: Some responses differ; the message lists them.
    """
    wrong: list[str] = []
    for exchange in exchanges:
        method, _, path = _filled(exchange.request, values).partition(" ")
        given = {name: _filled(value, values) for name, value in {**sent, **exchange.sent}.items()}
        headers = {name: value for name, value in given.items() if value}
        body = exchange.body if isinstance(exchange.body, bytes | None) else json.dumps(exchange.body).encode()
        # Encoded: path and query are sent unchanged.
        target = URL(url + path, encoded=True)
        async with http.request(method, target, headers=headers, data=body, allow_redirects=False) as response:
            text = (await response.read()).decode()
        if found := _faults(exchange, response, text, values):
            wrong.append("\n  ".join([f"{exchange.request} {dict(exchange.sent)} {exchange.body!r:.200}", *found]))
    assert not wrong, "\n" + "\n".join(wrong)


def _faults(exchange: Exchange, response: aiohttp.ClientResponse, text: str, values: Mapping[str, str]) -> list[str]:
    found = []
    if response.status != exchange.status:
        found.append(f"status {response.status}, not {exchange.status}: {text:.500}")
    if not _is_as_wanted(text, exchange.answer, values):
        found.append(f"answer {text:.1000}\n  not    {exchange.answer}")
    for name, value in exchange.headers.items():
        if response.headers.get(name) != (value and _filled(value, values)):
            found.append(f"{name}: {response.headers.get(name)}, not {value}")
    return found


def _is_as_wanted(text: str, wanted: Any, values: Mapping[str, str]) -> bool:
    answer = _decoded(text)
    match wanted:
        case EllipsisType():
            return True
        case Count():
            return isinstance(answer, list) and len(answer) == wanted.items
        case Envelope():
            error = answer["error"] if isinstance(answer, dict) else {}
            texts = all(isinstance(error.get(name), str) and error[name] for name in ("message", "request_id"))
            fields = frozenset(error.get("details", {}).get("fields", {}))
            return error.get("code") == wanted.code and texts and fields == wanted.fields
        case _:
            return bool(answer == _fill_in(wanted, values))


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _filled(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def _fill_in(wanted: Any, values: Mapping[str, str]) -> Any:
    if isinstance(wanted, str):
        return _filled(wanted, values)
    if isinstance(wanted, dict):
        return {name: _fill_in(value, values) for name, value in wanted.items()}
    if isinstance(wanted, list):
        return [_fill_in(value, values) for value in wanted]
    return wanted
