"""The composition root: the only module that knows all parts, and the lifetime of a server from start to stop."""

import asyncio
import contextlib
import math
import os
import resource
import secrets
import stat
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from streamer import __version__
from streamer.access.authorize import PUBLIC, Gate
from streamer.access.jwks import Jwks, secret_key
from streamer.access.jwt import Rules, Tokens
from streamer.access.keys import Keyring
from streamer.access.manage import Administration
from streamer.access.revocation import WATCH_SECONDS, RevocationWatch
from streamer.access.tickets import TicketLimits, Tickets
from streamer.access.visibility import Visibility
from streamer.bus.cluster import Cluster
from streamer.bus.link import Carrier, Link
from streamer.bus.local import LocalBus
from streamer.core.actions import AUDIT_ACTIONS
from streamer.core.budget import KINDS, Budget
from streamer.core.clock import format_timestamp, now_us
from streamer.core.unread import Unread
from streamer.fanout.connections import Connections
from streamer.fanout.dependencies import Dependencies
from streamer.fanout.places import Places
from streamer.fanout.subscribers import Subscribers
from streamer.feed.channels import Channels
from streamer.http.admission import Admission
from streamer.http.bodies import Bodies
from streamer.http.dialects import DIALECTS
from streamer.http.dialects.evershell.handlers import StreamSeconds
from streamer.http.dialects.praisonai.handlers import Zone
from streamer.http.issues import Issues
from streamer.http.merge import Merge
from streamer.http.middleware import malformed_response, middlewares, set_headers
from streamer.http.models import Bounds
from streamer.http.native.node import NodeHandlers, PageFiles
from streamer.http.native.openapi import OpenApi
from streamer.http.native.routes import RESOURCES, ROUTES
from streamer.http.operation import Operation, Resource, endpoint
from streamer.http.reading import Pages
from streamer.http.responses import PublicUrl
from streamer.http.services import Services
from streamer.http.streaming import SinkOptions, SocketLimits
from streamer.ingest.intake import Intake, Limits
from streamer.ingest.limits import AppendRate
from streamer.ingest.redact import Redactor
from streamer.ingest.worker import Worker
from streamer.observe.loops import Loops
from streamer.observe.metrics import Metrics
from streamer.observe.watchdog import Watchdog
from streamer.server.connection import Patience, Runner
from streamer.server.listening import bind, urls
from streamer.settings import Settings
from streamer.store.engine.database import Database
from streamer.store.engine.lock import InUse, exclusive
from streamer.store.engine.readiness import Readiness
from streamer.store.log.entities import Entities
from streamer.store.log.reader import SqlLog
from streamer.store.log.writer import GroupCommit
from streamer.store.migrate import migrate
from streamer.store.records.credentials import Credentials
from streamer.store.records.installation import Installation
from streamer.store.records.members import Members
from streamer.store.records.tickets import TicketStore
from streamer.store.records.workspaces import Workspaces

LOCK_SECONDS = 0.1
"""Time between attempts to lock the data."""
BACKLOG = 4096
"""Connections that the kernel can queue for us; after a restart, all readers reconnect at once."""
PURGE_SECONDS = 5
PROBE_SECONDS = 1
LAST_WORDS_SECONDS = 1.0
"""Time before the end of the drain window that is reserved for answering requests that still wait for the database."""
TICKET_BURST = 1000
"""Tickets that one account can create at once, after a pause."""


@dataclass(frozen=True)
class Server:
    """A running server."""

    urls: Sequence[str]
    """URLs for this machine, the preferred one first."""
    public_url: str | None
    """The URL for clients behind a proxy, if it is set."""
    admin_key: str | None
    """The admin key if this start created it, or if it was given; otherwise it is unknown here."""
    first_start: bool
    """This start created the admin key."""
    key_file: Path
    """The file with an admin key that was created and not shown."""
    keyring: Keyring
    administration: Administration
    channels: Channels
    connections: Connections
    subscribers: Subscribers
    loops: Loops

    @property
    def url(self) -> str:
        """The preferred URL for this machine."""
        return self.urls[0]

    async def sign_in_link(self) -> str:
        """Create a link that signs a browser in to the page, once, within ten minutes."""
        return f"{self.public_url or self.url}/#sign-in={await self.keyring.create_sign_in()}"


def redactor(settings: Settings) -> Redactor:
    """Return the redactor for these settings."""
    return Redactor(names=settings.redact_names, keep=settings.keep_names, shapes=settings.redact_shapes)


