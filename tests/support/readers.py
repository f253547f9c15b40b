"""One interface for all kinds of readers, so that one suite can test their common guarantees."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Protocol

import aiohttp

from tests.support.api import Answer, Api, events
from tests.support.sse import SseReader, StreamEnded
from tests.support.waiting import SECONDS
from tests.support.websocket import WsReader, open_socket

BEGINNING = "2000-01-01T00:00:00Z"

Event = dict[str, Any]

LOST = (StreamEnded, ConnectionError, asyncio.IncompleteReadError, aiohttp.ClientError, EOFError)
"""How a reader notices that its server has disappeared."""


class Ended(AssertionError):
    """The server ended the reading with a reason, or the connection was dropped without one."""

    def __init__(self, reason: str | None, *, reconnect: bool = True) -> None:
        super().__init__(reason or "cut")
        self.reason = reason
        self.reconnect = reconnect


class Refused(AssertionError):
    """The server refused the reader."""

    def __init__(self, status: int | None, error: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {error}")
        self.status = status
        """The response's status; None on a socket that was already open."""
        self.code: str = error["code"]
        self.details: Mapping[str, Any] = error.get("details", {})

    @property
    def fields(self) -> set[str]:
        """Return the names of the wrong fields."""
        return set(self.details["fields"])


class Reader(Protocol):
    """A reader of one workspace. It reads only when asked to."""

    @property
    def position(self) -> str | None:
        """Return its position: exactly after the last event that `some` returned."""

    async def some(self) -> list[Event]:
        """Return the next events that arrive together, at least one. Raises Ended, Refused."""

    async def synced(self) -> list[Event]:
        """Read until the server reports that the replay is complete. Return the events before that."""

    async def gap(self) -> Mapping[str, Any]:
        """Return the gap that the server reports, which must be the next message."""

    async def moved_to(self, position: str) -> None:
        """Read until the position is this one, and require that no event arrives."""

    async def ended(self) -> Ended:
        """Read until the server ends it. Return the reason."""

    def abort(self) -> None:
        """Drop the connection."""

    def close(self) -> None:
        """Close the reader."""


class Kind(Protocol):
    """A kind of reader."""

    name: str
    says_gaps: bool
    """A gap is reported in the feed, not by an error."""
    has_connection: bool
    """It stays connected, so it can be closed with a reason, and can be slow."""

    async def open(self, api: Api, workspace: str, *, position: str | None = None, **options: Any) -> Reader:
        """Start to read: after a position, as the options say (`after`, filters, `receive_buffer`), or now.

        Raises:
            Refused: The server refuses the reader.
        """


async def take(reader: Reader, count: int) -> list[Event]:
    """Return the next events, at least `count`."""
    found: list[Event] = []
    async with asyncio.timeout(SECONDS):
        while len(found) < count:
            found += await reader.some()
    return found


async def seqs_of(reader: Reader, count: int) -> list[int]:
    """Return the seqs of the next events, exactly `count`."""
    return [event["seq"] for event in await take(reader, count)]


# ---- server-sent events


class SseKind:
    """GET …/events/stream."""

    name = "sse"
    says_gaps = has_connection = True

    async def open(self, api: Api, workspace: str, *, position: str | None = None, **options: Any) -> "SseFollower":
        """Open a stream."""
        stream = await api.stream(workspace, last_event_id=position, **options)
        if stream.status != 200:
            answer = Answer(stream.status, stream.headers, await stream.body())
            stream.close()
            raise Refused(answer.status, answer.json["error"])
        return SseFollower(stream, position)


class SseFollower:
    """A stream."""

    def __init__(self, stream: SseReader, position: str | None) -> None:
        self.stream = stream
        stream.position = position
        self.retry: int | None = None
        """The server's last reconnect delay in milliseconds."""

    @property
    def position(self) -> str | None:
        return self.stream.position

    async def some(self) -> list[Event]:
        while True:
            block = await self._block()
            if block.event == "activity":
                return [block.json]

    async def synced(self) -> list[Event]:
        found = []
        while (block := await self._block()).event != "synced":
            if block.event == "activity":
                found.append(block.json)
        assert block.json == {"position": block.id}
        return found

    async def gap(self) -> Mapping[str, Any]:
        block = await self._block()
        assert block.event == "gap", block
        said: dict[str, Any] = block.json
        assert said["position"] == block.id
        return said

    async def moved_to(self, position: str) -> None:
        while self.position != position:
            assert (await self._block()).event != "activity"

    async def ended(self) -> Ended:
        try:
            while True:
                await self._block()
        except Ended as ended:
            await self.stream.ended()
            return ended

    def abort(self) -> None:
        with contextlib.suppress(OSError):  # it may be closed already
            self.stream.abort()

    def close(self) -> None:
        self.stream.close()

    async def _block(self) -> Any:
        try:
            block = await self.stream.next()
        except LOST as error:
            self.close()
            raise Ended(None) from error
        if block.retry is not None:
            self.retry = block.retry
        if block.event == "closed":
            raise Ended(block.json["reason"], reconnect=block.json["reconnect"])
        return block


