"""Redaction time grows linearly with the length of any text, and the factor is small.

The tests assert the CPU time of this thread, because the machine may be busy. The limits are generous;
docs/redaction.md has the figures of an idle core.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest

from streamer.ingest import secrets
from streamer.ingest.redact import Redactor
from tests.ingest.redaction_cases import GITHUB
from tests.support.worst_texts import units, worst_text

REDACTOR = Redactor()
UNITS = units()
KIB = 1024
VALUES = 20_000
PARTS = 8
MAX_NS = 2_500
"""Nanoseconds per character: about four times what the slowest text takes on an idle core."""
MAX_RATIO = 6
"""Limit for the time of four times the text."""


def cpu(call: Callable[[], object], tries: int = 1) -> float:
    """Return the lowest CPU time of several calls."""
    least = float("inf")
    for _ in range(tries):
        started = time.thread_time()
        call()
        least = min(least, time.thread_time() - started)
    return least


def seconds(unit: str, length: int, tries: int = 1) -> float:
    """Return the CPU seconds for the worst text of a unit."""
    text = worst_text(unit, length)
    return cpu(lambda: REDACTOR.redact_text(text), tries)


def check(unit: str, length: int) -> float:
    """Check the CPU time for a text. Return it."""
    most = MAX_NS * 1e-9 * length
    taken = seconds(unit, length)
    if taken > most:  # or the machine was busy
        taken = min(taken, seconds(unit, length, 5))
    assert taken <= most, f"{unit!r}: {taken * 1e9 / length:.0f} ns a character"
    return taken


def check_ratio(unit: str, length: int) -> None:
    """Check that four times the text takes four times the time."""
    ratio = min(seconds(unit, 4 * length, 2) / seconds(unit, length, 3) for _ in range(3))
    assert ratio < MAX_RATIO, f"{unit!r}: four times the text takes {ratio:.1f} times the time"


def test_every_rule_has_its_worst_texts() -> None:
    """The worst texts are derived from the rules, so a new rule gets its own."""
    assert len(UNITS) > 1000
    for prefixes, _ in secrets.TOKENS:
        for prefix in prefixes.split():
            assert [unit for unit in UNITS if unit.startswith(prefix)], prefix


@pytest.mark.parametrize("part", range(PARTS))
def test_no_text_takes_long(part: int) -> None:
    """Each of the worst texts is redacted within the limit. For the slowest, four times the text takes four times the time."""
    taken = {unit: check(unit, 2 * KIB) for unit in UNITS[part::PARTS]}
    for unit in sorted(taken, key=taken.__getitem__)[-4:]:
        check_ratio(unit, 4 * KIB)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_text_takes_long_of_any_size() -> None:
    """The same holds for all of them, and for texts of an event's maximum size."""
    for unit in UNITS:
        check_ratio(unit, 16 * KIB)
        check(unit, 256 * KIB)


PAIR: list[Any] = ["X-Api-Key", "a1"]


@pytest.mark.parametrize(
    ("value", "most"),
    [
        (list(range(VALUES)), 1),
        ([None, True] * (VALUES // 2), 1),
        ([f"ab{number}" for number in range(VALUES)], 4),
        ({f"name{number}": number for number in range(VALUES)}, 12),
        ({f"long_name_of_a_key_{number}": "x" for number in range(VALUES)}, 25),
        ({f"password_{number}": "x" for number in range(VALUES)}, 30),
        ({f"{GITHUB}{number}": number for number in range(VALUES)}, 20),
        (["--token", "x"] * (VALUES // 2), 6),
        (["DB_PASSWORD=a"] * VALUES, 20),
        (PAIR * (VALUES // 2), 6),
        ([{} for _ in range(VALUES)], 10),
        ([[1] for _ in range(VALUES)], 4),
        ([{"password": "x"} for _ in range(VALUES)], 20),
    ],
    ids=["numbers", "nothing", "words", "keys", "long keys", "secret keys", "equal keys", "flags", "entries", "headers", "objects", "lists", "both"],
)  # fmt: skip
def test_many_values_take_little_time(value: Any, most: float) -> None:
    """Each value of a structure takes few microseconds of CPU time, even if thousands of names become equal."""
    taken = min(cpu(lambda: REDACTOR.redact(value)) for _ in range(3))
    assert taken * 1e6 / VALUES < most
