"""How PostgreSQL is reached: its URL as libpq reads it, in the driver's terms, and what a session is set to."""

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
"""How long PostgreSQL may take for one statement, waits for row locks included."""

SESSION = {
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "30s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""What PostgreSQL does by itself when this node has stopped in the middle of a transaction, or is gone without a word."""
WRITING = {"lock_timeout": "1s", "idle_in_transaction_session_timeout": "10s"}
"""A stopped node's locks end soon; and a writer gives up on a lock sooner, so that it can do other work (`store.writer`)."""

_HANDED_ON = frozenset(
    {
        "host", "port", "user", "password", "dbname", "passfile", "service", "options", "application_name",
        "target_session_attrs", "krbsrvname", "gsslib", "sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl",
        "sslpassword", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version",
    }
)  # fmt: skip
"""Parameters that the driver understands as libpq does."""
_AS_IT_IS = {
    "client_encoding": {"utf8", "utf-8", "unicode", "auto"},
    "gssencmode": {"disable", "prefer"},
    "channel_binding": {"disable", "prefer"},
}
"""Parameters of libpq that may only say what is so anyway: the driver has no other way."""
_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_FILES = ("sslcert", "sslkey", "sslrootcert", "sslcrl", "passfile")
_AUTHORITY = re.compile(r"^(\w[\w+]*://(?:[^/?]*@)?)([^/?@]*)")


class BadDatabaseUrl(ValueError):
    """The URL names no database that the store can use; the text says why, without the URL, which may hold a password."""


@dataclass(frozen=True, slots=True)
class Target:
    """A PostgreSQL as the driver is to connect to it."""

    arguments: Mapping[str, Any] = field(repr=False)
    """Keywords of the driver's `connect`; one may be a password."""
    pooled: bool
    """PgBouncer stands in between, in transaction mode: nothing lasts beyond a transaction."""

    def connect_arguments(self, session: Mapping[str, str]) -> dict[str, Any]:
        """Return all keywords of `connect` for sessions with these settings."""
        if self.pooled:
            return {**self.arguments, "statement_cache_size": 0, "prepared_statement_cache_size": 0}
        settings = {"jit": "off", **session, **self.arguments.get("server_settings", {})}
        return {**self.arguments, "server_settings": settings}


def parse(url: str) -> Target:
    """Read a URL as libpq does (PostgreSQL's documentation, 34.1.1.2 and 34.1.2).

    Raises: BadDatabaseUrl, with the parameter's name.
    """
    hosts = ""
    authority = _AUTHORITY.match(url)
    if authority and "," in authority[2]:  # several hosts, which SQLAlchemy cannot read
        hosts = authority[2]
        url = authority[1] + url[authority.end() :]
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise BadDatabaseUrl("not a database URL, such as postgresql://user:password@host/name") from None
    query = {name: value if isinstance(value, str) else ",".join(value) for name, value in parsed.query.items()}
    if hosts:
        query["host"] = hosts
    if "ssl" in query:  # as SQLAlchemy's documentation calls it
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
    """Return what is wrong with the URL if an error at the first connection means that, else None."""
    below = error.orig.__cause__ if isinstance(error, exc.DBAPIError) and error.orig is not None else None
    text = str(below or error)
    if "unsupported startup parameter" in text:
        return BadDatabaseUrl("this is a PgBouncer: add ?pgbouncer=true to the URL (docs/deploy.md)")
    if type(below or error).__name__ == "ClientConfigurationError":
        return BadDatabaseUrl(text.partition("\n")[0])
    return None
