"""The handlers: read the request, call the part that knows, write its answer. One method for each operation of the route table."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from streamer.api import appending, query, schemas
from streamer.api.openapi import document
from streamer.api.socket import Socket, SocketLimits
from streamer.auth.access import COOKIE, PRINCIPAL, TICKET, Gate
from streamer.auth.administration import Administration
from streamer.auth.keys import SESSION_SECONDS, Keyring
from streamer.auth.principal import READ, TEMPLATES, Principal
from streamer.auth.tickets import Tickets
from streamer.auth.view import Views
from streamer.core.clock import LAST, format_timestamp, now_us, parse_timestamp
from streamer.core.errors import (
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
    StoreUnavailable,
    UnsupportedMediaType,
    ValidationError,
    WorkspaceNotFound,
)
from streamer.core.filter import EVERYTHING, MAX_VALUE_LENGTH, parse_filter
from streamer.core.frame import page_body
from streamer.core.ids import is_id
from streamer.core.ports import Log, Page
from streamer.core.position import Position
from streamer.feed.connection import Reader, Subscription
from streamer.feed.feed import Feed
from streamer.feed.hub import Hub
from streamer.feed.reasons import Reason
from streamer.ingest.intake import LIKE_A_SECRET, Intake
from streamer.ingest.redact import Redactor
from streamer.observe.metrics import CONTENT_TYPE, Metrics
from streamer.store.credentials import Credential
from streamer.store.database import Database
from streamer.store.members import Member, Members
from streamer.store.workspaces import Workspace, Workspaces
from streamer.transports import longpoll, sse, websocket

READY_SECONDS = 1.0
"""How long the readiness check waits for the database."""
PAGE_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
"""The kinds of files in the page's folder that are served, by their endings."""
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-cache",
}

_ENCODINGS = ("identity", "gzip", "deflate")


@dataclass(frozen=True)
class Parts:
    """What the handlers call."""

    database: Database
    log: Log
    workspaces: Workspaces
    members: Members
    administration: Administration
    views: Views
    intake: Intake
    redactor: Redactor
    hub: Hub
    feed: Feed
    gate: Gate
    keyring: Keyring
    tickets: Tickets
    metrics: Metrics
    static: Path
    max_body_bytes: int
    max_page_events: int
    max_page_bytes: int
    max_batch_events: int
    max_wait_seconds: int
    body_timeout: float
    socket_limits: SocketLimits
    sink_options: Mapping[str, Any]
    """How much a connection may hold and how long it may stand still (`transports.sink.SocketSink`)."""


