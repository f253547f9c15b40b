"""Why the server ends a connection or a subscription, and whether the reader should reconnect: one list for all transports."""

from enum import Enum

RECONNECT = range(4000, 4500)
"""WebSocket close codes (RFC 6455, 7.4.2: private use) that mean: reconnect with your position. 4500-4999 mean: do not."""


class Reason(Enum):
    """The word that readers get, and the close code."""

    SHUTDOWN = "shutdown", 4000
    ROTATED = "rotated", 4001
    STALLED = "stalled", 4002
    STORE_UNAVAILABLE = "store_unavailable", 4003
    RESET = "reset", 4004
    INTERNAL_ERROR = "internal_error", 4005
    ACCESS_CHANGED = "access_changed", 4006
    OVERLOADED = "overloaded", 4007
    MESSAGE_TIMEOUT = "message_timeout", 4008
    WORKSPACE_DELETED = "workspace_deleted", 4500
    CREDENTIAL_REVOKED = "credential_revoked", 4501
    CREDENTIAL_EXPIRED = "credential_expired", 4502
    SIGNED_OUT = "signed_out", 4503
    REPLACED = "replaced", 4504
    ACCESS_REVOKED = "access_revoked", 4505
    UNSUBSCRIBED = "unsubscribed", 1000

    def __init__(self, word: str, code: int) -> None:
        self.word = word
        self.code = code

    @property
    def reconnect(self) -> bool:
        """Return whether the reader should reconnect."""
        return self.code in RECONNECT
