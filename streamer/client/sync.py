"""Synchronous clients: each call runs the asynchronous client's call on an event loop in a separate thread.

Each method is written once, in the asynchronous client. `_call` and `_iterate` create its twin with the same signature,
which type checkers, editors and `help` understand.
"""

import asyncio
import contextlib
import functools
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar

from streamer.client.backoff import Timing
from streamer.client.http import Client
from streamer.client.platform import PlatformClient

AsyncClient = AbstractAsyncContextManager[Any]
C = TypeVar("C", bound=AsyncClient)
P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_CLOSED = "the client is closed"
_ENDING = 5.0
"""Seconds to wait for the thread to end. It is a daemon: the process can exit without it."""
_SIGNAL_SECONDS = 1.0
"""Interval at which a waiting call looks for signals: one that arrives just before the wait does not interrupt it."""
_AT_ONCE = 1000
"""Maximum number of items that are handed over together."""


class _Items(Protocol[T_co]):
    """The return type of an asynchronous method that yields: a generator, or an iterator with the same `aclose`."""

    def __anext__(self) -> Awaitable[T_co]: ...
    def aclose(self) -> Coroutine[Any, Any, None]: ...


class _Loop:
    """An event loop in a separate thread, in which a client is open until it is stopped."""

    def __init__(self, client: AsyncClient) -> None:
        runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = runner.get_loop()
        self._end = asyncio.Event()
        self._lock = threading.RLock()  # a garbage collection inside may close a stream
        self._stopped = False
        self._thread = threading.Thread(
            target=_serve, args=(runner, client, self._end), name="streamer-client", daemon=True
        )
        self._thread.start()

    def refusal(self) -> str | None:
        """Return why no call can be made from here, None if one can."""
        if threading.current_thread() is self._thread:
            return "a call from the client's own thread, as from a stream's notice, would deadlock"
        if self._stopped:
            return _CLOSED
        return (
            None
            if self._thread.is_alive()
            else "a client cannot be used after a fork of its process: create another one"
        )

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine and return its result; an exception that interrupts the wait, such as Ctrl-C, cancels it.

        Raises:
            RuntimeError: no call can be made, or the client is closed meanwhile.
        """
        with self._lock:  # calls accepted before the end are cancelled by it, so none waits indefinitely
            refusal = self.refusal()
            if refusal:
                coroutine.close()
                raise RuntimeError(refusal)
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            while not future.done():
                with contextlib.suppress(TimeoutError):
                    return future.result(_SIGNAL_SECONDS)
            return future.result()
        except CancelledError:
            raise RuntimeError(_CLOSED) from None
        finally:
            future.cancel()

    def stop(self) -> None:
        """Close the client, cancel running calls, and wait for the thread to end."""
        with self._lock:
            if not self._stopped and self._thread.is_alive():
                self._loop.call_soon_threadsafe(self._end.set)
            self._stopped = True
        if threading.current_thread() is not self._thread:
            self._thread.join(_ENDING)


def _serve(runner: asyncio.Runner, client: AsyncClient, end: asyncio.Event) -> None:
    """Keep a client open on the runner's loop until the end."""

    async def hold() -> None:
        async with client:
            await end.wait()

    with runner:
        runner.run(hold())


class _Sync(Generic[C]):
    """An asynchronous client and the loop that runs its calls."""

    def __init__(self, client: C) -> None:
        self._client: C = client
        self._loop = _Loop(client)
        # A client that is dropped without `close` is closed, too, at the latest when the interpreter exits.
        self._finalizer = weakref.finalize(self, self._loop.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the client, from any thread; calls that still wait raise RuntimeError."""
        self._finalizer()


def _call(method: Callable[Concatenate[C, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[_Sync[C], P], T]:
    """Create the twin of a method that returns a value."""

    @functools.wraps(method)
    def call(self: _Sync[C], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.run(method(self._client, *args, **kwargs))

    return call


def _iterate(
    method: Callable[Concatenate[C, P], _Items[T]],
) -> Callable[Concatenate[_Sync[C], P], Generator[T]]:
    """Create the twin of a method that yields; its iterator releases its resources when it ends, is closed or dropped."""

    @functools.wraps(method)
    def iterate(self: _Sync[C], /, *args: P.args, **kwargs: P.kwargs) -> Generator[T]:
        items = _Batches(method(self._client, *args, **kwargs))
        try:
            while True:
                try:
                    batch = self._loop.run(items.take())
                except StopAsyncIteration:
                    return
                yield from batch
        finally:
            if self._loop.refusal() is None:  # otherwise the loop closes them
                self._loop.run(items.close())

    return iterate


class _Batches(Generic[T]):
    """Takes all items from a generator that are available at once: switching threads costs ten times as much as an event."""

    def __init__(self, items: _Items[T]) -> None:
        self._items = items
        self._next: asyncio.Task[T] | None = None

    async def take(self) -> list[T]:
        """Wait for the next item; return it together with those that follow without waiting.

        Raises:
            StopAsyncIteration: there is none.
        """
        batch: list[T] = []
        while len(batch) < _AT_ONCE:
            self._next = self._next or asyncio.create_task(self._anext())
            if batch:
                await asyncio.sleep(0)
                if not self._next.done() or self._next.exception():  # for the next call
                    break
            batch.append(await self._next)
            self._next = None
        return batch

    async def close(self) -> None:
        """Close the generator, after its running step has been cancelled and has ended."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        await self._items.aclose()

    async def _anext(self) -> T:
        return await self._items.__anext__()


class SyncClient(_Sync[Client]):
    """`Client` without asyncio: its calls block, its streams are plain iterators. Threads can share it."""

    def __init__(self, url: str, key: str | None, *, timing: Timing | None = None) -> None:
        """Open a client; arguments and errors are those of `Client`."""
        super().__init__(Client(url, key, timing=timing))

    append = _call(Client.append)
    workspace = _call(Client.workspace)
    event = _call(Client.event)
    page = _call(Client.page)
    history = _iterate(Client.history)
    stream = _iterate(Client.stream)
    create_key = _call(Client.create_key)
    keys = _call(Client.keys)
    revoke_key = _call(Client.revoke_key)
    members = _iterate(Client.members)
    put_member = _call(Client.put_member)
    remove_member = _call(Client.remove_member)
    session = _call(Client.session)


class SyncPlatformClient(_Sync[PlatformClient]):
    """`PlatformClient` without asyncio. Threads can share it."""

    def __init__(self, base_url: str, token: str | None = None, *, timing: Timing | None = None) -> None:
        """Open a client; arguments and errors are those of `PlatformClient`."""
        super().__init__(PlatformClient(base_url, token, timing=timing))

    get_workspace_activity = _call(PlatformClient.get_workspace_activity)
    get_issue_activity = _call(PlatformClient.get_issue_activity)
    get_my_activity = _call(PlatformClient.get_my_activity)
    get_activity = _call(PlatformClient.get_activity)
    list_workspace_activity = _call(PlatformClient.list_workspace_activity)
    list_issue_activity = _call(PlatformClient.list_issue_activity)
