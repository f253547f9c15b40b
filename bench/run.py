"""The scenarios by name, and their runs: each on a new server, streamer and the peer in alternation."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench.crowd import Metrics
from bench.dialects import dialects
from bench.fanout import fanout
from bench.history import history
from bench.ingest import ingest
from bench.load import Load
from bench.nchan import Nchan
from bench.praisonai import PraisonAI, require_installed
from bench.reconnects import idle, resume, slow, soak
from bench.report import WORST, middle, ratios, unit_of
from bench.sandbox import Sandbox, sandbox
from bench.targets import Streamer, Written

BUSY = 0.9
"""A process that uses this share of a core is a bottleneck."""
WAITED = 0.1
"""If more than this share of the events waited for a connection, the number of connections was the limit."""
OTHERS = 0.2
"""Cores that other programs may use."""
SPARE_FILES = 500
SPARE_SECONDS = 2
"""Approximate duration of a run without its load."""


@dataclass(frozen=True)
class Scenario:
    """A way to put load on a server.

    Attributes:
        measure: puts it on one server.
        asks: the fields of the load that it looks at.
        load: what is asked if nobody says more.
        peers: the other servers that can do the same.
    """

    measure: Callable[[Sandbox, Any, Load], Metrics]
    asks: tuple[str, ...]
    load: Load
    peers: tuple[str, ...] = ()

    def ask(self, options: Mapping[str, Any]) -> Load:
        """Return the load that some options ask for.

        Raises:
            ValueError: this scenario does not look at one; the text is its name.
        """
        for name in options:
            if name not in (*self.asks, *_ALWAYS):
                raise ValueError(name)
        if options.get("batch", 1) > 1:
            options = {"connections": BATCH_CONNECTIONS, **options}
        return replace(self.load, **options)

    def words(self, load: Load) -> dict[str, Any]:
        """Return the load by the names of the options."""
        values = asdict(load)
        # Not the database's URL: it may hold a password.
        database = (load.database_url or "sqlite:").partition(":")[0]
        return {name: values[name] for name in (*self.asks, "settings") if values[name]} | {"database": database}

    def files(self, load: Load) -> int:
        """Return how many files one process may have open."""
        subscribers = load.subscribers if "subscribers" in self.asks else 0
        return subscribers + load.connections + SPARE_FILES


_ALWAYS = ("settings", "database_url")
_READERS = ("transport", "subscribers", "workspaces", "reader_processes")
_EVENTS = ("rate", "seconds", "warmup", "connections")
_PLAIN = Load()

SCENARIOS = {
    "ingest": Scenario(
        ingest,
        ("connections", "batch", "rate", "seconds", "warmup", "workspaces"),
        replace(_PLAIN, rate=None),
        ("praisonai",),
    ),
    "fanout": Scenario(fanout, (*_READERS, "filters", *_EVENTS, "batch", "nodes", "workers"), _PLAIN, ("nchan",)),
    "history": Scenario(history, ("events", "connections", "seconds"), replace(_PLAIN, connections=4), ("praisonai",)),
    "dialects": Scenario(
        dialects, ("events", "connections", "seconds"), replace(_PLAIN, connections=4, seconds=60), ("praisonai",)
    ),
    "resume": Scenario(resume, (*_READERS, "filters", "missed", "connections"), replace(_PLAIN, subscribers=2000)),
    "slow": Scenario(slow, (*_READERS, "slow", "slow_rate", *_EVENTS), replace(_PLAIN, slow=0.01), ("nchan",)),
    "idle": Scenario(
        idle, (*_READERS, "seconds", "connections"), replace(_PLAIN, subscribers=10_000, seconds=5), ("nchan",)
    ),
    "soak": Scenario(
        soak,
        (*_READERS, "churn", "rate", "seconds", "connections"),
        replace(_PLAIN, subscribers=100, rate=20, seconds=600),
    ),
}
"""Every scenario; docs/cli.md says what each does."""
BATCH_CONNECTIONS = 4
"""Connections that append batches, unless another number is asked for: more would only wait, up to the server's limit."""


@dataclass(frozen=True)
class Outcome:
    """The results of the runs."""

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
        """Return warnings that matter for reading the numbers."""
        found = []
        for name, metrics in ((name, middle(runs)) for name, runs in self.runs.items()):
            wrong = {each: metrics[each] for each in WORST if metrics.get(each)}
            if wrong:
                found.append(
                    f"{name} was not exact: " + ", ".join(f"{each} {count:,}" for each, count in wrong.items())
                )
            if (metrics.get("others") or 0) > OTHERS:
                found.append(f"something else used {metrics['others']:.2g} cores ({name}): the figures are too bad")
            if (metrics.get("readers_busy") or 0) >= BUSY:
                found.append(f"readers were the bottleneck ({name}): give them --reader-processes, on more cores")
            if name == "streamer" and (metrics.get("waited") or 0) > WAITED * (metrics.get("events") or 0):
                found.append(f"{metrics['waited']:,.0f} events found all connections busy: more --connections may help")
            if (metrics.get("publishers_busy") or 0) >= BUSY:
                found.append(f"publishers were the bottleneck ({name}): the server was not the limit")
        return found


def measure(  # noqa: PLR0913 - what a measurement is made of
    scenario: str,
    load: Load,
    *,
    peer: str | None,
    runs: int,
    tick: Callable[[str, float], None],
    scratch: Callable[[str], AbstractContextManager[str]],
) -> Outcome:
    """Run a scenario several times, in alternation with a peer.

    Args:
        scenario: its name.
        load: what is asked of it.
        peer: the other server, if there is one.
        runs: how many.
        tick: called again and again with what is going on and about how much of all is done, from 0 to 1.
        scratch: makes a database of its own on the server that a URL names, and removes it.

    Raises:
        BenchError: it cannot be done.
    """
    if peer == "praisonai":
        require_installed()  # before our own server is measured
    kind = SCENARIOS[scenario]
    outcome = Outcome()
    turns = [(number, name) for number in range(runs) for name in ("streamer", peer) if name]
    body = ""
    for done, (number, name) in enumerate(turns):
        what, began = f"{scenario}: {name}, run {number + 1} of {runs}", time.monotonic()

        def moment(what: str = what, began: float = began, done: int = done) -> None:
            part = (time.monotonic() - began) / (load.warmup + load.seconds + SPARE_SECONDS)
            tick(what, (done + min(part, 0.99)) / len(turns))

        with ExitStack() as stack:
            # Entered first, so removed when all that use it are gone.
            database = stack.enter_context(scratch(load.database_url)) if load.database_url else None
            place = stack.enter_context(sandbox(moment))
            target: Written
            if name == "nchan":
                target = Nchan(place, body)
            elif name == "praisonai":
                target = PraisonAI(place)
            else:
                target = Streamer(place, load.settings, database, nodes=load.nodes, workers=load.workers)
            outcome.runs.setdefault(name, []).append(kind.measure(place, target, load))
            if isinstance(target, Streamer):
                body = target.sample()
    return outcome