class Handlers:
    """One method for each operation."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._page_files = {
            file.name: PAGE_TYPES[file.suffix] for file in parts.static.iterdir() if file.suffix in PAGE_TYPES
        }

    # ---- events

    async def append_events(self, request: web.Request) -> web.StreamResponse:
        workspace, principal = appending.check_writable(request.match_info["ws"]), request[PRINCIPAL]
        query.expect_none(_query(request))
        key = request.headers.get("Idempotency-Key")
        appending.check_idempotency_key(key, "Idempotency-Key")
        kind = _media_type(request, schemas.JSON_TYPES | schemas.NDJSON_TYPES)
        self._parts.intake.rate.check(principal.account)
        data, principal = await self._read(request, self._parts.max_body_bytes), request[PRINCIPAL]
        parsed = schemas.parse_ndjson(data) if kind in schemas.NDJSON_TYPES else schemas.parse_json(data)
        stored = await appending.append(
            self._parts.intake,
            principal,
            workspace,
            parsed,
            idempotency_key=key,
            max_events=self._parts.max_batch_events,
        )
        bodies = [event.body for event in stored.events]
        return _json_bytes(
            b'{"events":[%b]}' % b",".join(bodies) if isinstance(parsed, list) else bodies[0],
            HTTPStatus.CREATED if stored.created else HTTPStatus.OK,
        )

    async def list_events(self, request: web.Request) -> web.StreamResponse:
        workspace, principal = _readable(request), request[PRINCIPAL]
        wanted = query.parse_history(
            _query(request), max_limit=self._parts.max_page_events, max_wait=self._parts.max_wait_seconds
        )
        cursor = wanted.cursor
        after, before = wanted.after, wanted.before
        if cursor is not None:
            at = Position(cursor.epoch, cursor.seq)
            floor = None if cursor.floor is None else Position(cursor.epoch, cursor.floor)
            ceiling = None if cursor.ceiling is None else Position(cursor.epoch, cursor.ceiling + 1)
            after, before = (at, ceiling) if cursor.order == "asc" else (floor, at)
        selection = await self._parts.views.of(principal, workspace, wanted.selection)

        async def read() -> Page:
            return await self._parts.log.page(
                workspace,
                selection=selection,
                order=wanted.order,
                limit=wanted.limit,
                max_bytes=self._parts.max_page_bytes,
                after=after,
                before=before,
            )

        page = await read()
        if wanted.wait and not page.events:
            start = Position(page.head.epoch, page.examined)
            body = await self._wait(
                principal,
                Subscription(workspace, principal.account, selection, start, principal.links(workspace)),
                wanted,
            )
            if body is not None:
                return _json_bytes(body)
            page = await read()
        following = _next_cursor(wanted, page)
        if wanted.order == "asc":
            position = page.examined
        else:
            position = cursor.head if cursor else page.head.head
        bodies = [event.body for event in page.events]
        response = _json_bytes(page_body(bodies, Position(page.head.epoch, position), following))
        if following:
            kept = {n: v for n, v in request.query.items() if n not in {"cursor", "after", "before", "order"}}
            url = request.rel_url.with_query([*_pairs(request, kept), ("cursor", following)])
            response.headers["Link"] = f'<{url.raw_path_qs}>; rel="next"'
        return response

    async def get_event(self, request: web.Request) -> web.StreamResponse:
        workspace, principal = _readable(request), request[PRINCIPAL]
        query.expect_none(_query(request))
        event_id = request.match_info["id"]
        if not is_id(event_id):
            event_id = "."  # no event has it: the answer is the same as for one that does not exist
        selection = await self._parts.views.of(principal, workspace, EVERYTHING)
        event = await self._parts.log.event(workspace, event_id, selection)
        return _json_bytes(event.body)

    async def stream_events(self, request: web.Request) -> web.StreamResponse:
        reader, principal = await self._follow(request, request.headers.get("Last-Event-ID"))
        return await sse.stream(request, self._parts.feed, reader, principal.chain, **self._parts.sink_options)

    async def _wait(self, principal: Principal, subscription: Subscription, wanted: query.HistoryQuery) -> bytes | None:
        reader = await self._parts.feed.follow(subscription)
        try:
            return await longpoll.wait(
                self._parts.feed, reader, principal.chain, limit=wanted.limit, seconds=wanted.wait
            )
        finally:
            self._parts.feed.leave(reader)

    async def _follow(self, request: web.Request, last_event_id: str | None) -> tuple[Reader, Principal]:
        """Follow what a stream's request asks for; a ticket is opened by it, when nothing else can refuse the stream.

        Who gets the reader sees to it that it leaves.
        """
        workspace, principal, ticket = _readable(request), request[PRINCIPAL], request.get(TICKET)
        selection, start = query.parse_stream(_query(request), last_event_id, by_ticket=ticket is not None)
        view = await self._parts.views.of(principal, workspace, selection)
        wanted = Subscription(workspace, principal.account, view, start, principal.links(workspace))
        self._parts.hub.see_room(principal.bearer)
        reader = await self._parts.feed.follow(wanted)
        try:
            if ticket is not None:
                # A browser's WebSocket cannot send Last-Event-ID: there the URL's position says where it left.
                resumes = isinstance(start, Position) and (last_event_id or "Upgrade" in request.headers)
                principal, before = await self._parts.tickets.open(
                    ticket, principal, reader.channel.epoch, start if resumes and isinstance(start, Position) else None
                )
                if before is not None:
                    self._parts.hub.close_link(before, Reason.REPLACED)
        except BaseException:
            self._parts.feed.leave(reader)
            raise
        return reader, principal

    # ---- sockets and tickets

    async def open_socket(self, request: web.Request) -> web.StreamResponse:
        websocket.check(request)
        reader, principal = await self._follow(request, None)
        try:
            return await self._converse(request, principal, workspace=reader.subscription.workspace, reader=reader)
        finally:
            self._parts.feed.leave(reader)

    async def open_shared_socket(self, request: web.Request) -> web.StreamResponse:
        query.expect_none(_query(request))
        websocket.check(request)
        self._parts.hub.see_room(request[PRINCIPAL].bearer)
        return await self._converse(request, request[PRINCIPAL])

    async def _converse(
        self, request: web.Request, principal: Principal, *, workspace: str | None = None, reader: Reader | None = None
    ) -> web.StreamResponse:
        parts = self._parts
        socket = Socket(
            parts.feed,
            parts.intake,
            parts.keyring,
            parts.views,
            principal,
            parts.socket_limits,
            parts.redactor,
            workspace=workspace,
            reader=reader,
        )
        return await websocket.serve(
            request,
            parts.feed,
            socket,
            principal.chain,
            max_message_bytes=parts.max_body_bytes,
            messages_per_second=parts.socket_limits.messages_per_second,
            **parts.sink_options,
        )

    async def create_ticket(self, request: web.Request) -> web.StreamResponse:
        query.expect_none(_query(request))
        wanted = schemas.check(schemas.TICKET, await self._json_body(request))
        principal = request[PRINCIPAL]
        workspace, parameters = wanted["workspace"], schemas.filter_of(wanted)
        principal.need(workspace, READ)
        parse_filter(parameters)
        if not is_id(workspace):
            raise WorkspaceNotFound
        await self._parts.log.head(workspace)  # a ticket is for a workspace that exists
        secret, expires_at = await self._parts.tickets.issue(principal, workspace, parameters)
        return _json({"ticket": secret, "expires_at": format_timestamp(expires_at)}, HTTPStatus.CREATED)

    # ---- workspaces

    async def list_workspaces(self, request: web.Request) -> web.StreamResponse:
        principal = request[PRINCIPAL]
        wanted = query.parse_listing(_query(request), max_limit=self._parts.max_page_events, by_org=True)
        found = await self._parts.workspaces.listing(
            principal.readable(), after=wanted.after, limit=wanted.limit, org_id=wanted.org_id
        )
        return _json({"workspaces": [_workspace(workspace) for workspace in found]})

    async def put_workspace(self, request: web.Request) -> web.StreamResponse:
        workspace, principal = appending.check_writable(request.match_info["ws"]), request[PRINCIPAL]
        query.expect_none(_query(request))
        if self._parts.redactor.holds_token(workspace):
            raise ValidationError({"workspace": LIKE_A_SECRET})
        changes = schemas.check(schemas.WORKSPACE, await self._json_body(request))
        stored, made = await self._parts.administration.put_workspace(principal, workspace, changes)
        return _json(_workspace(stored), HTTPStatus.CREATED if made else HTTPStatus.OK)

    async def get_workspace(self, request: web.Request) -> web.StreamResponse:
        query.expect_none(_query(request))
        return _json(_workspace(await self._parts.workspaces.get(_readable(request))))

    async def delete_workspace(self, request: web.Request) -> web.StreamResponse:
        workspace = appending.check_writable(request.match_info["ws"])
        query.expect_none(_query(request))
        await self._parts.administration.delete_workspace(request[PRINCIPAL], workspace)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    # ---- keys

    async def create_key(self, request: web.Request) -> web.StreamResponse:
        workspace, principal = _readable(request), request[PRINCIPAL]
        query.expect_none(_query(request))
        wanted = schemas.check(schemas.KEY, await self._json_body(request))
        if ("scopes" in wanted) == ("template" in wanted):
            raise ValidationError({"scopes": "send either scopes or a template"})
        expiry = wanted.get("expires_at")
        expires_at = parse_timestamp(expiry) if expiry else None
        if expires_at is not None and not now_us() < expires_at <= LAST:
            raise ValidationError({"expires_at": "must lie in the future, and not behind the year 9999"})
        actor = wanted.get("actor")
        made, secret = await self._parts.administration.create_key(
            principal,
            workspace,
            name=wanted["name"],
            scopes=wanted["scopes"] if "scopes" in wanted else TEMPLATES[wanted["template"]],
            actor=(actor["type"], actor["id"]) if actor else None,
            expires_at=expires_at,
        )
        return _json(_key(made) | {"key": secret}, HTTPStatus.CREATED)

    async def list_keys(self, request: web.Request) -> web.StreamResponse:
        workspace = _readable(request)
        query.expect_none(_query(request))
        await self._parts.log.head(workspace)
        return _json({"keys": [_key(key) for key in await self._parts.keyring.keys(workspace)]})

    async def revoke_key(self, request: web.Request) -> web.StreamResponse:
        query.expect_none(_query(request))
        key_id = request.match_info["id"]
        if not is_id(key_id):
            raise NotFound("no such key in this workspace")
        await self._parts.administration.revoke_key(request[PRINCIPAL], _readable(request), key_id)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    # ---- members

    async def list_members(self, request: web.Request) -> web.StreamResponse:
        workspace = _readable(request)
        wanted = query.parse_listing(_query(request), max_limit=self._parts.max_page_events)
        await self._parts.log.head(workspace)
        found = await self._parts.members.listing(workspace, after=wanted.after, limit=wanted.limit)
        return _json({"members": [_member(member) for member in found]})

    async def get_member(self, request: web.Request) -> web.StreamResponse:
        query.expect_none(_query(request))
        return _json(_member(await self._parts.members.get(_readable(request), _user(request))))

    async def put_member(self, request: web.Request) -> web.StreamResponse:
        workspace, user = _readable(request), _user(request)
        query.expect_none(_query(request))
        role = schemas.check(schemas.MEMBER, await self._json_body(request))["role"]
        member, made = await self._parts.administration.put_member(request[PRINCIPAL], workspace, user, role)
        return _json(_member(member), HTTPStatus.CREATED if made else HTTPStatus.OK)

    async def remove_member(self, request: web.Request) -> web.StreamResponse:
        workspace, user = _readable(request), _user(request)
        query.expect_none(_query(request))
        await self._parts.administration.remove_member(request[PRINCIPAL], workspace, user)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    # ---- sessions of the page

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        query.expect_none(_query(request))
        code = schemas.check(schemas.SIGN_IN, await self._json_body(request))["code"]
        secret = await self._parts.keyring.sign_in(code)
        response = _json(_session(await self._parts.keyring.principal(secret, "session")))
        response.set_cookie(
            COOKIE,
            secret,
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="Strict",
            secure=request.secure,
            path="/",
        )
        return response

    async def get_session(self, request: web.Request) -> web.StreamResponse:
        query.expect_none(_query(request))
        return _json(_session(request[PRINCIPAL]))

    async def sign_out(self, request: web.Request) -> web.StreamResponse:
        query.expect_none(_query(request))
        principal = request[PRINCIPAL]
        if not principal.id.startswith("session_"):
            raise ValidationError({"session": "this call was made with a key, not with a browser session"})
        await self._parts.keyring.sign_out(principal)
        self._parts.hub.end_links([principal.id], Reason.SIGNED_OUT)
        response = web.Response(status=HTTPStatus.NO_CONTENT)
        response.del_cookie(COOKIE, path="/")
        return response

    # ---- operations

    async def livez(self, _request: web.Request) -> web.StreamResponse:
        return _json({"status": "ok"})

    async def readyz(self, _request: web.Request) -> web.StreamResponse:
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._parts.database.ping()
        except TimeoutError:
            self._parts.metrics.store_up.set(0)
            raise StoreUnavailable("the database does not answer") from None
        except StoreUnavailable:
            self._parts.metrics.store_up.set(0)
            raise
        self._parts.metrics.store_up.set(1)
        return _json({"status": "ok"})

    async def metrics(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._parts.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, _request: web.Request) -> web.StreamResponse:
        return _json(document())

    async def page(self, _request: web.Request) -> web.StreamResponse:
        return self._page_file("index.html")

    async def static_file(self, request: web.Request) -> web.StreamResponse:
        return self._page_file(request.match_info["file"])

    def _page_file(self, name: str) -> web.StreamResponse:
        # Looked up among the names that are there: no name from outside ever becomes part of a path.
        kind = self._page_files.get(name)
        if kind is None:
            raise NotFound("no such file")
        return web.FileResponse(
            self._parts.static / name, headers={**PAGE_HEADERS, "Content-Type": f"{kind}; charset=utf-8"}
        )

    # ---- bodies

    async def _json_body(self, request: web.Request) -> Any:
        """Read a body that is no event: a few values."""
        _media_type(request, schemas.JSON_TYPES)
        return schemas.parse_json(await self._read(request, min(schemas.MAX_SMALL_BYTES, self._parts.max_body_bytes)))

    async def _read(self, request: web.Request, limit: int) -> bytes:
        """Read the body within its limits of size and time."""
        if (request.content_length or 0) > limit:
            raise PayloadTooLarge(f"the body has {request.content_length} bytes; at most {limit} are taken")
        try:
            if request.headers.get("Expect", "").lower() == "100-continue":
                # Only now: access and parameters were fine, the body is wanted (RFC 9110, 10.1.1).
                assert request.transport is not None  # noqa: S101 - there was a request a moment ago
                request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # aiohttp's own limit is the largest of all.
            source = request if limit == self._parts.max_body_bytes else request.clone(client_max_size=limit)
            if request.content.is_eof():  # it came with its head, as nearly all do: no clock is needed
                return await source.read()
            async with asyncio.timeout(self._parts.body_timeout):
                data = await source.read()
        except TimeoutError:
            raise RequestTimeout(f"the body did not arrive within {self._parts.body_timeout:g} seconds") from None
        except web.HTTPRequestEntityTooLarge:
            raise PayloadTooLarge(f"the body has more than {limit} bytes") from None
        # That took its time: access may have ended.
        principal = await self._parts.gate.again(request)
        if principal is not None:
            request[PRINCIPAL] = principal
        return data


async def expect_later(_request: web.Request) -> None:
    """Leave `100 Continue` to the moment when the body is wanted; without it the access check would come too late."""


def _readable(request: web.Request) -> str:
    """Return the path's workspace. Raises WorkspaceNotFound if no workspace can have this id."""
    workspace = request.match_info["ws"]
    if not is_id(workspace):  # a database may refuse to look for such a text
        raise WorkspaceNotFound
    return workspace


