"""What a server under load must offer, and streamer as such a server."""

import secrets
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from bench.events import DETAILS
from bench.http_client import HttpClient
from bench.sandbox import BenchError, Sandbox, environment
from bench.usage import Usage, children

UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
NO_FILTER = -1


class Written(Protocol):
    """A server that events are appended to."""

    name: str
    port: int
    usage: Usage
    head: str
    """Lines of each request."""
    ordered: bool
    """Only one connection at a time may append to a workspace if its order is to be known."""

    def publishing(self, pattern: str) -> dict[str, str]:
        """Return what the publishers send: the path of a workspace, head and events, by a pattern of `bench.events`."""
        ...


class Target(Written, Protocol):
    """A server that has readers, too."""

    says_synced: bool
    """It says so once a stream is live."""
    ports: list[int]
    """Where readers connect: one part of them to each."""

    def reading(self, transport: str) -> dict[str, Any]:
        """Return what the readers send: the head, and what is added to resume after a position."""
        ...

    def target(self, workspace: int, selected: int, transport: str) -> str:
        """Return what a reader asks for; with a filter, or with NO_FILTER."""
        ...


class Streamer:
    """Our server: `streamer serve` as processes of their own, on fresh data, durable, with its default settings."""

    name = "streamer"
    ordered = False
    says_synced = True

    def __init__(
        self,
        sandbox: Sandbox,
        settings: Mapping[str, str],
        database_url: str | None,
        *,
        nodes: int = 1,
        workers: int = 1,
    ) -> None:
        self.workspace = f"bench-{uuid.uuid4().hex[:12]}"
        self.ports = [free_port() for _ in range(nodes)]
        self.port = self.ports[0]
        key = f"sk_{secrets.token_urlsafe(24)}"
        self.head = f"Authorization: Bearer {key}\r\n"
        pids: list[int] = []
        for port in self.ports:
            variables = {
                "STREAMER_PORT": str(port),
                "STREAMER_DATA_DIR": str(sandbox.folder / f"data-{port}"),
                "STREAMER_ADMIN_KEY": key,
                "STREAMER_LOG_LEVEL": "warning",
                "STREAMER_WORKERS": str(workers),
                "STREAMER_MAX_OPENINGS": "1000000",  # its subscribers come all at once, and do not retry
                **({"STREAMER_DATABASE_URL": database_url} if database_url else {}),
                **{f"STREAMER_{name.upper()}": value for name, value in settings.items()},
            }
            command = [sys.executable, "-P", "-m", "streamer", "serve"]
            pid = serve(sandbox, self.name, command, {**environment(), **variables}, (port, "/readyz"))
            pids.append(pid)
        if nodes * workers > 1:
            sandbox.until(lambda: self._hear_each_other(nodes * workers), "the nodes' first beacons")
        self.usage = Usage(pids if workers == 1 else [child for pid in pids for child in children(pid)])

    def _hear_each_other(self, count: int) -> bool:
        found = []
        for port in self.ports:
            with HttpClient(port, self.head) as client:
                found.append(orjson.loads(client.request("/v1/nodes")))
        return all(len(each["nodes"]) == count and each["bus_state"] == "ok" for each in found)

    def bus(self) -> tuple[float, float]:
        """Return the messages that the nodes have sent to each other, and their bytes. Workers are not counted: they share a port."""
        found = [self.metric("streamer_bus_", port) for port in self.ports]
        names = [f'streamer_bus_{what}_total{{carrier="redis",way="out"}}' for what in ("messages", "bytes")]
        messages, size = (sum(each.get(name, 0) for each in found) for name in names)
        return messages, size

    def publishing(self, pattern: str) -> dict[str, str]:
        """Return what the publishers send."""
        return {
            "path": f"/v1/workspaces/{self.workspace}-%d/events",
            "head": f"Host: bench\r\n{self.head}Content-Type: application/json\r\n",
            "body": pattern,
        }

    def reading(self, transport: str) -> dict[str, Any]:
        """Return what the readers send."""
        head = f"Host: bench\r\n{self.head}"
        if transport == "websocket":
            return {"head": head + UPGRADE, "resume": ("after=%s", "")}
        return {"head": f"{head}Accept: text/event-stream\r\n", "resume": ("", "Last-Event-ID: %s\r\n")}

    def target(self, workspace: int, selected: int, transport: str) -> str:
        """Return what a reader asks for."""
        route = "ws" if transport == "websocket" else "stream"
        query = "" if selected == NO_FILTER else f"entity_id=issue_{selected}&"
        return f"/v1/workspaces/{self.workspace}-{workspace}/events/{route}?{query}"

    def ask(self, target: str, workspace: int = 0) -> Any:
        """Return what the server says to a request below a workspace."""
        with HttpClient(self.port, self.head) as client:
            return orjson.loads(client.request(f"/v1/workspaces/{self.workspace}-{workspace}{target}"))

    def sample(self) -> str:
        """Return an event as the readers get it."""
        page = self.ask("/events?limit=1&category=activity")  # not audit events
        text = orjson.dumps(page["events"][0]).decode()
        assert "%" not in text  # noqa: S101 - it becomes a pattern
        details = page["events"][0]["details"]
        return text.replace(DETAILS % details, DETAILS)

    def metric(self, part: str, port: int | None = None) -> dict[str, float]:
        """Return the samples of /metrics whose name contains `part`, by name and labels."""
        with HttpClient(port or self.port, self.head) as client:
            text = client.request("/metrics").decode()
        samples = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples if part in name.partition("{")[0]}


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def serve(
    sandbox: Sandbox, name: str, command: Sequence[str], variables: Mapping[str, str], health: tuple[int, str]
) -> int:
    """Start a server and wait until it is well; return its process.

    Args:
        sandbox: where.
        name: what it is called, and its log.
        command: what starts it.
        variables: its environment.
        health: the port and the path that answer when it is.

    Raises:
        BenchError: it does not start.
    """
    log = f"{name}-{len(sandbox.started)}.log"
    process = sandbox.start(command, variables, log)

    def ready() -> bool:
        if process.poll() is not None:
            raise BenchError(f"{name} did not start:\n{sandbox.log(log)}")
        try:
            with HttpClient(health[0], "", seconds=1) as client:
                client.request(health[1])
        except (OSError, BenchError):
            return False
        return True

    sandbox.until(ready, f"the start of {name}", 60)
    return process.pid
