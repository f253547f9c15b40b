"""Debian's nginx in front of one server, configured as in docs/deploy.md, or of two nodes, configured by deploy/nginx.conf."""

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.process import free_port
from tests.support.run_dir import forget_pid, note_pid
from tests.support.tools import ROOT, require
from tests.support.waiting import eventually

_MAIN = """
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    {paths}
    include {folder}/streamer.conf;
}}
"""


class Nginx:
    """An nginx with a folder, a port and a certificate of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        self.certificate = folder / "fullchain.pem"
        self._process: subprocess.Popen[bytes] | None = None
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        self._paths = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)

    async def start(self, server: str, *, path: str = "", changes: Mapping[str, str] | None = None) -> None:
        """Start it in front of the server with this URL.

        `path` is the public path (see docs/deploy.md), by default `/`; `changes` replace parts of the configuration.
        """
        self._make_certificate()
        text = _replaced(self._configuration(urlsplit(server).netloc, path), changes or {})
        (self._folder / "streamer.conf").write_text(text)
        await self._run(_MAIN.format(folder=self._folder, paths=self._paths))

    async def start_before_nodes(self, nodes: Sequence[str]) -> None:
        """Start it with deploy/nginx.conf, without TLS, in front of the nodes with these URLs."""
        self.url = f"http://127.0.0.1:{self.port}"
        here = {
            "pid /run/nginx.pid;": f"pid {self._folder}/nginx.pid;",
            "worker_rlimit_nofile 65536;": "",
            "worker_processes auto;": "worker_processes 1;",
            "http {": f"http {{ {self._paths}",
            "listen 80;": f"listen 127.0.0.1:{self.port};",
            "/var/log/nginx/access.log": f"{self._folder}/streamer.log",
            "/var/log/nginx/": f"{self._folder}/",
        }
        here |= {f"node{number}:8080": urlsplit(url).netloc for number, url in enumerate(nodes, 1)}
        await self._run(_replaced((ROOT / "deploy" / "nginx.conf").read_text(), here))

    async def _run(self, configuration: str) -> None:
        (self._folder / "nginx.conf").write_text(configuration)
        self._spawn()
        await eventually(self._listens)

    def stop(self) -> None:
        """Kill it and its worker."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
            forget_pid(self._process.pid)

    @property
    def log(self) -> str:
        """Return its log of requests."""
        return (self._folder / "streamer.log").read_text()

    @property
    def logs(self) -> str:
        """Return all its logs."""
        return "".join(file.read_text() for file in self._folder.glob("*.log"))

    def _spawn(self) -> None:
        files = f"-p {self._folder} -c {self._folder}/nginx.conf -e {self._folder}/error.log"
        # As root, its worker would run as another user, without access to our folder.
        directives = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
        command = [str(require("nginx")), *files.split(), "-g", directives]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        note_pid(self._process.pid)

    def _configuration(self, server: str, path: str) -> str:
        """Return the block of docs/deploy.md with this machine's addresses and paths."""
        text: str
        text, locations = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.DOTALL)
        if path:
            assert f"location {path}/ " in locations
            first = text.index("    location / ")
            text = text[:first] + locations + "}\n"
        here = {
            "server 127.0.0.1:8080;": f"server {server};",
            "listen 443 ": f"listen 127.0.0.1:{self.port} ",
            "server_name streamer.example.com;": "server_name localhost;",
            "/etc/ssl/streamer/": f"{self._folder}/",
            "/var/log/nginx/": f"{self._folder}/",
        }
        return _replaced(text, here)

    def _make_certificate(self) -> None:
        key = "-x509 -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc"
        name = "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
        files = f"-keyout {self._folder}/privkey.pem -out {self.certificate}"
        command = f"{require('openssl')} req {key} {name} {files}"
        subprocess.run(command.split(), check=True, capture_output=True)

    async def _listens(self) -> bool:
        assert self._process
        if self._process.poll() is not None:
            raise RuntimeError(f"nginx has ended:\n{self.logs}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True


def _replaced(text: str, here: Mapping[str, str]) -> str:
    """Return a configuration with this machine's addresses and paths in the place of the documented ones."""
    for documented, actual in here.items():
        assert documented in text, documented
        text = text.replace(documented, actual)
    return text
