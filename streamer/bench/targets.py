"""Servers under load: how each is started, appended to and read from."""

import os
import shutil
import socket
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import orjson

from streamer.bench.asking import KEY, Asking
from streamer.bench.events import DETAILS
from streamer.bench.ground import BenchError, Ground, environment
from streamer.bench.usage import Usage, children

_UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
NO_FILTER = -1


class Target(Protocol):
    """A server under load."""

    name: str
    port: int
    usage: Usage
    ordered: bool
    """Only one connection at a time may append to a workspace if its order is to be known."""
    says_synced: bool

    def publishing(self, pattern: str) -> dict[str, str]:
        """Return what the publishers send: the path of a workspace, head and events, by a pattern of `streamer.bench.events`."""
        ...

    def reading(self, transport: str) -> dict[str, Any]:
        """Return what the readers send: the head, and what is added to go on behind a position."""
        ...

    def target(self, workspace: int, selected: int, transport: str) -> str:
        """Return what a reader asks for; with a filter, or with NO_FILTER."""
        ...

    def sample(self) -> str:
        """Return an event as the readers get it, as a pattern of such events."""
        ...


class Streamer:
    """Our server: `streamer serve` as a process of its own, on fresh data, durable, with its default settings."""

    name = "streamer"
    ordered = False
    says_synced = True

    def __init__(self, ground: Ground, settings: Mapping[str, str], database_url: str | None) -> None:
        self._ground = ground
        self.workspace = f"bench-{uuid.uuid4().hex[:12]}"
        self.port = free_port()
        number = len(ground.started)
        log = f"server-{number}.log"
        variables = {
            "STREAMER_PORT": str(self.port),
            "STREAMER_DATA_DIR": str(ground.folder / f"data-{number}"),
            "STREAMER_ADMIN_KEY": KEY,
            "STREAMER_LOG_LEVEL": "warning",
            **({"STREAMER_DATABASE_URL": database_url} if database_url else {}),
            **{f"STREAMER_{name.upper()}": value for name, value in settings.items()},
        }
        process = ground.start([sys.executable, "-P", "-m", "streamer", "serve"], {**environment(), **variables}, log)

        def ready() -> bool:
            if process.poll() is not None:
                raise BenchError(f"the server did not start:\n{ground.log(log)}")
            return answers(self.port, "/readyz")

        ground.until(ready, "the start of the server")
        self.usage = Usage([process.pid])

    def publishing(self, pattern: str) -> dict[str, str]:
        """Return what the publishers send."""
        return {
            "path": f"/v1/workspaces/{self.workspace}-%d/events",
            "head": f"Host: bench\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n",
            "body": pattern,
        }

    def reading(self, transport: str) -> dict[str, Any]:
        """Return what the readers send."""
        head = f"Host: bench\r\nAuthorization: Bearer {KEY}\r\n"
        if transport == "websocket":
            return {"head": head + _UPGRADE, "resume": ("after=%s", "")}
        return {"head": f"{head}Accept: text/event-stream\r\n", "resume": ("", "Last-Event-ID: %s\r\n")}

    def target(self, workspace: int, selected: int, transport: str) -> str:
        """Return what a reader asks for."""
        route = "ws" if transport == "websocket" else "stream"
        query = "" if selected == NO_FILTER else f"entity_id=issue_{selected}&"
        return f"/v1/workspaces/{self.workspace}-{workspace}/events/{route}?{query}"

    def ask(self, target: str, workspace: int = 0) -> Any:
        """Return what the server says to a request below a workspace."""
        with Asking(self.port) as asking:
            return orjson.loads(asking.ask(f"/v1/workspaces/{self.workspace}-{workspace}{target}"))

    def sample(self) -> str:
        """Return an event as the readers get it."""
        page = self.ask("/events?limit=1")
        text = orjson.dumps(page["events"][0]).decode()
        assert "%" not in text  # noqa: S101 - it becomes a pattern
        details = page["events"][0]["details"]
        return text.replace(DETAILS % details, DETAILS)

    def metric(self, part: str) -> dict[str, float]:
        """Return the samples of /metrics whose name contains `part`, by name and labels."""
        with Asking(self.port) as asking:
            text = asking.ask("/metrics").decode()
        samples = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples if part in name.partition("{")[0]}


class Nchan:
    """nginx with nchan, one worker: the events are kept in memory, and none is dropped for lack of room."""

    name = "nchan"
    ordered = True
    says_synced = False

    def __init__(self, ground: Ground, body: str) -> None:
        """Start it.

        Args:
            ground: where.
            body: an event as our server stores it, so that both hand out the same bytes.
        """
        program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
        modules = [
            Path(folder) / "ngx_nchan_module.so" for folder in ("/usr/lib/nginx/modules", "/usr/share/nginx/modules")
        ]
        module = next((path for path in modules if path.exists()), None)
        if program is None or module is None:
            raise BenchError("nginx with nchan is not installed", "apt-get install nginx-light libnginx-mod-nchan")
        self._body = body
        self.port = free_port()
        number = len(ground.started)
        folder = ground.folder / f"nginx-{number}"
        folder.mkdir()
        # As root its worker would be another user, who may not look into our folder.
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(_NGINX.format(module=module, folder=folder, port=self.port, user=user))
        log = f"nginx-{number}.log"
        process = ground.start(
            [program, "-p", str(folder), "-c", "nginx.conf", "-e", str(folder / "error.log")], environment(), log
        )

        def ready() -> bool:
            if process.poll() is not None:
                raise BenchError(f"nginx did not start:\n{ground.log(log)}\n{ground.log(f'nginx-{number}/error.log')}")
            return answers(self.port, "/ready")

        ground.until(ready, "the start of nginx")
        self.usage = Usage(children(process.pid))

    def publishing(self, pattern: str) -> dict[str, str]:  # noqa: ARG002 - it has a pattern of its own
        """Return what the publishers send."""
        return {"path": "/pub?id=%d", "head": "Host: bench\r\nContent-Type: application/json\r\n", "body": self._body}

    def reading(self, transport: str) -> dict[str, Any]:
        """Return what the readers send."""
        head = "Host: bench\r\n" + (_UPGRADE if transport == "websocket" else "Accept: text/event-stream\r\n")
        return {"head": head, "resume": ("", "Last-Event-ID: %s\r\n")}

    def target(self, workspace: int, selected: int, transport: str) -> str:  # noqa: ARG002 - the same for both
        """Return what a reader asks for."""
        if selected != NO_FILTER:
            raise BenchError("nchan has no filters", "Leave --filters out with --peer nchan.")
        return f"/sub?id={workspace}"

    def sample(self) -> str:
        """Return an event as the readers get it."""
        return self._body


_NGINX = """
load_module {module};
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile 65536;
pid {folder}/nginx.pid;
events {{ worker_connections 60000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
    client_body_buffer_size 64k;
    nchan_shared_memory_size 1g;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /ready {{ return 200; }}
        location = /pub {{
            nchan_publisher http;
            nchan_channel_id $arg_id;
            nchan_message_buffer_length 100000;
            nchan_message_timeout 1h;
        }}
        location = /sub {{
            nchan_subscriber eventsource websocket;
            nchan_channel_id $arg_id;
            nchan_subscriber_first_message newest;
        }}
    }}
}}
"""


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, path: str) -> bool:
    """Tell whether a server is there and well."""
    try:
        with Asking(port, "", seconds=1) as asking:
            asking.ask(path)
    except (OSError, BenchError):
        return False
    return True
