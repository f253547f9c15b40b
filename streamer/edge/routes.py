"""What a route is: one operation of an API, and who may use it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from streamer.auth.access import Access
from streamer.core.errors import StreamerError
from streamer.core.ids import RESERVED_EVENT_IDS
from streamer.edge.models import Params, names_of


@dataclass(frozen=True, slots=True)
class Route:
    """One operation."""

    method: str
    path: str
    operation: str
    """The handler's name, and the operation's id in the document."""
    summary: str
    access: Access
    params: type[Params] | None = None
    """The parameters of the query."""
    headers: tuple[str, ...] = ()
    body: Any = None
    """The pydantic adapter of the JSON body."""
    answers: tuple[tuple[int, str, str], ...] = ()
    """Status, schema or media type, and meaning of each success."""
    errors: tuple[int, ...] = ()
    appends: bool = False
    """The limit of appends counts for it, and its answers tell of it."""
    streams: bool = False
    """The answer goes on; HEAD makes no sense."""
    documented: bool = True
    """Part of the OpenAPI document; the page's files are not."""
    answers_head: bool = True
    """HEAD is answered as GET, without a body (RFC 9110, 9.3.2)."""

    @property
    def query(self) -> tuple[str, ...]:
        """The names of the query's parameters."""
        return names_of(self.params) if self.params is not None else ()

    @property
    def pattern(self) -> str:
        """The path as the router matches it: an event's id is never a word that has a route of its own."""
        return self.path.replace("/events/{id}", f"/events/{{id:(?!(?:{'|'.join(RESERVED_EVENT_IDS)})$)[^{{}}/]+}}")


@dataclass(frozen=True, slots=True)
class Refusal:
    """How an API says an error: status, JSON (or a text, if it is one), and headers."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


Manner = Callable[[StreamerError, web.Request], Refusal]
"""How an API says errors. Secrets in what it quotes are replaced later; `Retry-After` and `Allow` are set for it."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A foreign API over our log."""

    name: str
    """What it is called in the settings."""
    prefixes: tuple[str, ...]
    """Its errors are said for all paths that begin so, also for those that do not exist."""
    routes: Sequence[Route]
    handlers: Callable[[Any], Any]
    """Makes of the parts (`edge.base.Parts`) what has a method for each operation."""
    manner: Manner | None
    """None: as the native API does."""
