"""Tests a carrier as nodes use it: whether messages to ourselves return, and how long that takes."""

import asyncio
import contextlib
import secrets
import statistics
import time
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

from streamer.bus.link import Carrier, CarrierError
from streamer.bus.message import BadMessage, Kind, decode, encode
from streamer.core.clock import now_us

ROUNDS: Final = 11
"""Messages that are sent, one after the other."""

T = TypeVar("T")


class Probe:
    """One test of a carrier. It disturbs no node: nobody else follows its topic."""

    def __init__(self, carrier: Carrier) -> None:
        self.stage = "connect"
        """What was tried last, for callers that lose their patience."""
        self._carrier = carrier
        self._node = secrets.randbits(64)
        self._confirmed = asyncio.Event()
        self._returned: asyncio.Queue[int] = asyncio.Queue()

    async def run(self, instance: str) -> float:
        """Send some messages; return the median of their seconds. Raises CarrierError; `stage` has what failed."""
        topic = f"e:{self._node:016x}"
        receiving: asyncio.Task[None] | None = None
        try:
            await self._carrier.connect(instance)
            receiving = asyncio.create_task(self._carrier.receive(self))
            self.stage = "subscribe"
            await self._carrier.follow([topic])
            await _unless_failed(receiving, self._confirmed.wait())
            rounds = []
            for number in range(ROUNDS):
                started = time.perf_counter()
                self.stage = "publish"
                await self._carrier.send([(topic, encode(Kind.ECHO, self._node, now_us(), first=number))])
                self.stage = "receive"
                await _unless_failed(receiving, self._until(number))
                rounds.append(time.perf_counter() - started)
            return statistics.median(rounds)
        except OSError as error:
            raise CarrierError(error.strerror or str(error)) from None
        finally:
            if receiving is not None:
                receiving.cancel()
                await asyncio.gather(receiving, return_exceptions=True)
            await self._carrier.close()

    async def _until(self, number: int) -> None:
        while await self._returned.get() != number:
            pass

    # ---- as Receiver

    def confirmed(self, _topics: Iterable[str]) -> None:
        """Note that messages arrive from now on."""
        self._confirmed.set()

    def take(self, _topic: str, data: bytes) -> None:
        """Note a message, if it is ours."""
        with contextlib.suppress(BadMessage):
            message = decode(data)
            if message.node == self._node:
                self._returned.put_nowait(message.first)


async def _unless_failed(receiving: asyncio.Task[None], work: Coroutine[Any, Any, T]) -> T:
    """Wait for some work, or for the end of receiving, which is a failure."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([receiving, task], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        receiving.result()
        raise CarrierError("it closed the connection")
    finally:
        task.cancel()
