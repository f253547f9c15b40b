"""A real PgBouncer in front of a test's database."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.support.databases import unprivileged
from tests.support.process import free_port
from tests.support.run_dir import forget_pid, note_pid, run_dir
from tests.support.tools import require


@contextmanager
def pgbouncer_before(database_url: str, settings: str) -> Iterator[str]:
    """Run a PgBouncer while the block runs; yield the database's URL through it. `settings` are lines of its configuration."""
    program, parts, port = require("pgbouncer"), urlsplit(database_url), free_port()
    folder = run_dir() / f"pgbouncer-{port}"
    folder.mkdir()
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={parts.query.removeprefix('host=')} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = any\n{settings}\n"
    )
    owner = {"user": unprivileged().pw_uid} if os.geteuid() == 0 else {}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program, folder / "pgbouncer.ini"], stdout=log, stderr=log, **owner)  # type: ignore[call-overload]
    note_pid(process.pid)
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}{parts.path}"
    finally:
        process.terminate()
        process.wait()
        forget_pid(process.pid)
