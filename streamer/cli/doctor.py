"""`streamer doctor`: check an installation, and show how to fix what is wrong."""

import os
import sys
from collections import Counter
from urllib.parse import unquote, urlsplit

import click
import orjson

from streamer import __version__
from streamer.cli.listing import write
from streamer.cli.offline import data_dir_option, settings_of
from streamer.cli.pretty import printable
from streamer.cli.remote import KEY_FILE, run
from streamer.cli.screen import StatusLine, for_people
from streamer.cli.values import Number
from streamer.client.calls import host_of, is_loopback
from streamer.doctor.bus import BusChecks
from streamer.doctor.database import DatabaseChecks
from streamer.doctor.findings import Check, Examination, Finding, State
from streamer.doctor.machine import MachineChecks
from streamer.doctor.server import ServerChecks
from streamer.observe.logs import configure
from streamer.observe.output import takes_escapes
from streamer.settings import PREFIX, Settings
from streamer.store.engine.postgresql import BadDatabaseUrl

FAILED = 7
"""The exit code when a check failed."""
HIDDEN = "***"
_COLOURS = {State.OK: "green", State.WARN: "yellow", State.FAIL: "red", State.SKIP: "bright_black"}
_MIN_SECRET = 4
"""Shorter secrets would hide parts of ordinary words."""


@click.command(epilog="Exit codes: 0 nothing failed (there may be warnings), 7 a check failed.")
@click.option(
    "--url",
    metavar="URL",
    envvar="STREAMER_URL",
    show_envvar=True,
    help="The server, as clients reach it. Default: STREAMER_PUBLIC_URL, else the address that the server listens on.",
)
@click.option(
    "--key",
    metavar="KEY",
    envvar="STREAMER_KEY",
    show_envvar=True,
    help="The key for streams and nodes. Default for this machine's server, or its public https URL: its admin key.",
)
@click.option("--workspace", metavar="WORKSPACE", help="The workspace whose stream is opened [default: any].")
@data_dir_option
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=Number(min=0.1, max=600),
    default=5,
    show_default=True,
    help="Time limit for each check.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(  # noqa: PLR0913 - the options
    *, url: str | None, key: str | None, workspace: str | None, data_dir: str | None, timeout: float, as_json: bool
) -> None:
    """Check an installation: database, bus, server, proxy and machine. It only writes one row, and removes it.

    \b
    streamer doctor
    STREAMER_CONFIG=/etc/streamer.toml streamer doctor --url https://example.com
    streamer doctor --json | jq '.checks[] | select(.state == "fail")'

    Run it with the settings of the server. Each line is ok, warn, fail, or skip for a check that cannot be made.
    """
    settings = settings_of(data_dir)
    configure("auto", "error")
    url = (url or settings.public_url or _address(settings) or "").rstrip("/") or None
    key = (key or "").strip() or own_key(settings, url)
    try:
        server = ServerChecks(url, key, settings, workspace=workspace, seconds=timeout)
    except ValueError as error:
        raise click.UsageError(f"{error}\n--url (or STREAMER_URL) is the server's address") from None
    try:
        database = DatabaseChecks(settings)
    except BadDatabaseUrl as error:
        raise click.UsageError(f"{PREFIX}DATABASE_URL: {error}") from None
    groups = [
        [*database.checks, *BusChecks(settings, database).checks],
        *server.groups,
        MachineChecks(settings, database.database.file).checks,
    ]
    run(_examine(Examination(groups, seconds=timeout), database, _Report(settings, key, as_json=as_json)))


async def _examine(examination: Examination, database: DatabaseChecks, report: "_Report") -> None:
    try:
        await examination.run(lambda: report.show(examination))
        code = report.end(examination)
        if examination.is_late:
            # What hangs in the system (the name service, a disk) must not hold up the exit. Nothing is left to be written.
            os._exit(code)
    finally:
        report.clear()
        await database.database.close(0)
    if code:
        raise click.exceptions.Exit(code)


class _Report:
    """The output: a line for each check, in their order, or one JSON document."""

    def __init__(self, settings: Settings, key: str | None, *, as_json: bool) -> None:
        self._as_json = as_json
        self._status = StatusLine(shown=for_people(sys.stdout, sys.stderr))
        self._colours = takes_escapes(sys.stdout)
        self._shown = 0
        self._secrets = _secrets(settings, key)

    def show(self, examination: Examination) -> None:
        """Write the findings that are known and whose turn it is, and what is still running."""
        self._status.clear()
        width = max(len(check.name) for check in examination.checks)
        while not self._as_json and self._shown < len(examination.checks):
            check = examination.checks[self._shown]
            finding = examination.findings.get(check.name)
            if finding is None:
                break
            self._shown += 1
            write(self._line(check, finding, width).encode())
        if examination.running:
            self._status.draw(f"checking {', '.join(examination.running)} …")

    def clear(self) -> None:
        """Remove the status line."""
        self._status.clear()

    def end(self, examination: Examination) -> int:
        """Write the rest; return the exit code."""
        counts = Counter(finding.state for finding in examination.findings.values())
        if self._as_json:
            checks = [
                {"name": check.name, "state": finding.state, "text": self._clean(finding.text)}
                | ({"fix": self._clean(finding.fix)} if finding.fix else {})
                for check in examination.checks
                for finding in (examination.findings[check.name],)
            ]
            document = {"version": __version__, "failed": counts[State.FAIL], "warned": counts[State.WARN]}
            write(orjson.dumps({**document, "checks": checks}, option=orjson.OPT_INDENT_2) + b"\n")
        else:
            words = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
            click.echo(words, err=True)
            sys.stderr.flush()
        return FAILED if counts[State.FAIL] else 0

    def _line(self, check: Check, finding: Finding, width: int) -> str:
        state = f"{finding.state:<4}"
        if self._colours:
            state = click.style(state, fg=_COLOURS[finding.state])
        fix = f". Next: {finding.fix}" if finding.fix else ""
        return f"{state}  {check.name:<{width}}  {printable(self._clean(finding.text + fix))}\n"

    def _clean(self, text: str) -> str:
        """Hide secrets. No text should have one; messages of the system and of libraries are not ours."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text


def _address(settings: Settings) -> str | None:
    """Return the URL of the server on this machine; None if its port is not known."""
    if settings.port == 0:
        return None
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared only
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def own_key(settings: Settings, url: str | None) -> str | None:
    """Return the server's admin key, if it can only reach that server: on this machine, or at its public URL over TLS."""
    try:
        is_ours = url is not None and (
            is_loopback(host_of(url)) or (url == settings.public_url and url.startswith("https:"))
        )
    except ValueError:
        return None
    if not is_ours:
        return None
    if settings.admin_key is not None:
        return settings.admin_key.get_secret_value()
    try:
        return (settings.data_dir / KEY_FILE).read_text("utf-8-sig").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _secrets(settings: Settings, key: str | None) -> list[str]:
    found = {key or ""}
    for setting in (settings.admin_key, settings.jwt_secret):
        found.add(setting.get_secret_value() if setting is not None else "")
    for setting in (settings.database_url, settings.redis_url):
        try:
            password = urlsplit(setting.get_secret_value()).password if setting is not None else None
        except ValueError:
            continue
        found |= {password or "", unquote(password or "")}
    return sorted((secret for secret in found if len(secret) >= _MIN_SECRET), key=len, reverse=True)
