"""The programs of docs/streaming.md: start, kill and restart them, and return the events that they received."""

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.run_dir import forget_pid, note_pid
from tests.support.snippets import snippets
from tests.support.tools import ROOT, require
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page, Route

WORKSPACE = "my"
"""The workspace that the programs follow."""

RUNTIMES = {
    "node": ("eventsource.mjs", "fetch-event-source.mjs", "undici.mjs", "ws.mjs"),
    "python": (
        "follow_client.py",
        "follow_sync_client.py",
        "follow_httpx_sse.py",
        "follow_aiohttp_sse_client.py",
        "follow_websockets.py",
    ),
    "shell": ("tail.sh", "follow.sh"),
    "chromium": ("browser-eventsource.js", "browser-websocket.js"),
}
"""The programs by interpreter."""
NEEDS = {"node": ("node", "node_modules"), "python": (), "shell": ("curl",), "chromium": ("chromium", "curl")}
"""What they need on the machine."""
HELPERS = ("position.mjs", "position.py", "ticket.sh")
"""What the other programs import or call."""

RESUME_BY_THEMSELVES = ("eventsource.mjs", "undici.mjs", "browser-eventsource.js")
"""After a disconnection, these reconnect by themselves with a `Last-Event-ID`."""


class Consumer(ABC):
    """A program and its stored state, which survives a kill."""

    def __init__(self, name: str, key: str) -> None:
        self.name = name
        self.seen: list[dict[str, Any]] = []
        """The events that it received, over all its starts."""
        self.complaints: list[str] = []
        """Its other output."""
        self._variables = {"STREAMER_KEY": key}

    @abstractmethod
    async def start(self, url: str) -> None:
        """Start it with the server's URL."""

    @abstractmethod
    async def kill(self) -> None:
        """Kill it at any point of its work."""

    @abstractmethod
    async def position(self) -> str:
        """Return the position that it has stored."""

    @abstractmethod
    async def remember(self, position: str, url: str) -> None:
        """Set the position and the server's URL for its next start."""

    def trust(self, certificate: Path) -> None:
        """Make it trust a server's certificate."""
        names = ("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
        self._variables |= dict.fromkeys(names, str(certificate))

    @property
    def seqs(self) -> list[int]:
        """Return the seqs of the events that it received."""
        return [event["seq"] for event in self.seen]

    def __repr__(self) -> str:
        return f"{self.name}, which saw {self.seqs[-30:]} and said {self.complaints[-30:]}"

    async def saw(self, count: int, *, first: int = 1) -> None:
        """Wait until it has received `count` events, and require that they are consecutive from `first`, once each and in order."""
        with contextlib.suppress(AssertionError):
            await eventually(lambda: len(self.seen) >= count)
        assert self.seqs == list(range(first, first + count)), repr(self)


class Program(Consumer):
    """A program in Node, Python or bash, in a folder of its own."""

    def __init__(self, name: str, key: str, folder: Path) -> None:
        super().__init__(name, key)
        self._folder = folder
        folder.mkdir()
        for helper in ("position.mjs", "position.py"):
            (folder / helper).write_text(snippets()[helper])
        (folder / name).write_text(snippets()[name])
        streamer = folder / "bin" / "streamer"
        streamer.parent.mkdir()
        streamer.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m streamer "$@"\n')
        streamer.chmod(0o755)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: list[asyncio.Task[None]] = []

    @property
    def _command(self) -> list[str]:
        match self.name.rpartition(".")[2]:
            case "mjs":
                if not (self._folder / "node_modules").exists():
                    (self._folder / "node_modules").symlink_to(require("node_modules"))
                return [str(require("node")), self.name]
            case "py":
                return [sys.executable, self.name]
            case _:
                return ["bash", self.name]

    async def start(self, url: str) -> None:
        """Start it with the server's URL."""
        assert self._process is None, "already started"
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=self._folder,
            env={
                **os.environ,
                "PATH": f"{self._folder / 'bin'}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "STREAMER_URL": url,
                **self._variables,
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        note_pid(self._process.pid)
        assert self._process.stdout
        assert self._process.stderr
        self._reading = [
            asyncio.create_task(self._read_events(self._process.stdout)),
            asyncio.create_task(self._read_complaints(self._process.stderr)),
        ]

    async def kill(self) -> None:
        """Kill it and its children with `kill -9`."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        forget_pid(process.pid)
        await asyncio.gather(*self._reading)

    async def position(self) -> str:
        """Return the position that it has stored."""
        return (self._folder / "position").read_text().strip()

    async def remember(self, position: str, url: str) -> None:
        """Set the position for its next start."""
        # `tail` ends its line, because a truncated position would be an earlier one.
        (self._folder / "position").write_text(position + ("\n" if self.name == "tail.sh" else ""))

    async def ended(self) -> None:
        """Wait until it exits by itself."""
        process = self._process
        assert process
        await eventually(lambda: process.returncode is not None)

    async def _read_events(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            if line.endswith(b"\n"):  # the last line may be incomplete
                self.seen.append(json.loads(line))

    async def _read_complaints(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            self.complaints.append(line.decode().rstrip())


class Script(Consumer):
    """A page's script in Chromium, in a profile of its own."""

    def __init__(self, name: str, key: str, browser: "Browser") -> None:
        super().__init__(name, key)
        self._browser = browser
        self._page: Page | None = None
        self._url = ""

    async def start(self, url: str) -> None:
        """Open a page of the server and run the script there."""
        await self._open(url)
        assert self._page
        await self._page.add_script_tag(content=snippets()[self.name], type="module")

    async def kill(self) -> None:
        """Close the page."""
        if self._page is not None:
            await self._page.goto("about:blank")

    async def position(self) -> str:
        """Return the position that it has stored."""
        page = await self._open(self._url)
        stored = await page.evaluate("localStorage.getItem('position')")
        assert isinstance(stored, str)
        return stored

    async def remember(self, position: str, url: str) -> None:
        """Set the position and the server's URL for its next start."""
        page = await self._open(url)
        await page.evaluate("position => localStorage.setItem('position', position)", position)

    async def _open(self, url: str) -> "Page":
        if self._page is None:
            context = await self._browser.new_context(ignore_https_errors=True)
            await context.route("**/ticket", self._serve_ticket)
            self._page = await context.new_page()
            self._page.on("console", lambda message: self._heard(message.type, message.text))
            self._page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self._url = url
        await self._page.goto(f"{url}/livez")
        return self._page

    def _heard(self, kind: str, text: str) -> None:
        if kind == "log":
            self.seen.append(json.loads(text))
        else:
            self.complaints.append(text)

    async def _serve_ticket(self, route: "Route") -> None:
        """Act as the application: create a ticket with the key."""
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            snippets()["ticket.sh"],
            env={**os.environ, **self._variables, "STREAMER_URL": self._url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        answer, _ = await process.communicate()
        with contextlib.suppress(Exception):  # the page is gone
            if process.returncode == 0:
                await route.fulfill(content_type="application/json", body=answer)
            else:
                await route.fulfill(status=503)


def seq_of(position: str) -> int:
    """Return the seq of a position. Programs treat positions as opaque, but a test may parse them."""
    matched = re.fullmatch(r"[a-z0-9]+\.(\d+)", position)
    assert matched, position
    return int(matched[1])
