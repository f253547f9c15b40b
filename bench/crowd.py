"""Publishers and readers at one server: what is appended, who reads it, and what every reader must have got."""

from collections.abc import Iterable
from typing import Any

from bench.check import Tally, merged, percentiles, total
from bench.events import EVENT
from bench.load import Load
from bench.sandbox import BenchError, Sandbox, Worker
from bench.targets import NO_FILTER, Target, Written

Metrics = dict[str, float | None]
"""What was measured, by the names of `bench.report.METRICS`."""


class Writers:
    """The process of the publishers, and what it was told is stored."""

    def __init__(self, sandbox: Sandbox, target: Written, load: Load, pattern: str = EVENT) -> None:
        """Start the process, open its connections, and append one event to each workspace, which makes it.

        Args:
            sandbox: where.
            target: the server.
            load: how many connections, workspaces and filters.
            pattern: of the events, one of `bench.events`.
        """
        self.load = load
        self._publishers = Worker(sandbox, "bench.publishers", f"publishers-{len(sandbox.started)}")
        self._acked: dict[int, list[int]] = {}
        self._next = 0
        self._publishers.call(
            "connect",
            port=target.port,
            **target.publishing(pattern),
            connections=load.connections,
            ordered=target.ordered,
            workspaces=load.workspaces,
            filters=load.filters,
        )
        made = self._publishers.call("publish", first=-load.workspaces, count=load.workspaces, each=True)
        if made["failed"]:
            raise BenchError(f"the first append failed: {made['why']}")

    def acked(self, workspace: int) -> list[int]:
        """Return the numbers of the events that a workspace holds, in its order; without the event that created it."""
        return self._acked.get(workspace, [])

    def publish(
        self, *, rate: float | None, seconds: float | None = None, count: int | None = None, batch: int = 1
    ) -> Any:
        """Append events and wait for their answers; return what the publishers say of it, with the `first` number."""
        first = self._next
        result = self._publishers.call("publish", first=first, rate=rate, seconds=seconds, count=count, batch=batch)
        self._next += result["sent"]
        for workspace, numbers in result["acked"].items():
            self._acked.setdefault(int(workspace), []).extend(numbers)
        return {**result, "first": first}


class Crowd(Writers):
    """Publishers and readers of one server."""

    def __init__(self, sandbox: Sandbox, target: Target, load: Load) -> None:
        """Start the processes; no stream is open yet."""
        super().__init__(sandbox, target, load)
        self.target = target
        number = len(sandbox.started)
        self._readers = [
            Worker(sandbox, "bench.readers", f"readers-{number}-{part}") for part in range(load.reader_processes)
        ]
        self._streams: list[set[str]] = [set() for _ in self._readers]

    def join(self, streams: list[tuple[int, int]], *, slow: int = 0, wave: int = 100) -> None:
        """Open streams, of these workspaces and filters, and wait until all are live."""
        reading = self.target.reading(self.load.transport)
        before = {name: len(numbers) for name, numbers in self._expected().items()}
        parts = [streams[part :: len(self._readers)] for part in range(len(self._readers))]
        for place, (reader, known, part) in enumerate(zip(self._readers, self._streams, parts, strict=True)):
            named = [(_name(*each), self.target.target(*each, self.load.transport)) for each in part]
            known.update(name for name, _ in named)
            reader.send(
                "connect",
                port=self.target.ports[(place + 1) % len(self.target.ports)],
                streams=named,
                **reading,
                before=_only(before, known),
                wave=wave,
                slow=slow,
                synced=self.target.says_synced,
            )
        for reader in self._readers:
            reader.answer()

    def join_slow(self, streams: list[tuple[int, int]]) -> None:
        """Open streams that are read slowly. What was appended before is not for them."""
        self.join(streams, slow=self.load.slow_rate)

    def churn(self, visitors: float, seconds: float, rate: float) -> int:
        """Let so many visitors a second come and go, while events are appended; return how many there were."""
        streams = [(name, self._target_of(name)) for name in sorted(set().union(*self._streams))]
        for reader in self._readers:
            reader.send("churn", streams=streams, rate=visitors / len(self._readers), seconds=seconds)
        self.publish(rate=rate, seconds=seconds)
        return sum(reader.answer() for reader in self._readers)

    def _target_of(self, name: str) -> str:
        workspace, selected = map(int, name.split("/"))
        return self.target.target(workspace, selected, self.load.transport)

    def settle(self) -> None:
        """Wait until the readers have all that was appended, or nothing comes any more."""
        expected = self._expected()
        counts = {name: len(numbers) for name, numbers in expected.items()}
        self._all("settle", [{"counts": _only(counts, known)} for known in self._streams])

    def begin(self) -> None:
        """Count bytes and time from here."""
        self._all("begin")

    def all(self, order: str, **arguments: object) -> list[Any]:
        """Have all readers do something; return what they say."""
        return self._all(order, [arguments] * len(self._readers))

    def report(self, since: int) -> tuple[Metrics, dict[str, Any]]:
        """Check every reader; measure the deliveries of the events from number `since` on.

        Returns:
            The metrics that are the readers', and the rest of what they say: when the last event came (`last`), how many `bytes` came
            since `begin` and the `cpu` seconds that took, and in buckets how long streams took to be live (`synced_after`).
        """
        expected = self._expected()
        parts = self._all("report", [{"expected": _only(expected, known), "since": since} for known in self._streams])
        tally = total(Tally(**part["tally"]) for part in parts)
        deliveries = sum(part["deliveries"] for part in parts)
        metrics: Metrics = {
            "deliveries": deliveries,
            **percentiles(merged(part["latencies"] for part in parts)),
            **tally._asdict(),
            "gaps": sum(part["gaps"] for part in parts),
            "ended": sum(part["ended"] for part in parts),
            "readers_busy": round(max(part["busy"] for part in parts), 3),
        }
        return metrics, {
            "last": max(part["last"] for part in parts),
            "bytes": sum(part["bytes"] for part in parts),
            "cpu": sum(part["cpu"] for part in parts),
            "synced_after": merged(part["synced_after"] for part in parts),
        }

    def _expected(self) -> dict[str, list[int]]:
        """Return the numbers that each stream had to bring, in order."""
        expected: dict[str, list[int]] = {}
        for workspace, numbers in self._acked.items():
            expected[_name(workspace, NO_FILTER)] = numbers
            for selected in range(self.load.filters):
                expected[_name(workspace, selected)] = [
                    each for each in numbers if each % self.load.filters == selected
                ]
        return expected

    def _all(self, order: str, arguments: Iterable[dict[str, Any]] | None = None) -> list[Any]:
        for reader, each in zip(self._readers, arguments or [{}] * len(self._readers), strict=True):
            reader.send(order, **each)
        return [reader.answer() for reader in self._readers]


def _name(workspace: int, selected: int) -> str:
    return f"{workspace}/{selected}"


def _only(values: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}
