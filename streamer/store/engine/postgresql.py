"""Connecting to PostgreSQL: its URL as libpq reads it, in the driver's terms, and session settings."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import exc
from sqlalchemy.engine import make_url

CONNECT_SECONDS = 5
COMMAND_SECONDS = 30
"""PostgreSQL's time limit for one statement, including waits for row locks."""

SESSION = {
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "30s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""Settings with which PostgreSQL cleans up after a node that stopped in the middle of a transaction, or disappeared silently."""
WRITING = {"lock_timeout": "1s", "idle_in_transaction_session_timeout": "10s"}
"""A stopped node's locks end soon; and a writer gives up on a lock earlier, so that it can do other work (`store.log.writer`)."""

_HANDED_ON = frozenset(
    {
        "host", "port", "user", "password", "dbname", "passfile", "service", "options", "application_name",
        "target_session_attrs", "krbsrvname", "gsslib", "sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl",
        "sslpassword", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version",
    }
)  # fmt: skip
"""Parameters that the driver understands like libpq."""
_AS_IT_IS = {
    "client_encoding": {"utf8", "utf-8", "unicode", "auto"},
    "gssencmode": {"disable", "prefer"},
    "channel_binding": {"disable", "prefer"},
}
"""libpq's parameters that can only confirm the driver's behaviour, because it supports nothing else."""
_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_FILES = ("sslcert", "sslkey", "sslrootcert", "sslcrl", "passfile")
_AUTHORITY = re.compile(r"^(\w[\w+]*://(?:[^/?]*@)?)([^/?@]*)")


class BadDatabaseUrl(ValueError):
    """The store cannot use the database in the URL; the message says why, without the URL, which may contain a password."""


@dataclass(frozen=True, slots=True)
class Target:
    """A PostgreSQL in the driver's terms."""

    arguments: Mapping[str, Any] = field(repr=False)
    """Keyword arguments of the driver's `connect`; one may be a password."""
    pooled: bool
    """The connection goes through PgBouncer in transaction mode: no setting outlives a transaction."""

    def connect_arguments(self, session: Mapping[str, str]) -> dict[str, Any]:
        """Return all keyword arguments of `connect` for sessions with these settings."""
        if self.pooled:
            return {**self.arguments, "statement_cache_size": 0, "prepared_statement_cache_size": 0}
        settings = {"jit": "off", **session, **self.arguments.get("server_settings", {})}
        return {**self.arguments, "server_settings": settings}


def parse(url: str) -> Target:
    """Parse a URL like libpq (PostgreSQL's documentation, 34.1.1.2 and 34.1.2).

    Raises: BadDatabaseUrl, with the parameter's name.
    """
    hosts = ""
    authority = _AUTHORITY.match(url)
    if authority and "," in authority[2]:  # several hosts, which SQLAlchemy cannot parse
        hosts = authority[2]
        url = authority[1] + url[authority.end() :]
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise BadDatabaseUrl("not a database URL, such as postgresql://user:password@host/name") from None
    query = {name: value if isinstance(value, str) else ",".join(value) for name, value in parsed.query.items()}
    if hosts:
        query["host"] = hosts
    if "ssl" in query:  # the name in SQLAlchemy's documentation
        query.setdefault("sslmode", query.pop("ssl"))
    arguments: dict[str, Any] = {"timeout": _seconds(query.pop("connect_timeout", str(CONNECT_SECONDS)))}
    arguments["command_timeout"] = COMMAND_SECONDS
    pooled = _is_true(query.pop("pgbouncer", "false"))
    query.setdefault("application_name", query.pop("fallback_application_name", "streamer"))
    for name, allowed in _AS_IT_IS.items():
        if query.pop(name, "prefer").lower() not in allowed | {"prefer"}:
            raise BadDatabaseUrl(f"{name} can only be {' or '.join(sorted(allowed))} here")
    _check(query)
    own = {"user": parsed.username, "password": parsed.password, "database": parsed.database}
    arguments |= {name: value for name, value in own.items() if value}
    if parsed.host:
        arguments |= {"host": parsed.host, "port": parsed.port or 5432}
    return Target({**arguments, "dsn": f"postgresql://?{urlencode(query)}"}, pooled)


def _check(query: Mapping[str, str]) -> None:
    for name, value in query.items():
        if name not in _HANDED_ON:
            raise BadDatabaseUrl(f"the parameter {name[:100]} is not known or not supported")
        if not value:
            raise BadDatabaseUrl(f"the parameter {name} is empty")
        if name in _FILES and not Path(value).is_file():
            raise BadDatabaseUrl(f"{name}: there is no such file")
    if query.get("sslmode", "prefer") not in _MODES:
        raise BadDatabaseUrl(f"sslmode must be one of {', '.join(_MODES)}")
    if not all(port.isdecimal() for port in query.get("port", "0").split(",")):
        raise BadDatabaseUrl("port must be a number")


def _seconds(text: str) -> int:
    if not text.isdecimal() or int(text) > 3600:  # noqa: PLR2004
        raise BadDatabaseUrl("connect_timeout must be a number of seconds")
    return max(int(text), 2) if int(text) else CONNECT_SECONDS


def _is_true(text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0"}:
        raise BadDatabaseUrl("pgbouncer must be true or false")
    return text.lower() in {"true", "1"}


def misuse(error: BaseException) -> BadDatabaseUrl | None:
    """Return the problem with the URL if an error at the first connection shows one, else None."""
    below = error.orig.__cause__ if isinstance(error, exc.DBAPIError) and error.orig is not None else None
    text = str(below or error)
    if "unsupported startup parameter" in text:
        return BadDatabaseUrl("this is a PgBouncer: add ?pgbouncer=true to the URL (docs/deploy.md)")
    if type(below or error).__name__ == "ClientConfigurationError":
        return BadDatabaseUrl(text.partition("\n")[0])
    return None
