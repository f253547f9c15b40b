"""What a reader got against what it had to get. Pure."""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Tally(NamedTuple):
    """How many of a reader's events were not as they had to be."""

    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    unexpected: int = 0
    """Those that nobody was told were stored, or that are not for this reader."""


def compare(expected: bytes, received: bytes) -> Tally:
    """Compare the numbers that a reader got with those that it had to get, both as `array("q")` has them in memory."""
    if expected == received:
        return Tally()
    wanted, got = array("q", expected), array("q", received)
    ranks = {number: rank for rank, number in enumerate(wanted)}
    lost = len(ranks.keys() - set(got))
    seen: set[int] = set()
    doubled = out_of_order = unexpected = 0
    furthest = -1
    for number in got:
        rank = ranks.get(number)
        if number in seen:
            doubled += 1
        elif rank is None:
            unexpected += 1
        elif rank < furthest:
            out_of_order += 1
        else:
            furthest = rank
        seen.add(number)
    return Tally(lost, doubled, out_of_order, unexpected)


def compare_part(expected: bytes, received: bytes) -> Tally:
    """Compare what a reader received that connected late and left early: it must be a part of the stream without a gap."""
    if not received:
        return Tally()
    wanted, got = array("q", expected), array("q", received)
    try:
        first = wanted.index(got[0])
    except ValueError:
        return compare(expected, received)
    last = wanted.index(got[-1]) if got[-1] in wanted else first
    return compare(wanted[first : max(first, last) + 1].tobytes(), received)


def total(tallies: Iterable[Tally]) -> Tally:
    """Add up the tallies of several readers."""
    return Tally(*(sum(column) for column in zip(*tallies, strict=True))) if (tallies := list(tallies)) else Tally()


BUCKET_NS = 10_000
"""Latencies are counted to 10 µs."""


def percentiles(buckets: Mapping[int, int]) -> dict[str, float | None]:
    """Return p50, p95, p99 and max in milliseconds of latencies that were counted in buckets of 10 µs."""
    ordered = sorted(buckets.items())
    count = sum(buckets.values())
    result: dict[str, float | None] = {}
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)):
        below, value = 0, None
        for bucket, number in ordered:
            below += number
            value = round((bucket + 0.5) * BUCKET_NS / 1e6, 3)
            if below >= share * count:
                break
        result[name] = value
    return result


def merged(parts: Iterable[Mapping[str, int]]) -> Counter[int]:
    """Add up buckets that came as JSON."""
    result: Counter[int] = Counter()
    for part in parts:
        for bucket, number in part.items():
            result[int(bucket)] += number
    return result