def _user(request: web.Request) -> str:
    """Return the path's member. Raises ValidationError."""
    user = request.match_info["user"]
    if len(user) > MAX_VALUE_LENGTH or "\0" in user:
        raise ValidationError({"user": f"1-{MAX_VALUE_LENGTH} characters, without U+0000"})
    return user


def _query(request: web.Request) -> query.Query:
    return {name: request.query.getall(name) for name in request.query}


def _pairs(request: web.Request, names: Any) -> list[tuple[str, str]]:
    return [(name, value) for name, value in request.query.items() if name in names]


def _media_type(request: web.Request, known: set[str]) -> str:
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in _ENCODINGS:  # aiohttp would hand the bytes on as they are
        raise UnsupportedMediaType(f"send the body as it is, or with `Content-Encoding: {' or '.join(_ENCODINGS[1:])}`")
    kind = request.content_type if "Content-Type" in request.headers else ""
    charset = (request.charset or "utf-8").lower()
    if kind not in known or charset not in {"utf-8", "utf8"}:
        raise UnsupportedMediaType(f"send `Content-Type: {' or '.join(sorted(known))}`, in UTF-8")
    return kind


def _next_cursor(wanted: query.HistoryQuery, page: Page) -> str | None:
    """Return the cursor behind a page, if there may be more."""
    if not page.full:
        return None
    previous = wanted.cursor
    floor = previous.floor if previous else page.floor if wanted.after is not None else None
    ceiling = previous.ceiling if previous else page.ceiling if wanted.before is not None else None
    head = previous.head if previous else page.head.head
    return str(query.Cursor(wanted.order, page.head.epoch, page.events[-1].seq, floor, ceiling, head))


