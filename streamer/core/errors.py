"""Every error that a caller can get, with its code and status.

    StreamerError
    ├── ValidationError        400 validation_error     fields named in details.fields
    ├── InvalidCursor          400 invalid_cursor
    ├── Unauthenticated        401 unauthenticated
    ├── PermissionDenied       403 permission_denied
    ├── NotFound               404 not_found
    │   ├── WorkspaceNotFound  404 workspace_not_found
    │   ├── EventNotFound      404 event_not_found
    │   └── EntityNotFound     404 entity_not_found
    ├── MethodNotAllowed       405 method_not_allowed
    ├── RequestTimeout         408 request_timeout
    ├── IdConflict             409 id_conflict
    ├── IdempotencyConflict    409 idempotency_conflict
    ├── LastOwner              409 last_owner
    ├── Ambiguous              409 ambiguous
    ├── PositionExpired        410 position_expired     details.earliest, details.head
    ├── PayloadTooLarge        413 payload_too_large
    ├── UnsupportedMediaType   415 unsupported_media_type
    ├── ExpectationFailed      417 expectation_failed
    ├── RateLimited            429 rate_limited         Retry-After
    ├── InternalError          500 internal_error
    ├── Overloaded             503 overloaded           Retry-After
    ├── StoreUnavailable       503 store_unavailable    Retry-After
    │   └── ReadTimeout        503 read_timeout         Retry-After
    └── IssuerUnavailable      503 issuer_unavailable   Retry-After

The message is for people and can change; the code is for programs and does not.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from streamer.core.quoting import cut_names


class StreamerError(Exception):
    """An error with a code, a status, a message for people and optional structured details."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retry_after: int | None = None
    """Seconds after which the same call may succeed, sent as `Retry-After` (RFC 9110, 10.2.3)."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details


class ValidationError(StreamerError):
    """The request is invalid; `fields` maps each invalid field to its problem.

    A client chooses the names of unknown fields, so they are truncated, and only the first of many are kept; `total` is
    their number if `fields` does not have all of them.
    """

    code = "validation_error"
    status = 400

    def __init__(self, fields: Mapping[str, str], message: str | None = None, *, total: int | None = None) -> None:
        self.fields = cut_names(fields, total)
        names = ", ".join(list(self.fields)[:3]) + (", …" if len(self.fields) > 3 else "")  # noqa: PLR2004
        super().__init__(message or f"invalid: {names}", fields=self.fields)


class InvalidCursor(StreamerError):
    """The cursor was not issued by this server."""

    code = "invalid_cursor"
    status = 400


class Unauthenticated(StreamerError):
    """The credential is missing, or it is not valid or not valid any more."""

    code = "unauthenticated"
    status = 401


class PermissionDenied(StreamerError):
    """The caller is known but lacks the scope."""

    code = "permission_denied"
    status = 403


class NotFound(StreamerError):
    """It does not exist, or it is not visible to the caller."""

    code = "not_found"
    status = 404


class WorkspaceNotFound(NotFound):
    """The workspace does not exist, or the caller has no grant for it."""

    code = "workspace_not_found"

    def __init__(self) -> None:
        super().__init__("no such workspace, or no grant for it")


class EventNotFound(NotFound):
    """The event does not exist in the workspace, or it is not visible to the caller."""

    code = "event_not_found"

    def __init__(self) -> None:
        super().__init__("no such event in this workspace")


class EntityNotFound(NotFound):
    """No event in the workspace's log mentions the entity."""

    code = "entity_not_found"

    def __init__(self) -> None:
        super().__init__("no such entity in this workspace")


class MethodNotAllowed(StreamerError):
    """The path exists, but not with this method; `Allow` lists the methods."""

    code = "method_not_allowed"
    status = 405


class RequestTimeout(StreamerError):
    """The request's body did not arrive in time."""

    code = "request_timeout"
    status = 408


class IdConflict(StreamerError):
    """An event with this id is stored with other content."""

    code = "id_conflict"
    status = 409


class IdempotencyConflict(StreamerError):
    """The `Idempotency-Key` was used for another request."""

    code = "idempotency_conflict"
    status = 409


class LastOwner(StreamerError):
    """The workspace would have no owner."""

    code = "last_owner"
    status = 409


class Ambiguous(StreamerError):
    """A resource that was named without its workspace exists in several of the caller's workspaces."""

    code = "ambiguous"
    status = 409


class PositionExpired(StreamerError):
    """The position is not in the log: trimmed, beyond its head, or of another epoch."""

    code = "position_expired"
    status = 410


class PayloadTooLarge(StreamerError):
    """The body, the batch or one event is over its limit."""

    code = "payload_too_large"
    status = 413


class UnsupportedMediaType(StreamerError):
    """The route does not accept the body's `Content-Type` or encoding."""

    code = "unsupported_media_type"
    status = 415


class ExpectationFailed(StreamerError):
    """The server does not support the request's `Expect`."""

    code = "expectation_failed"
    status = 417


class RateLimited(StreamerError):
    """The principal has reached one of its limits; the response says when to retry."""

    code = "rate_limited"
    status = 429

    def __init__(self, message: str, *, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InternalError(StreamerError):
    """An error in the server; the request id leads to its log entry."""


class Overloaded(StreamerError):
    """The node has no capacity: too many appends are queued, too many streams are open, or the memory for requests and responses is used up.

    Nothing was stored or opened.
    """

    code = "overloaded"
    status = 503
    retry_after = 1


class StoreUnavailable(StreamerError):
    """The database cannot be reached or cannot write.

    After an append the outcome is unknown: repeat it with the same event id or `Idempotency-Key`.
    """

    code = "store_unavailable"
    status = 503
    retry_after = 2


class ReadTimeout(StoreUnavailable):
    """The database could not answer a read within its deadline.

    The database is healthy, but the read is too expensive.
    """

    code = "read_timeout"
    retry_after = 5

    def __init__(self) -> None:
        super().__init__(
            "the database did not finish this read in time; ask for a shorter time range, or filter by an indexed field,"
            " such as `entity_id` or `actor_id`"
        )


class IssuerUnavailable(StreamerError):
    """The keys that verify tokens have never been fetched, and cannot be fetched now."""

    code = "issuer_unavailable"
    status = 503
    retry_after = 5

    def __init__(self) -> None:
        super().__init__("the keys of the token's issuer cannot be fetched now")