@contextlib.asynccontextmanager
async def running(  # noqa: PLR0915 - the list of all parts
    settings: Settings, *, show_key: bool = False, mesh: Path | None = None
) -> AsyncIterator[Server]:
    """Run a server while the block runs.

    Args:
        settings: all of them.
        show_key: the caller shows a new admin key to a person; otherwise it is written to `admin.key`.
        mesh: the folder in which workers find each other, if this is one of several that share the port.

    Raises:
        OSError: the address is in use, or the data directory cannot be written.
        InUse: another process uses the data directory or the database's file.
        BadDatabaseUrl, StoreUnavailable, DatabaseTooNew: the database cannot be used.
    """
    # Before anything is created, because the URL may be invalid.
    database = Database(
        settings.database,
        read_seconds=settings.read_seconds,
        is_lossless=settings.database_failover == "lossless",
    )
    _raise_file_limit()
    metrics = Metrics()
    budget, unread = _memory(settings.memory_bytes, metrics)
    async with contextlib.AsyncExitStack() as stack:
        # A failed start must not have written anything, because another server may be using this port or data.
        sockets = await bind(settings.host, settings.port, shared=mesh is not None)
        for bound in sockets:
            stack.callback(bound.close)
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # for its user only, if it is created here
        await _lock(stack, settings, database)
        watchdog, loops = Watchdog(metrics), Loops(metrics)
        watchdog.watch(asyncio.get_running_loop())
        stack.callback(watchdog.unwatch, asyncio.get_running_loop())
        loop, ends = asyncio.get_running_loop(), math.inf
        stack.push_async_callback(lambda: database.close(max(ends - loop.time(), 0)))
        await migrate(database)
        started_at = format_timestamp(now_us())

        def about() -> dict[str, Any]:
            """Describe this node to the others."""
            return {
                "name": settings.node_name,
                "version": __version__,
                "started_at": started_at,
                "streams": places.taken,
                "workspaces": len(channels),
                "lag": max((link.lag for link in bus.links), default=0),
            }

        node = secrets.randbits(64)
        bus = LocalBus([Link(carrier, metrics, about, node=node) for carrier in _carriers(settings, database, mesh)])
        for link in bus.links[1:]:
            link.nearer = bus.links[0].peers
        writer = GroupCommit(
            database,
            bus.publish,
            metrics,
            max_waiting_events=settings.append_queue_events,
            max_waiting_bytes=settings.append_queue_bytes,
            idempotency_seconds=settings.idempotency_hours * 3600,
        )
        stack.push_async_callback(loops.stop)
        loops.start("writer", writer.turn, nudge=writer.nudge)
        stack.push_async_callback(writer.close)
        log = SqlLog(database)
        workspaces, members, credentials = Workspaces(database), Members(database), Credentials(database)
        channels = Channels(
            log,
            bus,
            metrics,
            watchdog,
            ring_bytes=settings.ring_bytes,
            flush_seconds=settings.flush_window_ms / 1000,
            poll_seconds=settings.poll_seconds,
        )
        bus.listen(channels)
        dependencies = Dependencies(watchdog)
        connections = Connections(
            dependencies,
            metrics,
            heartbeat_seconds=settings.heartbeat_seconds,
            stall_seconds=settings.stall_seconds,
            max_age=settings.connection_max_age,
        )
        places = Places(each=settings.max_streams_per_key, total=settings.max_streams)
        subscribers = Subscribers(
            channels,
            connections,
            dependencies,
            places,
            log,
            metrics,
            budget,
            chunk_bytes=2 * settings.write_buffer_bytes,
            event_bytes=settings.max_event_bytes,
        )
        rate = AppendRate(settings.append_rate, settings.append_burst)
        limits = Limits(settings.max_event_bytes, settings.max_details_depth, settings.max_batch_events)
        cleaner = redactor(settings)
        audit_actions = AUDIT_ACTIONS.union(settings.audit_actions)
        worker = Worker(settings.append_queue_bytes)
        stack.callback(worker.close)
        intake = Intake(writer, metrics, limits, cleaner, rate, worker=worker, audit_actions=audit_actions)
        tokens = _tokens(settings, metrics)
        keyring = Keyring(credentials, members, tokens)
        tickets, origins = Tickets(TicketStore(database), keyring, _ticket_limits(settings)), settings.origins
        gate = Gate(keyring, tickets, origins, keys_in_urls=settings.keys_in_urls)
        administration = Administration(
            writer,
            intake,
            credentials,
            members,
            workspaces,
            keyring,
            dependencies,
            channels,
            max_keys=settings.max_keys_per_workspace,
            max_members=settings.max_members_per_workspace,
        )
        chosen = settings.admin_key.get_secret_value() if settings.admin_key else None
        made = await administration.set_admin_key(chosen)
        if made is not None and not show_key:
            _keep_admin_key(settings.data_dir / "admin.key", made)
        installation = await Installation(database).name()
        for link in bus.links:
            link.start(loops, installation)
            stack.push_async_callback(link.stop)
        readiness = Readiness(database, metrics)
        admission = Admission(settings.max_openings)
        visibility, entities = Visibility(workspaces, log, intake, writer), Entities(database)
        pages = Pages(
            log,
            metrics,
            pages=max(database.page_readers // 2, 1),
            scans=settings.max_scans_per_key,
            max_bytes=settings.max_page_bytes,
        )
        services = Services(
            Bodies(
                gate,
                budget,
                max_bytes=settings.max_body_bytes,
                max_values=settings.max_body_values,
                seconds=settings.body_timeout,
            ),
            Bounds(settings.max_page_events, settings.max_wait_seconds),
            Cluster(node, bus.links, about),
            Issues(entities, visibility, pages),
            Merge(log, workspaces, visibility, pages, metrics, read_seconds=settings.read_seconds),
            OpenApi(ROUTES, settings.public_url),
            PageFiles(_static_dir()),
            PublicUrl(settings.public_url),
            SinkOptions(unread, high_water=settings.write_buffer_bytes, stall_seconds=settings.stall_seconds),
            SocketLimits(settings.max_subscriptions, settings.max_body_values, settings.max_messages_per_second),
            StreamSeconds(settings.evershell_stream_seconds),
            Zone(settings.praisonai_zone),
            *(
                administration,
                admission,
                budget,
                cleaner,
                dependencies,
                entities,
                gate,
                intake,
                keyring,
                log,
                loops,
                members,
            ),
            *(metrics, pages, readiness, subscribers, tickets, visibility, workspaces),
        )
        loops.start("probe", readiness.turn, every=PROBE_SECONDS)
        loops.start("purge", partial(_purge, workspaces), every=PURGE_SECONDS)
        channels.start(loops)
        stack.push_async_callback(channels.stop)
        connections.start(loops)
        loops.start(
            "watch", RevocationWatch(dependencies, credentials, members, tickets, tokens).look, every=WATCH_SECONDS
        )
        if tokens is not None:
            await tokens.refresh()  # not to refuse the first of them
            tokens.start(loops)
            stack.callback(tokens.close)

        dialects = [dialect for dialect in DIALECTS if dialect.name in settings.dialects]
        routes = _routes(services, [*RESOURCES, *dialects], settings)
        surroundings = middlewares(routes, dialects, origins, metrics, cleaner, budget)
        application = _application(routes, surroundings, settings.max_body_bytes)
        application.on_response_prepare.append(set_headers(routes, origins, rate, admission, settings.public_path))
        runner = Runner(
            application,
            watchdog,
            malformed_response,
            Patience(settings.stall_seconds),
            handler_cancellation=True,  # how a vanished reader is noticed
        )

        async def stop() -> None:
            """Let proxies notice; close the streams, in at most half of the window; the rest is for other open requests."""
            nonlocal ends
            admission.is_stopping = True
            await asyncio.sleep(settings.drain_notice_seconds)
            admission.is_closed = True
            ends = loop.time() + settings.drain_seconds
            # Requests that still wait for the database then are answered, while there is time to send the response.
            last_words = min(LAST_WORDS_SECONDS, settings.drain_seconds / 4)
            loop.call_at(ends - last_words, writer.give_up)
            loop.call_at(ends - last_words, database.give_up)
            await connections.drain(settings.drain_seconds / 2)
            # Not before: a reader that reconnects to this address is told to go elsewhere, and what the kernel has accepted is served.
            await runner.stop_listening(sockets)
            runner.leave_open_requests(max(ends - loop.time(), 0))
            await runner.cleanup()

        application.on_cleanup.append(lambda _: connections.finish(max(ends - loop.time(), 0)))
        stack.push_async_callback(stop)
        await runner.setup()
        for bound in sockets:
            await web.SockSite(runner, bound, backlog=BACKLOG).start()
        yield Server(
            urls=urls(settings.host, sockets),
            public_url=settings.public_url,
            admin_key=made or chosen,
            first_start=made is not None,
            key_file=settings.data_dir / "admin.key",
            keyring=keyring,
            administration=administration,
            channels=channels,
            connections=connections,
            subscribers=subscribers,
            loops=loops,
        )


async def _lock(stack: contextlib.AsyncExitStack, settings: Settings, database: Database) -> None:
    """Take the lock on the data; wait for it as long as a server takes to stop. Raises InUse, OSError."""
    loop = asyncio.get_running_loop()
    seconds = settings.drain_notice_seconds + settings.drain_seconds
    until, is_said = loop.time() + seconds, False
    while True:
        try:
            stack.enter_context(exclusive(settings.data_dir, database))
        except InUse as error:
            if loop.time() >= until:
                raise
            if not is_said:
                is_said = True
                structlog.get_logger("server").warning("waiting_for_data", reason=error.message, seconds=seconds)
        else:
            return
        await asyncio.sleep(LOCK_SECONDS)


def _carriers(settings: Settings, database: Database, mesh: Path | None) -> Iterator[Carrier]:
    """Yield what connects this node to others, the nearest first."""
    # Imported here because their libraries are slow to import, and most servers need none or one of them.
    if mesh is not None:
        from streamer.bus.mesh import MeshCarrier  # noqa: PLC0415

        yield MeshCarrier(mesh)
    if settings.carrier == "redis" and settings.redis_url is not None:
        from streamer.bus.redis import carrier_of  # noqa: PLC0415

        yield carrier_of(settings.redis_url.get_secret_value())
    elif settings.carrier == "postgres" and database.listening is not None:
        from streamer.bus.postgres import PostgresCarrier  # noqa: PLC0415

        yield PostgresCarrier(database.listening)


def _ticket_limits(settings: Settings) -> TicketLimits:
    return TicketLimits(settings.max_tickets_per_key, settings.ticket_rate, TICKET_BURST)


def _memory(total: int, metrics: Metrics) -> tuple[Budget, Unread]:
    """Create the memory budget and the one for unread events, half as large, with metrics for their use.

    They are apart so that streams with slow readers never keep their account from appending.
    """
    unread = Unread(total // 2)
    metrics.memory.labels("stream").set_function(lambda: unread.used)
    budget = Budget(total, lambda kind: metrics.memory_refused.labels(kind).inc())
    metrics.memory_limit.set(total)
    for kind in KINDS:
        metrics.memory.labels(kind).set_function(partial(budget.used.__getitem__, kind))
        metrics.memory_refused.labels(kind)
    return budget, unread


def _routes(services: Services, resources: Sequence[Resource], settings: Settings) -> dict[Handler, Operation]:
    """Return the operations by what the router calls; the middleware looks a request's operation up so."""
    routes = {}
    for each in resources:
        handlers = each.handlers(services)
        for operation in each.operations:
            if settings.metrics_public and operation.handler is NodeHandlers.metrics:
                operation = replace(operation, access=PUBLIC)  # noqa: PLW2901
            routes[endpoint(operation, handlers, services)] = operation
    return routes


def _application(
    routes: Mapping[Handler, Operation], surroundings: Sequence[Middleware], max_body: int
) -> web.Application:
    application = web.Application(client_max_size=max_body, middlewares=surroundings)
    for handler, route in routes.items():
        resource_ = application.router.add_resource(route.pattern)
        resource_.add_route(route.method, handler, expect_handler=_expect_later)
        if route.method == "GET" and route.answers_head and not route.streams:
            resource_.add_route("HEAD", handler, expect_handler=_expect_later)
    return application


def _tokens(settings: Settings, metrics: Metrics) -> Tokens | None:
    """Create the token verifier, if tokens are configured."""
    secret, url = settings.jwt_secret, settings.jwks_url
    if secret is None and url is None:
        return None
    return Tokens(
        secret_key(secret.get_secret_value()) if secret is not None else None,
        Jwks(url, metrics, refresh_seconds=settings.jwks_refresh_seconds) if url is not None else None,
        Rules(settings.jwt_issuer, settings.jwt_audience, settings.jwt_leeway),
    )


async def _expect_later(_request: web.Request) -> None:
    """Leave `100 Continue` to the moment when the body is wanted; without it the access check would come too late."""


async def _purge(workspaces: Workspaces) -> float | None:
    """Remove events of deleted workspaces, a bounded number at once. Return 0 if there may be more."""
    return 0.001 if await workspaces.purge() else None


def _keep_admin_key(path: Path, key: str) -> None:
    """Write the admin key where only this user can read it."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    with os.fdopen(descriptor, "w") as file:
        file.write(key + "\n")


def _static_dir() -> Path:
    """Return the page's folder: beside the package in a checkout, inside it in a wheel."""
    here = Path(__file__).resolve().parent
    inside = here / "static"
    return inside if inside.is_dir() else here.parent / "static"


def _raise_file_limit() -> None:
    """Raise this process' limit of open files to the system's maximum."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
