"""The computation of what a large installation needs."""

import re

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.scale import Demand, needs, place, with_costs
from tests.support.cli import Cli
from tests.support.tools import ROOT


@given(st.integers(1, 200), st.integers(1, 50), st.integers(1, 40), st.floats(0, 1))
def test_readers_are_placed(workspaces: int, readers: int, nodes: int, affinity: float) -> None:
    """A workspace has readers on at least one node, at most on as many as it has readers, and with full affinity on one."""
    found = place(Demand(workspaces=workspaces, readers=readers, nodes=nodes, affinity=affinity))
    assert 1 <= found.holders <= min(readers, nodes)
    assert found.heaviest >= 0.99
    assert place(Demand(workspaces=workspaces, readers=readers, nodes=nodes, affinity=1.0)).holders == 1


def test_placement_by_chance() -> None:
    """Twenty readers on any of 64 nodes are on 17.3 of them on average: 64 x (1 - (1 - 1/64)^20)."""
    assert place(Demand()).holders == pytest.approx(64 * (1 - (1 - 1 / 64) ** 20), rel=0.01)


def test_affinity_saves_the_bus_and_nothing_else() -> None:
    """With affinity the same deliveries and appends need less of Redis and of the nodes' receiving."""
    by_chance, by_home = needs(Demand()), needs(Demand(affinity=0.95))
    for same in ("delivery", "append"):
        assert by_home.cores[same] == by_chance.cores[same]
    for less in ("bus in nodes", "Redis", "PostgreSQL"):
        assert by_home.cores[less] < by_chance.cores[less]
    assert needs(Demand(nodes=1)).cores["bus in nodes"] == 0


def test_other_costs() -> None:
    """A cost can be replaced by one that was measured elsewhere; an unknown one is refused by name."""
    assert needs(Demand(), with_costs({"delivery": 13})).cores["delivery"] == pytest.approx(26)
    with pytest.raises(ValueError, match="there is no cost x"):
        with_costs({"x": 1})


async def test_the_command() -> None:
    """The command prints the table that docs/scale.md shows, and the same as JSON."""
    bench = Cli(ROOT, {}, "bench")
    printed = await bench("scale")
    assert printed.code == 0
    shown = re.search(r"```\n(1,000,000 subscribers.*?)```", (ROOT / "docs" / "scale.md").read_text(), re.DOTALL)
    assert shown is not None
    assert printed.out == shown[1]
    document = orjson.loads((await bench("scale", "--json", "--nodes", "2")).out)
    assert document["demand"]["nodes"] == 2
    assert document["needs"]["cores"]["delivery"] > 0
    refused = await bench("scale", "--cost", "x=1")
    assert refused.code == 2
    assert "there is no cost x" in refused.err
