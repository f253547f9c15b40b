"""Classifies database errors: an outage of the server, a conflict of transactions, or a problem with one request.

An error counts as an outage unless its code concerns the values of a statement. So an unforeseen kind of failure is
answered with 503 and recovers by itself, instead of becoming a permanent 500.

The messages of the database's errors are never logged, because they may quote a row. Its codes and the names of its
errors cannot.
"""

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import exc

from streamer.core.errors import InternalError, StoreUnavailable

QUIET_SECONDS = 1.0
"""An outage is over when something works and nothing has failed for this long; otherwise each failure of an unstable database would be logged."""

_CONTENT_CLASSES = frozenset({"21", "22", "23", "44", "54", "P0"})
"""Classes of SQLSTATE (PostgreSQL's documentation, appendix A) that concern values: cardinality, data, constraints, a view's check, program limits (a row too large for an index), and errors raised by a trigger."""
_CONTENT_OF_SQLITE = frozenset({18, 19, 20})
"""SQLITE_TOOBIG, SQLITE_CONSTRAINT (also a trigger's RAISE), SQLITE_MISMATCH."""

_CONFLICTS = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock not available: the transaction was rolled back, and can succeed when repeated."""
_KEPT_CLASSES = frozenset({"40", "53"})
_KEPT_STATES = frozenset({"55P03", "57014"})
"""After these errors (and class 40, rollback; 53, resources) a connection can be reused.

After others it cannot: a session that began while the server was read-only stays read-only, and one to a demoted
primary never finds the new one.
"""
_KEPT_OF_SQLITE = frozenset({5, 6, 9, 13})
"""SQLITE_BUSY, SQLITE_LOCKED, SQLITE_INTERRUPT, SQLITE_FULL."""

_REASONS = {
    "08": "unreachable",
    "25": "read_only",
    "25P03": "timeout",
    "28": "access_denied",
    "3D": "database_missing",
    "40": "locked",
    "42": "schema",
    "42501": "access_denied",
    "53": "out_of_resources",
    "53100": "disk_full",
    "55": "locked",
    "57": "unreachable",
    "57014": "timeout",
    "58": "io_error",
    "XX001": "corrupt",
    "XX002": "corrupt",
}
"""By SQLSTATE, or its class."""
_REASONS_OF_SQLITE = {
    1: "schema",
    3: "access_denied",
    5: "locked",
    6: "locked",
    8: "read_only",
    10: "io_error",
    11: "corrupt",
    13: "disk_full",
    14: "file_missing",
    26: "corrupt",
}
"""By SQLite's primary result code (its documentation, "Result and Error Codes")."""
_REASONS_OF_SYSTEM = {
    errno.ENOENT: "file_missing",
    errno.EMFILE: "out_of_descriptors",
    errno.ENFILE: "out_of_descriptors",
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EROFS: "read_only",
    errno.EIO: "io_error",
}


class Contended(StoreUnavailable):
    """Another transaction was in the way; this one was rolled back, and can succeed when repeated."""


class Refused(InternalError):
    """The database rejected the values of one request.

    The log gets the error's names; neither it nor the client gets its message.
    """

    def __init__(self, names: str) -> None:
        super().__init__("the database rejected the values; nothing was stored")
        self.args = (names,)


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a statement or a connection failed, without quoting a value."""

    kind: str
    """The name of the error's class, or SQLite's name of the code."""
    code: str | None
    """SQLSTATE, or the system's name of an errno."""
    reason: str
    """One word for clients and operators (see docs/operations.md)."""
    text: str | None = None
    """The message, if it cannot quote a value: the system's, or one from before the first statement."""

    @property
    def fields(self) -> dict[str, str]:
        """Return the fields for a log line."""
        named = {"error": self.kind, "code": self.code, "reason": self.reason, "text": self.text}
        return {name: value for name, value in named.items() if value is not None}


def is_outage(error: BaseException) -> bool:
    """Return whether an error means that the database is unavailable, full, locked or changed, rather than that one request's values are invalid."""
    source = _source(error)
    state, number = _state(source), _sqlite_code(source)
    if state is not None:
        return state[:2] not in _CONTENT_CLASSES
    if number is not None:
        return number not in _CONTENT_OF_SQLITE
    if isinstance(source, ValueError) and not isinstance(source, OSError):  # a value that asyncpg could not send
        return False
    return isinstance(error, exc.DBAPIError | exc.TimeoutError | exc.PendingRollbackError) or _is_from_below(error)


def is_collision(error: BaseException) -> bool:
    """Return whether two transactions collided, so that this one was rolled back and can be repeated at once: neither holds a lock for long."""
    return _state(_source(error)) in {"40001", "40P01"}


