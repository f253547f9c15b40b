"""The calls of the native API."""

import uuid
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from types import TracebackType
from typing import Any, Literal, Self, overload
from urllib.parse import quote

import orjson

from streamer.client.backoff import Timing
from streamer.client.calls import Caller
from streamer.client.following import Stream
from streamer.client.messages import Activity, Connected, Event, Lost, Reader, epoch_of

Filters = Mapping[str, str | Sequence[str]]
"""Filter parameters as in the API: `{"action": ["issue.*", "!issue.deleted"], "actor_type": "agent"}`."""


def _nobody(_notice: Connected | Lost) -> None:
    """Ignore a notice."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of history. `cursor` is set if there may be more; a stream that starts after `position` misses nothing."""

    events: list[Activity]
    cursor: str | None
    position: str


class Client:
    """Calls one server with one key. As an asynchronous context manager it shares connections between its calls."""

    def __init__(self, url: str, key: str | None, *, timing: Timing | None = None) -> None:
        """Prepare the client; nothing is sent yet.

        Args:
            url: the server's URL, such as `http://127.0.0.1:8080`.
            key: the credential; None sends none.
            timing: delays and time limits, if not the defaults.

        Raises:
            ValueError: the URL is not that of a server or contains a password, or the key is not valid in a header.
        """
        self._timing = timing or Timing()
        self._caller = Caller(url, key, self._timing)

    async def __aenter__(self) -> Self:
        self._caller.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._caller.close()

    @overload
    async def append(self, workspace: str, events: Mapping[str, Any], idempotency_key: str | None = None) -> Event: ...
    @overload
    async def append(
        self, workspace: str, events: Sequence[Mapping[str, Any]], idempotency_key: str | None = None
    ) -> list[Event]: ...
    async def append(
        self,
        workspace: str,
        events: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        idempotency_key: str | None = None,
    ) -> Event | list[Event]:
        """Append one event or a batch, all or nothing; return the stored events in the same order.

        Args:
            workspace: the workspace to append to.
            events: an event or a sequence of them.
            idempotency_key: repeating the call with the same key stores nothing new; generated if absent.

        Raises:
            ApiError, Unreachable, UnexpectedAnswer: see the module. Only after `Unreachable` is the outcome unknown.
        """
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        single = isinstance(events, Mapping)
        answer = await self._call(
            "POST",
            f"{_path(workspace)}/events",
            has=("seq",) if single else ("events",),
            body=events,
            headers=headers,
        )
        if single:
            return answer
        stored: list[Event] = answer["events"]
        return stored

    async def workspace(self, workspace: str) -> dict[str, Any]:
        """Return a workspace's fields; `position` is its head, `earliest` the position before its first event."""
        return await self._call("GET", _path(workspace), has=("position", "earliest"))

    async def event(self, workspace: str, event_id: str) -> Event:
        """Return one event."""
        return await self._call("GET", f"{_path(workspace)}/events/{quote(event_id, safe='')}", has=("seq",))

    async def page(  # noqa: PLR0913 - the parameters of the call
        self,
        workspace: str,
        *,
        order: Literal["asc", "desc"] | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        after: str | None = None,
        before: str | None = None,
        filters: Filters | None = None,
    ) -> Page:
        """Return one page of history.

        Args:
            workspace: the workspace to read.
            order: newest first (`desc`) unless `after` is given.
            limit: maximum number of events in the page, 1-1000; large events fill it sooner.
            cursor: the end of the previous page; the filters must be the same.
            after: a position or an RFC 3339 timestamp; exclusive lower bound.
            before: a position or an RFC 3339 timestamp; exclusive upper bound.
            filters: conditions for the events.
        """
        given = {"order": order, "limit": limit, "cursor": cursor, "after": after, "before": before}
        query = [(name, str(value)) for name, value in given.items() if value is not None] + _pairs(filters)
        answer = await self._call("GET", f"{_path(workspace)}/events", has=("events", "position"), query=query)
        epoch = epoch_of(answer["position"])
        # The server encodes JSON with orjson, which reproduces it byte for byte.
        events = [Activity(f"{epoch}.{event['seq']}", orjson.dumps(event)) for event in answer["events"]]
        return Page(events, answer.get("cursor"), answer["position"])

    async def history(  # noqa: PLR0913 - the parameters of the call
        self,
        workspace: str,
        *,
        order: Literal["asc", "desc"] | None = None,
        limit: int | None = None,
        after: str | None = None,
        before: str | None = None,
        filters: Filters | None = None,
    ) -> AsyncGenerator[Activity]:
        """Yield history event by event, in pages of `limit`."""
        page = await self.page(workspace, order=order, limit=limit, after=after, before=before, filters=filters)
        while True:
            for activity in page.events:
                yield activity
            if page.cursor is None:
                return
            page = await self.page(workspace, limit=limit, cursor=page.cursor, filters=filters)

    def stream(
        self,
        workspace: str,
        *,
        after: str | None = None,
        filters: Filters | None = None,
        attempts: int | None = None,
        notice: Callable[[Connected | Lost], None] = _nobody,
    ) -> Stream:
        """Follow a workspace across lost connections; no event is delivered twice, and none is left out without a `Gap`.

        Args:
            workspace: the workspace to follow.
            after: a position or an RFC 3339 timestamp to start after; None: only new events.
            filters: conditions for the events.
            attempts: give up after this many consecutive attempts without a response (None: never).
            notice: called when a connection is made or lost. A connection that the server closes with `reconnect` is not a failed attempt.

        Raises:
            ApiError: the server rejects the stream.
            Unreachable: all attempts failed.
            UnexpectedAnswer: the response is not such a stream.

        A wait for the next message can be cancelled, as `asyncio.wait_for` does: the stream continues with the next
        wait. A caller that leaves the loop early should wrap the iterator in `contextlib.aclosing`, to close the
        connection at once.
        """
        path = f"{_path(workspace)}/events/stream"
        return Stream(self._caller, path, Reader(after), _pairs(filters), attempts=attempts, notice=notice)

    async def create_key(  # noqa: PLR0913 - what a key is made of
        self,
        workspace: str,
        *,
        name: str,
        scopes: Sequence[str] | None = None,
        template: str | None = None,
        actor: Mapping[str, str] | None = None,
        expires_at: str | None = None,
    ) -> dict[str, Any]:
        """Create a key. Return its fields with the secret as `key`, which the server shows only once.

        Args:
            workspace: the key's workspace.
            name: a display name.
            scopes: the key's permissions.
            template: the name of a set of scopes, instead of `scopes`.
            actor: `type` and `id` of the actor that the key acts as; None: it can claim any.
            expires_at: an RFC 3339 timestamp; None: it is valid until it is revoked.

        Raises:
            ApiError, Unreachable, UnexpectedAnswer: see the module. The call is not retried: after `Unreachable` there may be a key
                whose secret is lost; `keys` shows it.
        """
        given = {"name": name, "scopes": scopes, "template": template, "actor": actor, "expires_at": expires_at}
        body = {field: value for field, value in given.items() if value is not None}
        return await self._call("POST", f"{_path(workspace)}/keys", has=("id", "key"), body=body, once=True)

    async def keys(self, workspace: str) -> list[dict[str, Any]]:
        """Return a workspace's keys in the order of their creation, without their secrets."""
        keys = [key async for key in self._listed(workspace, "keys", "id")]
        return sorted(keys, key=itemgetter("created_at", "id"))

    async def revoke_key(self, workspace: str, key_id: str) -> None:
        """Revoke a key and close its streams.

        The call is not retried, because a retry cannot find out what the first attempt has done.
        """
        await self._call("DELETE", f"{_path(workspace)}/keys/{quote(key_id, safe='')}", has=(), once=True)

    async def members(self, workspace: str) -> AsyncGenerator[dict[str, Any]]:
        """Yield a workspace's members, ordered by id, across all pages."""
        async for member in self._listed(workspace, "members", "user"):
            yield member

    async def put_member(self, workspace: str, user: str, role: str) -> dict[str, Any]:
        """Give a person a role in a workspace, replacing the previous one. Return the member."""
        return await self._call("PUT", _member(workspace, user), has=("user", "role"), body={"role": role})

    async def remove_member(self, workspace: str, user: str) -> None:
        """Remove a person from a workspace. The call is not retried, as with `revoke_key`."""
        await self._call("DELETE", _member(workspace, user), has=(), once=True)

    async def session(self) -> dict[str, Any]:
        """Return the key's identity: `id`, `name`, `grants`, `roles`, `actor`, `expires_at`."""
        return await self._call("GET", "/v1/session", has=("id", "grants"))

    async def _listed(self, workspace: str, name: str, id_name: str) -> AsyncGenerator[dict[str, Any]]:
        """Yield the items of a workspace's list, ordered by id, across all pages."""
        query: list[tuple[str, str]] = []
        while page := (await self._call("GET", f"{_path(workspace)}/{name}", has=(name,), query=query))[name]:
            for item in page:
                yield item
            query = [("after", page[-1][id_name])]

    async def _call(self, method: str, path: str, *, has: Collection[str], **request: Any) -> dict[str, Any]:
        """Make a call; return its JSON object, which must have these keys."""
        answer = await self._caller.call(method, path, **request)
        if not (isinstance(answer, dict) and answer.keys() >= set(has)):
            raise self._caller.unexpected()
        return answer


def _path(workspace: str) -> str:
    return f"/v1/workspaces/{quote(workspace, safe='')}"


def _member(workspace: str, user: str) -> str:
    return f"{_path(workspace)}/members/{quote(user, safe='')}"


def _pairs(filters: Filters | None) -> list[tuple[str, str]]:
    named = (filters or {}).items()
    return [(name, value) for name, given in named for value in ([given] if isinstance(given, str) else given)]
