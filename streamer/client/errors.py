"""Errors of calls to a server; the package's docstring shows the tree."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any


class ClientError(Exception):
    """A call failed; the message is for people."""

    temporary = False
    """The same call may succeed later."""
    retry_after: float | None = None
    """Seconds that the server asked to wait."""


class Unreachable(ClientError):
    """No response, or a truncated one."""

    temporary = True


class UnexpectedAnswer(ClientError):
    """A response that this API does not give."""


class ApiError(ClientError):
    """The server answered with an error; `fields` maps each invalid field to its problem."""

    def __init__(  # noqa: PLR0913 - the parts of the API's error
        self,
        status: int,
        code: str,
        message: str,
        *,
        request_id: str | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{message} ({status} {code})")
        self.status = status
        self.code = code
        self.message = message
        self.request_id = request_id
        self.details = dict(details or {})
        self.retry_after = retry_after

    @property
    def fields(self) -> dict[str, str]:
        """The problem of each invalid field; empty if there is none."""
        return dict(self.details.get("fields") or {})

    @property
    def temporary(self) -> bool:  # type: ignore[override]
        """The same call may succeed later."""
        return is_temporary(self.status)


def is_temporary(status: int) -> bool:
    """Return whether a call with this status is worth another attempt."""
    return (
        status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
        or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    )