# ---- WebSocket

CODES = {
    "shutdown": 4000,
    "rotated": 4001,
    "stalled": 4002,
    "store_unavailable": 4003,
    "reset": 4004,
    "internal_error": 4005,
    "workspace_deleted": 4500,
    "credential_revoked": 4501,
    "credential_expired": 4502,
    "signed_out": 4503,
    "replaced": 4504,
    "access_changed": 4006,
    "overloaded": 4007,
    "message_timeout": 4008,
    "access_revoked": 4505,
}
"""The documented close code of each reason."""


class WebSocketKind:
    """GET …/events/ws: a workspace's own socket."""

    name = "websocket"
    says_gaps = has_connection = True

    async def open(self, api: Api, workspace: str, *, position: str | None = None, **options: Any) -> "WsFollower":
        """Open the workspace's socket."""
        if position is not None:
            options["after"] = position
        socket = await open_socket(api, workspace, **options)
        if socket.status != 101:
            answer = await socket.answer()
            raise Refused(answer.status, answer.json["error"])
        return WsFollower(socket, "default", position, alone=True)


class SubscriptionKind:
    """GET /v1/ws, and a subscription on it."""

    name = "subscription"
    says_gaps = has_connection = True

    async def open(
        self,
        api: Api,
        workspace: str,
        *,
        position: str | None = None,
        receive_buffer: int | None = None,
        headers: Any = None,
        **options: Any,
    ) -> "WsFollower":
        """Open the multiplexed socket and subscribe."""
        socket = await open_socket(api, receive_buffer=receive_buffer, headers=headers)
        if socket.status != 101:
            answer = await socket.answer()
            raise Refused(answer.status, answer.json["error"])
        wanted = {"type": "subscribe", "sub": "mine", "workspace": workspace, **options}
        if position is not None:
            wanted["after"] = position
        await socket.send(wanted)
        return WsFollower(socket, "mine", position, alone=False)


class WsFollower:
    """A subscription on a socket."""

    def __init__(self, socket: WsReader, sub: str, position: str | None, *, alone: bool) -> None:
        self.socket = socket
        self._sub = sub
        self._alone = alone
        """The socket ends with it."""
        if position is not None:
            socket.positions[sub] = position

    @property
    def position(self) -> str | None:
        return self.socket.positions.get(self._sub)

    async def some(self) -> list[Event]:
        while True:
            message = await self._message()
            if message["type"] == "events" and message["events"]:
                found: list[Event] = message["events"]
                return found

    async def synced(self) -> list[Event]:
        found: list[Event] = []
        while (message := await self._message())["type"] != "synced":
            found += message.get("events", [])
        assert set(message) == {"type", "sub", "position"}
        return found

    async def gap(self) -> Mapping[str, Any]:
        message = await self._message()
        assert message["type"] == "gap", message
        return {name: value for name, value in message.items() if name not in {"type", "sub"}}

    async def moved_to(self, position: str) -> None:
        while self.position != position:
            assert not (await self._message()).get("events")

    async def ended(self) -> Ended:
        """Read to the end, and require that the close code matches the reason if the socket ended."""
        found: Ended | None = None
        while found is None:
            try:
                await self._message()
            except Ended as ended:
                found = ended
        if self._alone and found.reason is not None:
            assert await self.socket.closed() == (CODES[found.reason], found.reason)
        self.close()
        return found

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.abort()

    def close(self) -> None:
        self.socket.close()

    async def _message(self) -> Any:
        try:
            message = await self.socket.next()
        except LOST as error:
            self.close()
            raise Ended(None) from error
        if message["type"] == "error":
            self.close()
            raise Refused(None, message["error"])
        if message["type"] == "closed":
            assert message.get("sub") in {self._sub, None}
            raise Ended(message["reason"], reconnect=message["reconnect"])
        assert message["sub"] == self._sub
        return message


