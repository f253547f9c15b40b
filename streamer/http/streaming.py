"""Settings of the connections that stay open."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamer.access.principal import Principal
from streamer.core.unread import Unread


@dataclass(frozen=True)
class SocketLimits:
    """What one socket may ask for."""

    subscriptions: int
    message_values: int
    messages_per_second: int


class SinkOptions:
    """How much a connection may hold and how long it may stand still."""

    def __init__(self, unread: Unread, *, high_water: int, stall_seconds: float) -> None:
        self._unread = unread
        self._bounds = {"high_water": high_water, "stall_seconds": stall_seconds}

    def of(self, principal: Principal) -> Mapping[str, Any]:
        """Return the options of the sink (`transports.sink.SocketSink`) of a caller's connection."""
        return {**self._bounds, "unread": self._unread.hold(principal.account)}
