"""Checks of the running server, through the URL that clients use: so proxies in between are checked, too."""

import socket
import ssl
import time
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import orjson
from cryptography import x509

from streamer.client.backoff import Timing
from streamer.client.calls import Caller, host_of, is_loopback
from streamer.client.errors import ApiError, ClientError, Unreachable
from streamer.doctor.clocks import judge_skew
from streamer.doctor.findings import CannotCheck, Check, Finding, fail, in_thread, ok, warn
from streamer.settings import Settings

CLOSE_SECONDS = 0.5
SLOW_SECONDS = 1.0
"""The first message of a stream is due at once."""
EARLY_DAYS = 21
"""Certificates are usually renewed 30 days before their end: with less left, that has failed."""
_UPGRADE = "let the proxy forward Upgrade and Connection over HTTP/1.1 (docs/deploy.md)"
_BUFFERED = "turn buffering off for streams (nginx: proxy_buffering off, no proxy_ignore_headers; see docs/deploy.md)"


class ServerChecks:
    """The checks of a server. Those of its streams and nodes need its answer and a key."""

    def __init__(
        self, url: str | None, key: str | None, settings: Settings, *, workspace: str | None, seconds: float
    ) -> None:
        """Prepare them.

        Args:
            url: the server's; None: it is unknown.
            key: the credential; None sends none.
            settings: of the server.
            workspace: whose stream is opened; None: any.
            seconds: time limit for a check.

        Raises:
            ValueError: as for `Client`.
        """
        self._url = url
        self._key = key
        self._settings = settings
        self._workspace = workspace
        self._seconds = seconds
        timing = Timing(attempts=1, connect=seconds + 1, silence=seconds + 1)
        self._caller = Caller(url or "http://localhost", key, timing)
        self._problem = "the server was not reached"
        self._is_open = False
        """Whether the WebSocket was opened."""
        self._nodes: list[dict[str, Any]] | None = None

    @property
    def groups(self) -> list[list[Check]]:
        """The checks in their order; the groups are independent."""
        return [
            [
                Check("server", self._check_ready, self._is_silent),
                Check("stream", self._check_stream, self._is_buffered),
                Check("websocket", self._check_websocket, self._is_stuck),
                Check("nodes", self._check_nodes),
                Check("node clocks", self._compare_clocks),
            ],
            [Check("certificate", self._check_certificate)],
        ]

    # ---- the server

    async def _check_ready(self) -> Finding:
        if self._url is None:
            self._problem = "the server's address is unknown"
            raise CannotCheck("STREAMER_PORT is 0", "name the server with --url or STREAMER_URL")
        started = time.perf_counter()
        try:
            async with self._caller.send("GET", "/readyz", query=(), headers=None) as response:
                data = await response.read()
        except Unreachable as error:
            return fail(str(error), "start the server, or name another one with --url or STREAMER_URL")
        except ClientError as error:
            return fail(str(error), "correct --url or STREAMER_URL")
        took = time.perf_counter() - started
        refusal = self._caller.refusal(response, data)
        if response.status == HTTPStatus.OK and _is_ready(data):
            self._problem = ""
            return ok(f"{self._url} is ready, and answers in {1000 * took:.1f} ms")
        if response.status == HTTPStatus.SERVICE_UNAVAILABLE and isinstance(refusal, ApiError) and refusal.request_id:
            self._problem = ""
            reason = refusal.details.get("reason", "readyz")
            return fail(f"{self._url} is not ready: {refusal.message}", f"see `{reason}` in docs/operations.md, Health")
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return fail(
                f"{self._url} answers {response.status}, which the server did not send",
                "start the server; see the log of the proxy",
            )
        return fail(str(refusal), "correct --url or STREAMER_URL; for a server under a path, see docs/deploy.md")

    def _is_silent(self) -> Finding:
        return fail(f"{self._url} does not answer in time", "see whether the server or a proxy is frozen or overloaded")

    def _needs_key(self) -> None:
        if self._problem:
            raise CannotCheck(self._problem)
        if not self._key:
            raise CannotCheck("no key is given", "set STREAMER_KEY; nodes can be listed with an admin key only")

    # ---- streams

    async def _check_stream(self) -> Finding:
        self._needs_key()
        # Not audit events: reading those is recorded.
        query = (("category", "activity"),)
        try:
            workspace = self._workspace or await self._any_workspace()
            path = f"/v1/workspaces/{quote(workspace, safe='')}/events/stream"
            started = time.perf_counter()
            async with self._caller.send("GET", path, query=query, headers={"Accept": "text/event-stream"}) as response:
                if response.status != HTTPStatus.OK:
                    raise self._caller.refusal(response, await response.read())
                encoding = response.headers.get("Content-Encoding")
                data = b""
                while b"event: synced" not in data:
                    piece = await response.content.readany()
                    if not piece:
                        return fail("something ends the stream before its first message", _BUFFERED)
                    data += piece
        except ClientError as error:
            return self._refused(error)
        took = time.perf_counter() - started
        if encoding:
            return warn(f"a proxy compresses the stream ({encoding})", "turn compression off for text/event-stream")
        if took > SLOW_SECONDS:
            return warn(f"the first message took {took:.1f} s", _BUFFERED)
        return ok(f"the first message arrived after {1000 * took:.1f} ms: nothing buffers it")

    async def _any_workspace(self) -> str:
        """Return a workspace that the key can read. Raises ClientError."""
        try:
            found = await self._caller.call("GET", "/v1/workspaces", query=(("limit", "1"),), once=True)
            return str(found["workspaces"][0]["id"])
        except (LookupError, TypeError):
            raise CannotCheck("there is no workspace yet", "append an event first: streamer publish --help") from None

    def _is_buffered(self) -> Finding:
        return fail(f"the server answers, but nothing of a stream arrives in {self._seconds:g} s", _BUFFERED)

    async def _check_websocket(self) -> Finding:
        self._needs_key()
        self._is_open = False
        headers = {"Authorization": f"Bearer {self._key}"}
        # A proxy that swallows the close frame does not matter here.
        timeout = aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS)
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            try:
                with self._caller.translated():
                    started = time.perf_counter()
                    try:
                        opened = await session.ws_connect(f"{self._url}/v1/ws", headers=headers, timeout=timeout)
                    except aiohttp.WSServerHandshakeError as error:
                        if error.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS}:
                            raise CannotCheck(
                                f"the server refuses the key ({error.status})", "give a valid key"
                            ) from None
                        return fail(f"the answer to the upgrade is {error.status}, not 101", _UPGRADE)
                    self._is_open = True
                    await opened.send_str('{"type":"ping","ref":"doctor"}')
                    answer = await opened.receive()
                    took = time.perf_counter() - started
                    await opened.close()
            except ClientError as error:
                return fail(str(error), _UPGRADE)
        if answer.type is not aiohttp.WSMsgType.TEXT or orjson.loads(answer.data).get("type") != "pong":
            return fail("the socket opens, but is closed instead of answering", _UPGRADE)
        return ok(f"it opens and answers in {1000 * took:.1f} ms")

    def _is_stuck(self) -> Finding:
        what = "the socket opens, but messages do not pass" if self._is_open else "the upgrade is not answered in time"
        return fail(what, _UPGRADE)

    # ---- nodes

    async def _check_nodes(self) -> Finding:
        if self._settings.carrier is None:
            raise CannotCheck("there is no bus, so this is a single node")
        self._needs_key()
        try:
            found = await self._caller.call("GET", "/v1/nodes", once=True)
            carriers, state, nodes = list(found["bus"]), found["bus_state"], list(found["nodes"])
        except ClientError as error:
            return self._refused(error)
        if not carriers:
            return warn(
                "the server has no bus", "see `pooler` and `bus`; set STREAMER_REDIS_URL, and restart the server"
            )
        if self._settings.carrier not in carriers:
            return warn(
                f"the server uses {', '.join(carriers)}, but by the settings here it is {self._settings.carrier}",
                "run this with the settings of the server",
            )
        if state != "ok":
            return fail(
                f"the server's bus is {state}: its readers wait for the poll",
                "see `bus` above, and `bus_down` in the log",
            )
        self._nodes = [node for node in nodes if not node["is_self"]]
        if self._nodes:
            return ok(f"{len(nodes)} nodes hear each other: {', '.join(sorted(str(node['name']) for node in nodes))}")
        if self._settings.carrier == "redis":
            return warn(
                "the node that answers hears no other one",
                "if there are others, give them the same STREAMER_DATABASE_URL and STREAMER_REDIS_URL",
            )
        return ok("there is one node")

    async def _compare_clocks(self) -> Finding:
        if not self._nodes:
            raise CannotCheck("no other node is known")
        worst = max(self._nodes, key=lambda node: abs(node["clock_skew_seconds"]))
        return judge_skew(f"the clock of node {worst['name']}", round(worst["clock_skew_seconds"] * 1e6))

    def _refused(self, error: ClientError) -> Finding:
        """Judge a call that failed. Raises CannotCheck if that says nothing about the installation."""
        if isinstance(error, ApiError) and error.request_id:
            if error.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
                raise CannotCheck(f"the key does not permit it: {error.message}", "give an admin key in STREAMER_KEY")
            raise CannotCheck(str(error))
        return fail(str(error), "see the logs of the server and of the proxy")

    # ---- TLS

    async def _check_certificate(self) -> Finding:
        parts = urlsplit(self._url or "")
        if parts.scheme != "https":
            if self._url is None or is_loopback(host_of(self._url)):
                raise CannotCheck("the URL is not https")
            return warn("keys cross the network unencrypted", "put a proxy with TLS in front (docs/deploy.md)")
        address = parts.hostname or "", parts.port or 443
        try:
            end = await in_thread(lambda: _end_of_certificate(address, self._seconds))
            problem = await in_thread(lambda: _distrust(address, self._seconds))
        except OSError as error:
            return fail(f"TLS fails: {error.strerror or error}", "start the proxy, and give it a certificate")
        days = (end - datetime.now(UTC)).days
        text = f"valid for {days} more days"
        renew = "renew the certificate, and let that happen by itself"
        if days < 0:
            return fail(f"it expired {-days} days ago", renew)
        if problem:
            return fail(
                f"clients do not trust it: {problem}",
                "use a certificate of a known authority; for one of your own set SSL_CERT_FILE, here and at clients",
            )
        return warn(text, renew) if days < EARLY_DAYS else ok(text)


def _is_ready(data: bytes) -> bool:
    try:
        return bool(orjson.loads(data)["status"] == "ok")
    except (ValueError, LookupError, TypeError):
        return False


def _end_of_certificate(address: tuple[str, int], seconds: float) -> datetime:
    """Return when the server's certificate expires. Nothing is sent, so it need not be trusted."""
    pem = ssl.get_server_certificate(address, timeout=seconds)
    return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc


def _distrust(address: tuple[str, int], seconds: float) -> str:
    """Return why the server's certificate is not trusted, empty if it is."""
    context = ssl.create_default_context()
    try:
        with (
            socket.create_connection(address, seconds) as plain,
            context.wrap_socket(plain, server_hostname=address[0]),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
