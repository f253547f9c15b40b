"""The scenarios by their names, and how they are run: each run on new servers, ours and a peer's turn by turn."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from streamer.bench.crowd import Metrics
from streamer.bench.fanout import fanout
from streamer.bench.ground import BenchError, Ground, ground
from streamer.bench.load import Load
from streamer.bench.report import middle, ratios, unit_of
from streamer.bench.targets import Nchan, Streamer, Target

BUSY = 0.9
"""A process that is this busy has no more to give."""
SPARE_FILES = 500


@dataclass(frozen=True)
class Scenario:
    """A way to put load on a server.

    Attributes:
        measure: puts it on one server.
        asks: the fields of the load that it looks at.
        load: what is asked if nobody says more.
        peers: the other servers that can do the same.
    """

    measure: Callable[[Ground, Target, Load], Metrics]
    asks: tuple[str, ...]
    load: Load = Load()
    peers: tuple[str, ...] = ()

    def words(self, load: Load) -> dict[str, Any]:
        """Return the load by the names of the options."""
        values = asdict(load)
        return {name: values[name] for name in (*self.asks, "settings", "database_url") if values[name]}

    def files(self, load: Load) -> int:
        """Return how many files one process may have open."""
        subscribers = load.subscribers if "subscribers" in self.asks else 0
        return max(subscribers, load.connections) + SPARE_FILES


_READERS = ("transport", "subscribers", "reader_processes")
_EVENTS = ("rate", "seconds", "warmup", "connections")

SCENARIOS = {
    "fanout": Scenario(fanout, (*_READERS, *_EVENTS, "filters", "workspaces"), peers=("nchan",)),
}


@dataclass(frozen=True)
class Outcome:
    """What came of the runs."""

    runs: dict[str, list[Metrics]] = field(default_factory=dict)

    @property
    def result(self) -> Metrics:
        """Our numbers."""
        return middle(self.runs["streamer"])

    def columns(self) -> dict[str, Metrics]:
        """Return the numbers of each server, and for two of them the ratio."""
        found = {name: middle(runs) for name, runs in self.runs.items()}
        if len(found) > 1:
            ours, theirs = found.values()
            found["ratio"] = ratios(ours, theirs)
        return found

    def document(self) -> dict[str, Any]:
        """Return all that there is, as JSON has it."""
        ours, *peer = self.columns().items()
        return {
            "units": {name: unit for name in ours[1] if (unit := unit_of(name))},
            "result": ours[1],
            "runs": self.runs["streamer"],
            **({"peer": {"name": peer[0][0], "result": peer[0][1], "runs": self.runs[peer[0][0]]}} if peer else {}),
            **({"ratio": peer[1][1]} if peer else {}),
            "remarks": self.remarks(),
        }

    def remarks(self) -> list[str]:
        """Return what must be known to read the numbers."""
        found = []
        for name, metrics in ((name, middle(runs)) for name, runs in self.runs.items()):
            if (metrics.get("readers_busy") or 0) >= BUSY:
                found.append(f"readers were the bottleneck ({name}): give them --reader-processes, on more cores")
        return found


def measure(scenario: str, load: Load, *, peer: str | None, runs: int, tick: Callable[[str], None]) -> Outcome:
    """Run a scenario so many times, with a peer turn by turn.

    Raises:
        BenchError: it cannot be done.
    """
    kind = SCENARIOS[scenario]
    if peer and peer not in kind.peers:
        can = [name for name, each in SCENARIOS.items() if peer in each.peers]
        raise BenchError(f"{peer} cannot do {scenario}", f"It can do {', '.join(can)}.")
    outcome = Outcome()
    body = ""
    for number in range(runs):
        for name in filter(None, ("streamer", peer)):
            what = f"{scenario}: {name}, run {number + 1} of {runs}"
            with ground(lambda what=what: tick(what)) as place:  # type: ignore[misc]
                if name == "streamer":
                    target: Target = Streamer(place, load.settings, load.database_url)
                else:
                    target = Nchan(place, body)
                outcome.runs.setdefault(name, []).append(kind.measure(place, target, load))
                body = target.sample()
    return outcome
