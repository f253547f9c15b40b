"""An operation of an API: one declaration that serves routing, access, the checks of a request, and the OpenAPI document."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import TypeAdapter

from streamer.access.authorize import PRINCIPAL, Access, Gate
from streamer.core.errors import StreamerError, ValidationError, WorkspaceNotFound
from streamer.core.ids import RESERVED_EVENT_IDS, SYSTEM_WORKSPACE, is_id
from streamer.http.admission import OPENING, Admission
from streamer.http.bodies import Bodies
from streamer.http.models import Bounds, NoParams, Params, check, check_encoding, names_of, read_query
from streamer.http.services import Services
from streamer.ingest.intake import Intake
from streamer.observe.watchdog import OPERATION

WORKSPACE: web.RequestKey[str] = web.RequestKey("workspace", str)
"""The path's workspace, checked."""


def readable(workspace: str) -> str:
    """Return a workspace's id. Raises WorkspaceNotFound if no workspace can have it."""
    if not is_id(workspace):  # a database may refuse to look for such a text
        raise WorkspaceNotFound
    return workspace


def check_writable(workspace: str) -> str:
    """Return a workspace's id if it is well-formed and not reserved. Raises ValidationError."""
    if not is_id(workspace):
        raise ValidationError({"workspace": "1-128 of A-Z a-z 0-9 . _ : ~ @ -"})
    if workspace == SYSTEM_WORKSPACE:
        raise ValidationError({"workspace": f"{SYSTEM_WORKSPACE} is reserved for the server's own events"})
    return workspace


@dataclass(frozen=True, slots=True)
class Operation:
    """What an operation takes, answers and needs."""

    method: str
    path: str
    handler: Callable[..., Awaitable[web.StreamResponse]]
    """A method of the resource's handlers. It is called with the request, then the parameters if there are any, then the body."""
    summary: str
    access: Access
    params: type[Params] | None = NoParams
    """The parameters of the query; None: they are not looked at."""
    headers: tuple[str, ...] = ()
    body: TypeAdapter[Any] | None = None
    """The JSON body."""
    answers: Mapping[int, tuple[Any, str]] = field(default_factory=dict)
    """What each status of a success has in its body, and means: a model, models in a tuple, a media type, or None for no body."""
    errors: tuple[int, ...] = ()
    appends: bool = False
    """It appends events, and reads its body itself. The limit of appends counts for it, and its answers state that limit."""
    workspace: Callable[[str], str] = readable
    """Checks the path's workspace, if there is one in it."""
    streams: bool = False
    """The answer goes on; HEAD makes no sense. A bounded number of them is opened at once."""
    documented: bool = True
    """Part of the OpenAPI document; the page's files are not."""
    answers_head: bool = True
    """HEAD is answered as GET, without a body (RFC 9110, 9.3.2)."""

    @property
    def operation(self) -> str:
        """Its name: the handler's, and the operation's id in the document."""
        return self.handler.__name__

    @property
    def query(self) -> tuple[str, ...]:
        """The names of the query's parameters."""
        return names_of(self.params) if self.params is not None else ()

    @property
    def pattern(self) -> str:
        """The path as the router matches it: an event's id is never a word that has a route of its own."""
        return self.path.replace("/events/{id}", f"/events/{{id:(?!(?:{'|'.join(RESERVED_EVENT_IDS)})$)[^{{}}/]+}}")


def endpoint(operation: Operation, handlers: object, services: Services) -> Handler:
    """Return what the router calls: it decides on access before anything else is looked at, checks the request, and calls the handler.

    Args:
        operation: what it is.
        handlers: whose method the operation's handler is.
        services: where the gate, the bodies and the limits are.
    """
    gate, bodies, bounds, rate = (
        services.get(Gate),
        services.get(Bodies),
        services.get(Bounds),
        services.get(Intake).rate,
    )
    handler = operation.handler.__get__(handlers)
    params, body, access, appends = operation.params, operation.body, operation.access, operation.appends
    checked = operation.workspace if "{ws}" in operation.path else None
    name = operation.operation

    async def handle(request: web.Request) -> web.StreamResponse:
        OPERATION.set(name)
        principal = await gate.decide(request, access)
        if principal is not None:
            request[PRINCIPAL] = principal
        if checked is not None:
            request[WORKSPACE] = checked(request.match_info["ws"])
        arguments: list[Any] = []
        if params is not None:
            check_encoding(request.rel_url.raw_query_string)
            if params is not NoParams:
                arguments.append(read_query(params, request.query, bounds))
            elif request.query:
                read_query(NoParams, request.query)
        if appends and principal is not None:
            rate.check(principal.account)  # before the body is read, so that a flood is cheap to refuse
        elif body is not None:
            arguments.append(check(body, await bodies.json(request)))
        answer: web.StreamResponse = await handler(request, *arguments)
        return answer

    admission = services.get(Admission)

    async def open_stream(request: web.Request) -> web.StreamResponse:
        OPERATION.set(name)
        opening = request[OPENING] = admission.open()  # before the gate, which may ask the database
        try:
            return await handle(request)
        finally:
            opening.done()

    return open_stream if operation.streams else handle


@dataclass(frozen=True, slots=True)
class Refusal:
    """How an API says an error: status, JSON (or a text, if it is one), and headers."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


RenderError = Callable[[StreamerError, web.Request], Refusal]
"""How an API says errors. Secrets in what it quotes are replaced later; `Retry-After` and `Allow` are set for it."""


@dataclass(frozen=True, slots=True)
class Resource:
    """Some operations, and what makes the object whose methods handle them."""

    handlers: Callable[[Services], object]
    operations: Sequence[Operation]


@dataclass(frozen=True, slots=True)
class Dialect(Resource):
    """A foreign API over our log."""

    name: str
    """What it is called in the settings."""
    prefixes: tuple[str, ...]
    """Its error format applies to all paths with these prefixes, including paths that do not exist."""
    render_error: RenderError | None
    """None: as the native API does."""
