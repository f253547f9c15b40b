"""The node itself: probes, metrics, the OpenAPI document and the page."""

import asyncio
from pathlib import Path
from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field, with_config
from typing_extensions import TypedDict

from streamer.access.authorize import PUBLIC, Access
from streamer.access.principal import ADMIN
from streamer.bus.cluster import Cluster, Node
from streamer.core.errors import NotFound, Overloaded
from streamer.http.admission import Admission
from streamer.http.native.openapi import OpenApi
from streamer.http.native.params import ReadyParams
from streamer.http.native.schemas import ANSWER, Time
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


@with_config(ANSWER)
class Readyz(TypedDict):
    """The answer of a node that is ready."""

    status: Literal["ok"]
    bus: Annotated[
        Literal["none", "ok", "degraded"],
        Field(
            description="The bus to other nodes; `none`: there is none. `degraded`: events of other nodes arrive up to a second later."
        ),
    ]


@with_config(ANSWER)
class NodeOut(TypedDict):
    """A node of the installation."""

    id: Annotated[str, Field(description="New at each start.")]
    name: str
    version: str
    started_at: Time
    is_self: Annotated[bool, Field(description="Whether it is the node that answers.")]
    streams: Annotated[int, Field(description="Open subscriptions.")]
    workspaces: Annotated[int, Field(description="Workspaces with readers on the node.")]
    lag_seconds: Annotated[float, Field(description="How long its last probe took over the bus and back.")]
    clock_skew_seconds: Annotated[float, Field(description="How far its clock is ahead of the answering node's.")]


@with_config(ANSWER)
class Nodes(TypedDict):
    """The nodes of the installation that the answering node hears."""

    bus: Annotated[
        list[str], Field(description="What announces commits to other nodes: `workers`, `redis`, `postgres`.")
    ]
    bus_state: Literal["none", "ok", "degraded"]
    nodes: list[NodeOut]


class NodeHandlers:
    """One method for each operation."""

    def __init__(self, services: Services) -> None:
        self._cluster = services.get(Cluster)
        self._admission = services.get(Admission)
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
        if self._admission.is_stopping:
            raise Overloaded("this node is stopping", reason="draining")
        writes = wanted.for_ == "all"
        await self._readiness.expect(writes=writes)
        dead = [name for name in self._loops.dead() if writes or name not in WRITING_LOOPS]
        if dead:
            raise Overloaded(f"background loops do not go on: {', '.join(dead)}; restart this node", reason="loops")
        body: Readyz = {"status": "ok", "bus": self._bus_state()}
        return json_answer(body)

    def _bus_state(self) -> Literal["none", "ok", "degraded"]:
        if not self._cluster.carriers:
            return "none"
        return "ok" if self._cluster.is_proven else "degraded"

    async def list_nodes(self, _request: web.Request) -> web.StreamResponse:
        nodes = [_node(node) for node in self._cluster.nodes()]
        return json_answer({"bus": self._cluster.carriers, "bus_state": self._bus_state(), "nodes": nodes})

    async def metrics(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, _request: web.Request) -> web.StreamResponse:
        # Made at the first request, which takes too long for the event loop.
        return json_answer(await asyncio.to_thread(lambda: self._openapi.document))

    async def page(self, _request: web.Request) -> web.StreamResponse:
        return self._files.answer("index.html")

    async def static_file(self, request: web.Request) -> web.StreamResponse:
        return self._files.answer(request.match_info["file"])


def _node(node: Node) -> NodeOut:
    about = node.about
    return {
        "id": node.id,
        "name": str(about.get("name", "")),
        "version": str(about.get("version", "")),
        "started_at": str(about.get("started_at", "")),
        "is_self": node.is_self,
        "streams": int(about.get("streams", 0)),
        "workspaces": int(about.get("workspaces", 0)),
        "lag_seconds": float(about.get("lag", 0)),
        "clock_skew_seconds": node.clock_skew_us / 1e6,
    }


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
            answers={200: (Readyz, "It can.")},
            errors=(400, 503),
        ),
        Operation(
            "GET",
            "/v1/nodes",
            NodeHandlers.list_nodes,
            "List the nodes of the installation",
            Access(ADMIN),
            params=None,
            answers={200: (Nodes, "The nodes that this one hears, itself first.")},
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
