"""What happens on a WebSocket: its messages, each answered in order; its subscriptions, each with its own filter and position."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import structlog

from streamer.access.keys import Keyring
from streamer.access.principal import READ, WRITE, Principal
from streamer.access.visibility import Visibility
from streamer.core.errors import InternalError, RateLimited, StreamerError, ValidationError, WorkspaceNotFound
from streamer.core.filter import parse_filter
from streamer.core.ids import is_id
from streamer.fanout.connection import Connection, Reader, Subscription
from streamer.fanout.subscribers import Subscribers
from streamer.feed.reasons import Reason
from streamer.http.bodies import MAX_SMALL_BYTES, parse_json
from streamer.http.middleware import error_content
from streamer.http.models import check
from streamer.http.native import events, schemas
from streamer.http.operation import check_writable
from streamer.http.paging import parse_bound
from streamer.http.streaming import SocketLimits
from streamer.ingest.intake import Intake
from streamer.ingest.redact import Redactor
from streamer.observe.watchdog import OPERATION
from streamer.transports.sink import ending
from streamer.transports.websocket import WebSocketEncoder, WebSocketSink, message

DEFAULT = "default"
"""The subscription that the URL of a workspace's socket makes."""


class Socket:
    """One socket, in the name of a principal; with a workspace it is that one's, else it is for many."""

    connection: Connection
    sink: WebSocketSink

    def __init__(  # noqa: PLR0913, PLR0917 - what a socket is made of
        self,
        feed: Subscribers,
        intake: Intake,
        keyring: Keyring,
        visibility: Visibility,
        principal: Principal,
        limits: SocketLimits,
        redactor: Redactor,
        *,
        workspace: str | None = None,
        reader: Reader | None = None,
    ) -> None:
        self._feed = feed
        self._intake = intake
        self._keyring = keyring
        self._visibility = visibility
        self._principal = principal
        self._limits = limits
        self._redactor = redactor
        self._workspace = workspace
        self._readers: dict[str, Reader] = {DEFAULT: reader} if reader else {}

    # ---- as transports/websocket calls it

    async def begin(self, connection: Connection, sink: WebSocketSink) -> None:
        """Start the subscription that came with the URL."""
        self.connection, self.sink = connection, sink
        for sub, reader in list(self._readers.items()):
            self._start(sub, reader)

    async def take(self, text: str) -> None:
        """Do what a message asks for. An error is answered, and the socket goes on."""
        echo: dict[str, Any] = {}
        try:
            parsed = await parse_json(text.encode(), self._limits.message_values, "message")
            if not isinstance(parsed, dict):
                raise ValidationError({"message": "must be an object"})  # noqa: TRY301
            echo = {name: parsed[name] for name in ("sub", "ref") if isinstance(parsed.get(name), str)}
            kind = parsed.get("type")
            if not isinstance(kind, str) or kind not in schemas.MESSAGES:
                raise ValidationError({"type": f"must be one of {', '.join(schemas.MESSAGES)}"})  # noqa: TRY301
            if kind != "publish" and len(text) > MAX_SMALL_BYTES:
                raise ValidationError({"message": f"{kind} has at most {MAX_SMALL_BYTES} bytes"})  # noqa: TRY301
            OPERATION.set(kind)
            # Not an attribute: with its own bound methods the socket would be a cycle.
            takers: dict[str, Callable[[dict[str, Any]], Awaitable[None]]] = {
                "subscribe": self._subscribe,
                "unsubscribe": self._unsubscribe,
                "publish": partial(self._publish, size=len(text)),
                "ping": self._ping,
            }
            await takers[kind](check(schemas.MESSAGES[kind], parsed))
        except StreamerError as error:
            self._refuse(error, echo)
        except Exception:  # noqa: BLE001
            # Logged with its traceback; what the other subscriptions bring is not touched by it.
            structlog.get_logger("websocket").exception("message_failed", principal=self._principal.id)
            self._refuse(InternalError("something went wrong; the server's log says more"), echo)

    def refuse_binary(self) -> None:
        """Say that a binary message is none."""
        self._refuse(ValidationError({"message": "must be text: JSON in UTF-8"}), {})

    def _say(self, data: bytes) -> None:
        """Answer; what was asked before the socket was closed may end after it, and nothing follows the farewell."""
        if not self.connection.closed:
            self.sink.write(data)

    def _refuse(self, error: StreamerError, echo: Mapping[str, Any]) -> None:
        content = error_content(error, self._redactor)
        if error.retry_after is not None:  # there is no Retry-After here
            content["details"] = {**content.get("details", {}), "retry_after": error.retry_after}
        # What is echoed is not made longer than what may be sent.
        self._say(message("error", error=content, **{name: value[:128] for name, value in echo.items()}))

    # ---- messages

    async def _subscribe(self, body: dict[str, Any]) -> None:
        sub, workspace = body["sub"], self._workspace_of(body)
        wrong: dict[str, str] = {}
        start = None
        try:
            start = parse_bound(body["after"]) if body.get("after") else None
        except ValueError as error:
            wrong["after"] = str(error)
        try:
            selection = parse_filter(schemas.filter_of(body))
        except ValidationError as error:
            wrong |= error.fields
        if sub in self._readers:
            wrong["sub"] = "is in use on this socket: unsubscribe it, or take another name"
        if wrong:
            raise ValidationError(wrong)
        if len(self._readers) >= self._limits.subscriptions:
            raise RateLimited(f"this socket has {self._limits.subscriptions} subscriptions, which is the limit")
        principal = await self._keyring.current(self._principal)
        principal.need(workspace, READ)
        if not is_id(workspace):  # a database may refuse to look for such a text
            raise WorkspaceNotFound
        selection = await self._visibility.authorize(principal, workspace, selection)
        links = principal.links(workspace)
        self._start(sub, await self._feed.follow(Subscription(workspace, principal.account, selection, start, links)))

    async def _unsubscribe(self, body: dict[str, Any]) -> None:
        reader = self._readers.pop(body["sub"], None)
        if reader is None:
            raise ValidationError({"sub": "there is no such subscription on this socket"})
        self._feed.leave(reader)
        self._say(message("closed", sub=body["sub"], ref=body.get("ref"), **ending(Reason.UNSUBSCRIBED)))

    async def _publish(self, body: dict[str, Any], *, size: int) -> None:
        workspace, key = self._workspace_of(body), body.get("idempotency_key")
        principal = await self._keyring.current(self._principal)
        principal.need(workspace, WRITE)
        self._intake.rate.check(principal.account)
        check_writable(workspace)
        if key is not None:
            events.check_idempotency_key(key, "idempotency_key")
        if ("event" in body) == ("events" in body):
            raise ValidationError({"event": "send either event or events"})
        try:
            appended = await events.append(
                self._intake,
                principal,
                workspace,
                body["events"] if "events" in body else body["event"],
                size=size,
                idempotency_key=key,
            )
        except ValidationError as error:
            if "events" in body:
                raise
            raise ValidationError({f"event.{name}": wrong for name, wrong in error.fields.items()}) from None
        # Not the events themselves: who sent a batch of megabytes may not take a message of megabytes.
        stored = [{"id": event.id, "seq": event.seq} for event in appended.events]
        self._say(message("published", events=stored, created=appended.created, ref=body.get("ref")))

    async def _ping(self, body: dict[str, Any]) -> None:
        self._say(message("pong", ref=body.get("ref")))

    # ---- subscriptions

    def _workspace_of(self, body: Mapping[str, Any]) -> str:
        """Return the workspace that a message is about."""
        workspace = body.get("workspace", self._workspace)
        if workspace is None:
            raise ValidationError({"workspace": "required"})
        if self._workspace not in {None, workspace}:
            raise ValidationError({"workspace": f"this socket is for {self._workspace}; /v1/ws is for many"})
        return str(workspace)

    def _start(self, sub: str, reader: Reader) -> None:
        self._readers[sub] = reader
        self._feed.start(reader, self.connection, WebSocketEncoder(sub), partial(self._ended, sub))

    def _ended(self, sub: str, reason: Reason) -> None:
        """Say that the server ended a subscription. A workspace's own socket ends with it: there is nothing else to come."""
        self._readers.pop(sub, None)
        if self._workspace is not None:
            self.connection.close(reason)
        else:
            self._say(message("closed", sub=sub, **ending(reason)))
