"""The node itself: probes, metrics, the OpenAPI document and the page."""

import asyncio
from pathlib import Path
from typing import Literal

from aiohttp import web
from pydantic import with_config
from typing_extensions import TypedDict

from streamer.access.authorize import PUBLIC, Access
from streamer.access.principal import ADMIN
from streamer.core.errors import NotFound, Overloaded
from streamer.http.native.openapi import OpenApi
from streamer.http.native.params import ReadyParams
from streamer.http.native.schemas import ANSWER
from streamer.http.operation import Operation, Resource
from streamer.http.responses import json_answer
from streamer.http.services import Services
from streamer.observe.loops import Loops
from streamer.observe.metrics import CONTENT_TYPE, Metrics
from streamer.store.engine.readiness import Readiness

WRITING_LOOPS = {"writer", "probe", "purge"}
"""Background loops that a node does not need to serve reads."""
PAGE_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
"""The kinds of files in the page's folder that are served, by their endings."""
FILE_STEP = 32 * 1024
"""Bytes of a file that are read ahead of a client that takes its time."""
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-cache",
}


class PageFiles:
    """The files of the page."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kinds = {file.name: PAGE_TYPES[file.suffix] for file in folder.iterdir() if file.suffix in PAGE_TYPES}

    def answer(self, name: str) -> web.StreamResponse:
        """Answer with a file. Raises NotFound."""
        # Looked up among the names that are there: no name from outside ever becomes part of a path.
        kind = self._kinds.get(name)
        if kind is None:
            raise NotFound("no such file")
        headers = {**PAGE_HEADERS, "Content-Type": f"{kind}; charset=utf-8"}
        return web.FileResponse(self._folder / name, FILE_STEP, headers=headers)


@with_config(ANSWER)
class Health(TypedDict):
    """A probe's answer."""

    status: Literal["ok"]


class NodeHandlers:
    """One method for each operation."""

    def __init__(self, services: Services) -> None:
        self._readiness = services.get(Readiness)
        self._loops = services.get(Loops)
        self._metrics = services.get(Metrics)
        self._openapi = services.get(OpenApi)
        self._files = services.get(PageFiles)

    async def livez(self, _request: web.Request) -> web.StreamResponse:
        body: Health = {"status": "ok"}
        return json_answer(body)

    async def readyz(self, _request: web.Request, wanted: ReadyParams) -> web.StreamResponse:
        """Fail unless this node can serve: `for=reads` asks for less."""
        writes = wanted.for_ == "all"
        await self._readiness.expect(writes=writes)
        dead = [name for name in self._loops.dead() if writes or name not in WRITING_LOOPS]
        if dead:
            raise Overloaded(f"background loops do not go on: {', '.join(dead)}; restart this node", reason="loops")
        body: Health = {"status": "ok"}
        return json_answer(body)

    async def metrics(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, _request: web.Request) -> web.StreamResponse:
        # Made at the first request, which takes too long for the event loop.
        return json_answer(await asyncio.to_thread(lambda: self._openapi.document))

    async def page(self, _request: web.Request) -> web.StreamResponse:
        return self._files.answer("index.html")

    async def static_file(self, request: web.Request) -> web.StreamResponse:
        return self._files.answer(request.match_info["file"])


NODE = Resource(
    NodeHandlers,
    (
        Operation(
            "GET",
            "/livez",
            NodeHandlers.livez,
            "Tell whether the process answers",
            PUBLIC,
            params=None,
            answers={200: (Health, "It does.")},
        ),
        Operation(
            "GET",
            "/readyz",
            NodeHandlers.readyz,
            "Tell whether this node can serve appends and reads",
            PUBLIC,
            params=ReadyParams,
            answers={200: (Health, "It can.")},
            errors=(400, 503),
        ),
        Operation(
            "GET",
            "/metrics",
            NodeHandlers.metrics,
            "Return the metrics in Prometheus' text format",
            Access(ADMIN),
            params=None,
            answers={200: ("text/plain", "The metrics.")},
        ),
        Operation(
            "GET",
            "/openapi.json",
            NodeHandlers.openapi,
            "Return this document",
            PUBLIC,
            params=None,
            answers={200: (dict, "The document.")},
        ),
        Operation("GET", "/", NodeHandlers.page, "The page", PUBLIC, params=None, documented=False),
        Operation(
            "GET",
            "/static/{file}",
            NodeHandlers.static_file,
            "A file of the page",
            PUBLIC,
            params=None,
            documented=False,
        ),
    ),
)
