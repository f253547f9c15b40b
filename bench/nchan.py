"""The peer nchan: nginx, which hands events out and keeps nothing on a disk."""

import os
import shutil
from pathlib import Path
from typing import Any

from bench.sandbox import BenchError, Sandbox, environment
from bench.targets import NO_FILTER, UPGRADE, free_port, serve
from bench.usage import Usage, children

MODULES = tuple(Path(f"/usr/{folder}/nginx/modules/ngx_nchan_module.so") for folder in ("lib", "lib64", "share"))
"""Where distributions have it."""


class Nchan:
    """nginx with nchan, one worker: the events are kept in memory, and none is dropped for lack of room."""

    name = "nchan"
    head = ""
    ordered = True
    says_synced = False

    def __init__(self, sandbox: Sandbox, body: str) -> None:
        """Start it.

        Args:
            sandbox: where.
            body: an event as our server stores it, so that both hand out the same bytes.
        """
        program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
        module = next((path for path in MODULES if path.exists()), None)
        if program is None or module is None:
            raise BenchError("nginx with nchan is not installed", "apt-get install nginx-light libnginx-mod-nchan")
        self._body = body
        self.port = free_port()
        self.ports = [self.port]
        folder = sandbox.folder / f"nginx-{self.port}"
        folder.mkdir()
        # As root its worker would be another user, which cannot read our folder.
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(_NGINX.format(module=module, folder=folder, port=self.port, user=user))
        command = [program, "-p", str(folder), "-c", "nginx.conf", "-e", str(folder / "error.log")]
        master = serve(sandbox, self.name, command, environment(), (self.port, "/ready"))
        self.usage = Usage(children(master))

    def publishing(self, pattern: str) -> dict[str, str]:  # noqa: ARG002 - it has a pattern of its own
        """Return what the publishers send."""
        return {"path": "/pub?id=%d", "head": "Host: bench\r\nContent-Type: application/json\r\n", "body": self._body}

    def reading(self, transport: str) -> dict[str, Any]:
        """Return what the readers send."""
        head = "Host: bench\r\n" + (UPGRADE if transport == "websocket" else "Accept: text/event-stream\r\n")
        return {"head": head, "resume": ("", "Last-Event-ID: %s\r\n")}

    def target(self, workspace: int, selected: int, transport: str) -> str:  # noqa: ARG002 - the same for both
        """Return what a reader asks for."""
        if selected != NO_FILTER:
            raise BenchError("nchan has no filters", "Leave --filters out with --peer nchan.")
        return f"/sub?id={workspace}"


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