def _json_bytes(body: bytes, status: int = HTTPStatus.OK) -> web.Response:
    return web.Response(body=body, status=status, headers={"Content-Type": "application/json"})


def _json(value: object, status: int = HTTPStatus.OK) -> web.Response:
    return _json_bytes(orjson.dumps(value), status)


def _workspace(workspace: Workspace) -> dict[str, Any]:
    log = workspace.log
    return {
        "id": workspace.id,
        "name": workspace.name,
        "org_id": workspace.org_id,
        "settings": dict(workspace.settings),
        "created_at": format_timestamp(workspace.created_at),
        "created_by": workspace.created_by,
        "position": str(log.position),
        "earliest": str(Position(log.epoch, log.earliest - 1)),
    }


def _key(key: Credential) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.grants.get(key.workspace or "", ())),
        "actor": {"type": key.actor[0], "id": key.actor[1]} if key.actor else None,
        "created_at": format_timestamp(key.created_at),
        "created_by": key.created_by,
        "expires_at": format_timestamp(key.expires_at) if key.expires_at is not None else None,
    }


def _member(member: Member) -> dict[str, Any]:
    return {
        "user": member.user,
        "role": member.role,
        "added_at": format_timestamp(member.added_at),
        "added_by": member.added_by,
    }


def _session(principal: Principal) -> dict[str, Any]:
    return {
        "id": principal.id,
        "name": principal.name,
        "grants": {workspace: sorted(scopes) for workspace, scopes in principal.grants.items()},
        "roles": dict(principal.roles),
        "actor": {"type": principal.actor[0], "id": principal.actor[1]} if principal.actor else None,
        "expires_at": format_timestamp(principal.expires_at) if principal.expires_at is not None else None,
    }
