"""Counts what a WebSocket holds of messages that are unfinished or not yet handled, and bounds it in size and time.

It stands between aiohttp's connection and its frame parser, and follows the frames just far enough to know where messages end.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from streamer.core.budget import Hold
from streamer.core.errors import Overloaded
from streamer.feed.reasons import Reason

_OVERHEAD = 64
"""Bytes that a piece of a message costs beside its content: clients may send one byte at a time."""
_CONTROL = 0x8
"""Opcodes from here on are of control frames."""
_LONG = {126: 4, 127: 10}
"""The size of a frame's head by the length in its second byte (RFC 6455, 5.2), without the mask."""


class Unfinished:
    """A WebSocket's parser with a meter before it: what aiohttp calls of a parser."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser
        self._head = bytearray()
        self._left = 0
        """Bytes that are missing of the frame's content."""
        self._final = self._is_message = False
        """Of the frame whose content is being read."""
        self._message = self._control = 0
        """Bytes of the unfinished message and of the unfinished control frame; 0: there is none."""
        self._waiting: deque[int] = deque()
        """Sizes of what is complete and not yet handled, in order."""
        self._held = 0
        self._refuses = False
        self._timer: asyncio.TimerHandle | None = None
        self._hold: Hold | None = None
        self._seconds = 0.0
        self._reading: Callable[[], bool] = lambda: True
        self._end: Callable[[Reason], None] = lambda _reason: None

    def watch(self, hold: Hold, seconds: float, reading: Callable[[], bool], end: Callable[[Reason], None]) -> None:
        """Begin to bound what is held.

        Args:
            hold: of the node's budget.
            seconds: in which a message must be complete.
            reading: whether the server reads from the socket now: only then it is the client that is slow.
            end: closes the connection.
        """
        self._hold, self._seconds, self._reading, self._end = hold, seconds, reading, end
        self._settle()

    def handled(self) -> None:
        """Forget the oldest message: it is handled."""
        if self._waiting:
            self._held -= self._waiting.popleft()
            self._settle()

    def stop(self) -> None:
        """Release everything: the connection has ended."""
        self._refuses = True
        self._stop_timer()
        if self._hold is not None:
            self._hold.release()

    # ---- what aiohttp calls

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take bytes from the socket; none are kept once the connection was closed for them."""
        self._follow(data)
        if self._refuses or not self._settle():
            return False, b""
        result: tuple[bool, bytes] = self._parser.feed_data(data)
        return result

    def feed_eof(self) -> None:
        """Take the end."""
        self._parser.feed_eof()

    # ---- frames

    def _follow(self, data: bytes) -> None:
        at, end = 0, len(data)
        while at < end:
            if not self._left:
                self._head.append(data[at])
                at += 1
                if not self._has_head():
                    continue
            step = min(self._left, end - at)
            at += step
            self._left -= step
            self._count(step + _OVERHEAD)
            if not self._left:
                self._finish_frame()

    def _has_head(self) -> bool:
        """Tell whether the frame's head is complete; the frame begins then."""
        head = self._head
        if len(head) < 2:  # noqa: PLR2004 - the smallest head
            return False
        size = head[1] & 127
        length = _LONG.get(size, 2)
        if len(head) < length + (4 if head[1] & 128 else 0):
            return False
        self._left = size if length == 2 else int.from_bytes(head[2:length], "big")  # noqa: PLR2004
        self._final, self._is_message = bool(head[0] & 128), head[0] & 15 < _CONTROL
        head.clear()
        return True

    def _count(self, size: int) -> None:
        self._held += size
        if self._is_message:
            self._message += size
        else:
            self._control += size

    def _finish_frame(self) -> None:
        if not self._is_message:
            self._waiting.append(self._control)
            self._control = 0
        elif self._final:
            self._waiting.append(self._message)
            self._message = 0
            self._stop_timer()

    # ---- bounds

    def _settle(self) -> bool:
        """Hold what is held, and watch the time of an unfinished message. Returns whether there was room."""
        if self._hold is None or self._refuses:
            return True
        try:
            self._hold.resize(self._held)
        except Overloaded:
            self._refuses = True
            self._end(Reason.OVERLOADED)
            return False
        if self._message and self._timer is None:
            self._watch_time()
        return True

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch_time(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._time_is_up)

    def _time_is_up(self) -> None:
        if self._reading():
            self._refuses = True
            self._end(Reason.MESSAGE_TIMEOUT)
        else:
            self._watch_time()