def is_conflict(error: BaseException) -> bool:
    """Return whether another transaction was in the way, so that this one was rolled back."""
    source = _source(error)
    return _state(source) in _CONFLICTS or _sqlite_code(source) in {5, 6}


def is_cut_short(error: BaseException) -> bool:
    """Return whether the database ended a statement because of its time limit."""
    source = _source(error)
    return _state(source) == "57014" or _sqlite_code(source) == 9  # noqa: PLR2004 - query_canceled, SQLITE_INTERRUPT


def spoils(error: BaseException) -> bool:
    """Return whether the connection of an error must not be reused, nor any other of its age."""
    state, number = _state(source := _source(error)), _sqlite_code(source)
    kept = state in _KEPT_STATES or (state or "")[:2] in _KEPT_CLASSES or number in _KEPT_OF_SQLITE
    return is_outage(error) and not kept and not isinstance(error, exc.TimeoutError)


def cause_of(error: BaseException) -> Cause:
    """Describe an error, without its message if that may quote a row."""
    source = _source(error)
    state, number = _state(source), _sqlite_code(source)
    kind = type(source).__name__
    if state is not None:
        reason = _REASONS.get(state) or _REASONS.get(state[:2]) or "error"
        # Before the first statement there is no row to quote.
        quotes_nothing = not isinstance(error, exc.DBAPIError) or (
            error.statement is None and state[:2] in {"28", "3D"}
        )
        return Cause(kind, state, reason, str(source).partition("\n")[0][:200] if quotes_nothing else None)
    if number is not None:
        return Cause(getattr(source, "sqlite_errorname", kind), None, _REASONS_OF_SQLITE.get(number, "error"))
    if isinstance(source, OSError):
        code = errno.errorcode.get(source.errno or 0)
        reason = _REASONS_OF_SYSTEM.get(source.errno or 0, "unreachable")
        return Cause(kind, code, reason, source.strerror or None)
    timed_out = isinstance(source, TimeoutError | exc.TimeoutError)
    return Cause(kind, None, "timeout" if timed_out else "unreachable")


def refusal_of(error: BaseException) -> Refused | None:
    """Return the error to raise if one request's values are the cause, None if it is a bug in this program.

    The database's own message may quote the row, so it is not included.
    """
    if not isinstance(error, exc.DBAPIError):
        return None
    source = _source(error)
    constraint = getattr(source, "constraint_name", None)
    code = _state(source) or getattr(source, "sqlite_errorname", None)
    words = filter(None, (type(source).__name__, code, constraint))
    return Refused(" ".join(words))


class Outage:
    """Logs once when something stops working, with the cause; and when it works again, with the duration."""

    def __init__(self, use: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without an outage; `use` is what fails: `reads` or `writes`."""
        self.use = use
        self._clock = clock
        self._logger = structlog.get_logger("database")
        self.cause: Cause | None = None
        """The current cause, None while it works."""
        self.proved_at = float("-inf")
        """When `proved` was last called, by the clock."""
        self.waits_for: str | None = None
        """The reason with which a pending wait would fail."""
        self._began = self._failed_at = 0.0
        self._logged: set[str] = set()

    def failed(self, cause: Cause) -> None:
        """Note a failure."""
        self._failed_at = self._clock()
        if self.cause is None:
            self._began = self._failed_at
            self._logged.clear()
        self.cause = cause
        if cause.reason not in self._logged:
            self._logged.add(cause.reason)
            self._logger.warning("database_outage", use=self.use, **cause.fields)

    def worked(self) -> None:
        """Note a success. It may have used other tables than the failed ones, so it does not end an outage of the schema."""
        if self.cause is not None and self.cause.reason != "schema":
            self._end()

    def proved(self) -> None:
        """Note that everything an append or read needs works: all its tables, with their columns and locks."""
        self.proved_at = self._clock()
        if self.cause is not None:
            self._end()

    def _end(self) -> None:
        now = self._clock()
        if self.cause is not None and now - self._failed_at >= QUIET_SECONDS:
            self._logger.info("database_outage_over", use=self.use, seconds=round(now - self._began, 1))
            self.cause = None


def _source(error: BaseException) -> BaseException:
    """Return the driver's own error inside SQLAlchemy's."""
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        # SQLAlchemy's asyncpg adapter wraps it in its own error.
        below = error.orig.__cause__
        return below if below is not None and _is_from_below(below) else error.orig
    return error


def _is_from_below(error: BaseException) -> bool:
    """Return whether an error is the system's, or one of asyncpg's own classes, which SQLAlchemy does not always translate."""
    return isinstance(error, OSError | TimeoutError) or type(error).__module__.startswith("asyncpg")


def _state(error: BaseException) -> str | None:
    state: Any = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else None


def _sqlite_code(error: BaseException) -> int | None:
    """Return SQLite's primary result code."""
    code: Any = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None
