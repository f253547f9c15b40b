"""What all APIs share in how they answer."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import orjson
from aiohttp import web

from streamer.core.ports import Page

POSITION = "X-Position"
"""Where a reader goes on from after a list that has no place for it in its body: also if the list is empty."""


@dataclass(frozen=True, slots=True)
class PublicUrl:
    """Where clients reach the server, if a proxy serves it under another URL."""

    url: str | None


T = TypeVar("T")
LOOP_BYTES = 128 * 2**10
"""Bytes of events up to which they are decoded on the event loop; more would take it some milliseconds."""


def last_event_id(request: web.Request, parameter: str | None) -> str | None:
    """Return the last event that the client of an SSE stream received; empty is absent.

    The header wins: a browser sends it when it reconnects, by the URL that it began with. Libraries that cannot set headers, such as
    event-source-polyfill, send it as a parameter.
    """
    return request.headers.get("Last-Event-ID") or parameter or None


async def off_loop(size: int, work: Callable[[], T]) -> T:
    """Do some work on values of so many bytes; on a thread if it would hold up the event loop.

    The thread must not hold the GIL for long: it decodes, encodes and hashes event by event.
    """
    return await asyncio.to_thread(work) if size > LOOP_BYTES else work()


async def shaped(page: Page, shape: Callable[[Any], Any]) -> list[bytes]:
    """Return a page's events in another shape, each encoded."""
    bodies = [event.body for event in page.events]
    return await off_loop(sum(map(len, bodies)), lambda: [orjson.dumps(shape(orjson.loads(body))) for body in bodies])


def json_bytes(body: bytes, status: int = HTTPStatus.OK) -> web.Response:
    """Answer with what is JSON already."""
    return web.Response(body=body, status=status, headers={"Content-Type": "application/json"})


def json_answer(value: object, status: int = HTTPStatus.OK) -> web.Response:
    """Answer with JSON."""
    return json_bytes(orjson.dumps(value), status)
