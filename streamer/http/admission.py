"""Which streams can be opened: a bounded number at once, and none once the node closes its streams to stop.

A crowd that reconnects would overload the database, and would time out and try again all at once.
"""

import random

from aiohttp import web

from streamer.core.errors import Overloaded

RETRY_SECONDS = (1, 5)
"""When a refused stream may be tried again: at a random time, so that not all return at once."""


class Opening:
    """A stream that is being opened."""

    __slots__ = ("_admission", "_is_done")

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self._is_done = False

    def done(self) -> None:
        """End it: the response begins, or there is none. Once is enough."""
        if not self._is_done:
            self._is_done = True
            self._admission.opening -= 1


OPENING: web.RequestKey[Opening] = web.RequestKey("opening", Opening)
"""Present while a request opens a stream."""


class Admission:
    """Admits streams, and knows whether the node is about to stop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.opening = 0
        """Streams that are being opened now."""
        self.is_stopping = False
        """The node will stop: it is not ready, and each response closes its connection, so that proxies keep none."""
        self.is_closed = False
        """No more streams are opened."""

    def open(self) -> Opening:
        """Count a stream that is being opened. Raises Overloaded: there are too many, or the node stops."""
        self.check()
        if self.opening >= self._limit:
            error = Overloaded(f"{self._limit} streams are being opened at the moment, which is the limit")
            error.retry_after = random.randint(*RETRY_SECONDS)  # noqa: S311 - jitter, not a secret
            raise error
        self.opening += 1
        return Opening(self)

    def check(self) -> None:
        """Require that something can wait for events on this node. Raises Overloaded: the node stops."""
        if self.is_closed:
            raise Overloaded("this node is stopping", reason="draining")