# ---- long poll


class LongPollKind:
    """GET …/events?after=…&wait=…, repeatedly."""

    name = "longpoll"
    says_gaps = has_connection = False

    async def open(
        self,
        api: Api,
        workspace: str,
        *,
        position: str | None = None,
        after: str | None = None,
        receive_buffer: int | None = None,
        **options: Any,
    ) -> "Poller":
        """Find the start position, and poll once to check that reading is allowed."""
        poller = Poller(api, workspace, position or after or None, options)
        await poller.begin()
        return poller


class Poller:
    """A loop of polls. Between two polls, it is not connected."""

    def __init__(self, api: Api, workspace: str, after: str | None, options: Mapping[str, Any]) -> None:
        self._api = api
        self._path = events(workspace)
        self._options = options
        self._after = after
        self._first: list[Event] = []
        self._task: asyncio.Task[Answer] | None = None

    @property
    def position(self) -> str | None:
        return self._after

    async def begin(self) -> None:
        """Start now, or at `after`."""
        if self._after is None:
            self._after = (await self._page(limit=1))["position"]
        else:
            page = await self._page(after=self._after, limit=1)
            if page["events"]:  # it is read again: this needs a position, and `after` may be a timestamp
                return
            self._after = page["position"]

    async def some(self) -> list[Event]:
        """Poll until events arrive."""
        while True:
            page = await self._page(after=self._after, wait=30)
            self._after = page["position"]
            if page["events"]:
                found: list[Event] = page["events"]
                return found

    async def synced(self) -> list[Event]:
        found: list[Event] = []
        while True:
            page = await self._page(after=self._after)
            self._after = page["position"]
            if not page["events"]:
                return found
            found += page["events"]

    async def gap(self) -> Mapping[str, Any]:
        raise AssertionError("a poll reports no gap but an error")

    async def moved_to(self, position: str) -> None:
        while self._after != position:
            page = await self._page(after=self._after, wait=1)
            assert not page["events"]
            self._after = page["position"]

    async def ended(self) -> Ended:
        """Poll until the server refuses."""
        try:
            while True:
                await self.some()
        except Refused as refused:
            return Ended(refused.code, reconnect=False)
        except Ended as ended:
            return ended

    def abort(self) -> None:
        """Drop the connection of a waiting poll."""
        if self._task is not None:
            self._task.cancel()

    def close(self) -> None:
        self.abort()

    async def _page(self, **params: Any) -> Any:
        self._task = asyncio.create_task(self._api.get(self._path, **self._options, **params))
        try:
            answer = await self._task
        except LOST as error:
            raise Ended(None) from error
        finally:
            self._task = None
        if answer.status == 503:
            raise Ended(answer.error)
        if answer.status != 200:
            raise Refused(answer.status, answer.json["error"])
        return answer.json


SSE, WEBSOCKET, SUBSCRIPTION, LONG_POLL = SseKind(), WebSocketKind(), SubscriptionKind(), LongPollKind()
KINDS: tuple[Kind, ...] = (SSE, WEBSOCKET, SUBSCRIPTION, LONG_POLL)
CONNECTED: tuple[Kind, ...] = (SSE, WEBSOCKET, SUBSCRIPTION)


class Diary:
    """The events of a reader that always reconnects, over all its connections."""

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.position: str | None = None
        self.connections = 0
        self.endings: list[str | None] = []
        """The reasons for which the connections ended."""

    async def keep(self, kind: Kind, api: Api, workspace: str, *, until: int, **options: Any) -> None:
        """Read from the start up to this seq, and reconnect whenever the connection is lost or the server asks for it."""
        while not self.seqs or self.seqs[-1] < until:
            where = {"after": BEGINNING} if self.position is None else {"position": self.position}
            try:
                reader = await kind.open(api, workspace, **where, **options)
            except (OSError, *LOST, Ended):
                await asyncio.sleep(0.02)  # as every client, it waits before it retries
                continue
            self.connections += 1
            try:
                while not self.seqs or self.seqs[-1] < until:
                    self.seqs += [event["seq"] for event in await reader.some()]
                    self.position = reader.position
            except Ended as ended:
                self.endings.append(ended.reason)
                self.position = reader.position or self.position
                if not ended.reconnect:
                    raise
            finally:
                reader.abort()
