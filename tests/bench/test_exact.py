"""How `./run bench` checks exactness: streams split anywhere, and readers that lose, repeat and reorder events."""

import itertools
from array import array
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.check import Tally, compare, compare_part, merged, percentiles
from bench.dialects import Page
from bench.events import DETAILS
from bench.report import middle, parse_thresholds, ratios
from bench.sandbox import BenchError
from bench.wire import Blob, Mark, Memory, parse_chunked, parse_sse, parse_websocket
from streamer.core.frame import SSE_HEARTBEAT, Frame, sse_message
from streamer.core.position import Position
from streamer.transports.sse import SseEncoder
from streamer.transports.websocket import WebSocketEncoder, WebSocketSink

EPOCH = "e"
Parse = Callable[[bytes], Blob]


def frame(number: int) -> Frame:
    """Return an event with this number and a due time derived from it."""
    return Frame(
        Position(EPOCH, number),
        b'{"id":"x","seq":1,%b,"z":null}' % (DETAILS % {"n": number, "due": number * 7}).encode(),
    )


def sse(groups: Sequence[Sequence[int]], *, chunked: bool) -> bytes:
    """Return a stream as the server writes it: other lines, groups of events with heartbeats between them, and `synced`."""
    encoder = SseEncoder(chunked=chunked)
    parts = [encoder.chunk(b"retry: 1000\n"), encoder.synced(Position(EPOCH, 0))]
    for group in groups:
        parts += [encoder.chunk(SSE_HEARTBEAT), encoder.frames([frame(number) for number in group])]
    return b"".join(parts)


def websocket(groups: Sequence[Sequence[int]]) -> bytes:
    """Return the same as WebSocket frames."""
    encoder = WebSocketEncoder("default")
    parts = [encoder.synced(Position(EPOCH, 0))]
    for group in groups:
        parts += [WebSocketSink.heartbeat, encoder.frames([frame(number) for number in group])]
    return b"".join(parts)


FORMS: list[tuple[Parse, Callable[[Sequence[Sequence[int]]], bytes]]] = [
    (parse_chunked, lambda groups: sse(groups, chunked=True)),
    (parse_sse, lambda groups: sse(groups, chunked=False)),
    (parse_websocket, websocket),
]
forms = pytest.mark.parametrize(("parse", "encode"), FORMS, ids=["chunked", "plain", "websocket"])


def read(parse: Parse, parts: Sequence[bytes]) -> tuple[list[int], list[int], bytes | None, Mark]:
    """Read a stream in these parts; return its numbers, due times, last position and other content."""
    rest, numbers, dues, position, marks = b"", array("q"), list[int](), None, Mark(0)
    for part in parts:
        blob = parse(rest + part)
        rest = blob.rest
        numbers.frombytes(blob.numbers)
        dues += blob.dues
        position = blob.position or position
        marks |= blob.marks
    return numbers.tolist(), dues, position, marks


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Split bytes at these offsets."""
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[first:last] for first, last in itertools.pairwise(edges)]


groups_of_numbers = st.lists(st.lists(st.integers(0, 2**40), min_size=1, max_size=4), min_size=1, max_size=5)


@forms
@given(groups=groups_of_numbers, places=st.lists(st.integers(0, 3000), max_size=8))
def test_streams_mean_the_same_however_they_are_cut(
    parse: Parse, encode: Callable[[Sequence[Sequence[int]]], bytes], groups: list[list[int]], places: list[int]
) -> None:
    """Numbers, due times, position and `synced` are read as written, wherever the network splits the bytes."""
    wanted = [number for group in groups for number in group]
    numbers, dues, position, marks = read(parse, cut(encode(groups), places))
    assert numbers == wanted
    assert dues == [number * 7 for number in wanted]
    assert position == f"{EPOCH}.{wanted[-1]}".encode()
    assert marks == Mark.SYNCED


@forms
def test_every_single_cut(parse: Parse, encode: Callable[[Sequence[Sequence[int]]], bytes]) -> None:
    """A stream can be split at each byte, or arrive byte by byte."""
    data = encode([[1, 2], [3], [4, 5, 6]])
    for place in range(len(data) + 1):
        assert read(parse, cut(data, [place]))[0] == [1, 2, 3, 4, 5, 6], place
    assert read(parse, cut(data, range(len(data))))[0] == [1, 2, 3, 4, 5, 6]


def test_blocks_may_end_in_another_chunk() -> None:
    """A proxy may change the chunks, even within blocks."""
    data = sse([[1, 2, 3]], chunked=False)
    for first, second in itertools.combinations(range(1, len(data), 7), 2):
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in cut(data, [first, second]) if part)
        assert read(parse_chunked, cut(chunks, range(0, len(chunks), 11)))[0] == [1, 2, 3]


def test_long_websocket_messages() -> None:
    """Message lengths of one, three and nine bytes are read."""
    for count in (1, 20, 700):
        data = websocket([list(range(count))])
        assert read(parse_websocket, cut(data, range(0, len(data), 977)))[0] == list(range(count))


def test_gaps_are_seen() -> None:
    """A gap in a stream is detected."""
    position = Position(EPOCH, 9)
    assert read(parse_sse, [sse_message("gap", {}, position)])[3] == Mark.GAP
    assert read(parse_websocket, [b"\x81\x0e" + b'{"type":"gap"}'])[3] == Mark.GAP


def test_same_bytes_are_read_once() -> None:
    """Readers that receive the same bytes share a blob. Bytes with only an equal prefix do not."""
    memory = Memory(parse_sse)
    one, other = sse([[1, 2]], chunked=False), sse([[1, 3]], chunked=False)
    assert len(one) == len(other)
    assert memory(one) is memory(bytes(bytearray(one)))
    assert memory(other) is not memory(one)
    assert memory(other).numbers != memory(one).numbers


# ---- what a reader received


def packed(numbers: Sequence[int]) -> bytes:
    """Return numbers in the form of blobs."""
    return array("q", numbers).tobytes()


@given(
    expected=st.lists(st.integers(0, 10**6), unique=True, max_size=30),
    lost=st.sets(st.integers(0, 29), max_size=5),
    doubled=st.lists(st.integers(0, 29), max_size=5),
    foreign=st.lists(st.integers(2 * 10**6, 3 * 10**6), unique=True, max_size=3),
)
def test_all_that_is_wrong_is_counted(
    expected: list[int], lost: set[int], doubled: list[int], foreign: list[int]
) -> None:
    """Lost, repeated and unexpected events of a stream are each counted exactly."""
    kept = [number for place, number in enumerate(expected) if place not in lost]
    again = [kept[place] for place in doubled if place < len(kept)]
    got = [*kept, *again, *foreign]
    assert compare(packed(expected), packed(got)) == Tally(len(expected) - len(kept), len(again), 0, len(foreign))


@given(
    st.lists(st.integers(), min_size=2, max_size=20, unique=True).map(
        lambda numbers: [each % 2**40 for each in numbers]
    )
)
def test_disorder_is_counted(numbers: list[int]) -> None:
    """An event that arrives after a later one is out of order, and no other."""
    numbers = list(dict.fromkeys(numbers))
    moved = [*numbers[1:], numbers[0]]
    assert compare(packed(numbers), packed(moved)) == Tally(out_of_order=int(len(numbers) > 1))
    assert compare(packed(numbers), packed(numbers)) == Tally()


def test_parts_must_have_no_hole() -> None:
    """A reader that arrives late and leaves early has part of the stream, without gaps in it."""
    stream = packed([1, 2, 3, 4, 5])
    assert compare_part(stream, b"") == Tally()
    assert compare_part(stream, packed([2, 3, 4])) == Tally()
    assert compare_part(stream, packed([2, 4])) == Tally(lost=1)
    assert compare_part(stream, packed([2, 3, 3])) == Tally(doubled=1)
    assert compare_part(stream, packed([3, 2])) != Tally()
    assert compare_part(stream, packed([9])).unexpected == 1


def test_percentiles() -> None:
    """Percentiles are those of the counted values, to 10 µs."""
    assert percentiles({}) == {"p50": None, "p95": None, "p99": None, "max": None}
    found = percentiles(merged([{str(bucket): 1 for bucket in range(0, 5000, 100)}, {"5000": 50}]))
    assert found == {"p50": 49.005, "p95": 50.005, "p99": 50.005, "max": 50.005}
    assert percentiles({100: 98, 200: 1, 300: 1}) == {"p50": 1.005, "p95": 1.005, "p99": 2.005, "max": 3.005}


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'[{"id":"a"}]',
        b'[{"id":"b"},{"id":"a"}]',
        b'{"events":[{"id":"a"},{"id":"a"}]}',
        b'[{"id":"a"},{"id":"b"},{"id":"c"}]',
    ],
)
def test_pages_must_be_the_right_ones(body: bytes) -> None:
    """A page that is short, long, misordered, or has repeated or foreign events is an error, in either form."""
    page = Page("/list", "", 2, ["a", "b"])
    page.check(b'[{"id":"a"},{"id":"b"}]')
    page.check(b'{"events":[{"id":"a"},{"id":"b"}],"cursor":"c"}')
    with pytest.raises(BenchError, match="the page /list is wrong"):
        page.check(body)


def test_pages_of_a_peer_are_counted() -> None:
    """Of a peer's page, only the number of events and their distinctness are checked."""
    page = Page("/list", "", 2)
    page.check(b'[{"id":"b"},{"id":"a"}]')
    for body in (b'[{"id":"a"}]', b'[{"id":"a"},{"id":"a"}]'):
        with pytest.raises(BenchError, match="is wrong"):
            page.check(body)


# ---- results


@pytest.mark.parametrize(
    ("text", "metrics", "holds"),
    [
        ("p99<50ms", {"p99": 49.9}, True),
        ("p99<50ms", {"p99": 50.0}, False),
        ("p99<=0.05s", {"p99": 50.0}, True),
        ("p99<50", {"p99": 50.1}, False),
        ("p99<900us", {"p99": 0.8}, True),
        ("lost=0", {"lost": 0}, True),
        ("lost=0", {"lost": 1}, False),
        ("rss_per_connection<=12KiB", {"rss_per_connection": 12}, True),
        ("rss_peak<1GiB", {"rss_peak": 1023}, True),
        ("rss_peak<1GiB", {"rss_peak": 1024}, False),
        ("deliveries_per_second >= 900k", {"deliveries_per_second": 899_999}, False),
        ("cpu_per_delivery>1us", {"cpu_per_delivery": 1.01}, True),
        ("p99>1ms", {"p99": None}, False),
    ],
)
def test_thresholds(text: str, metrics: dict[str, float | None], *, holds: bool) -> None:
    """Thresholds use the metric's unit or are converted to it. A metric that was not measured misses its threshold."""
    (threshold,) = parse_thresholds(text)
    assert threshold.holds(metrics) is holds


@pytest.mark.parametrize(
    "text", ["", "p99", "p99<", "p99<50ms,", "p99<50KiB", "lost=0ms", "p99~5", "P99<5ms", "lost=zero"]
)
def test_bad_thresholds(text: str) -> None:
    """An invalid part is named."""
    with pytest.raises(ValueError, match=repr(text.rsplit(",", maxsplit=1)[-1])):
        parse_thresholds(text)


def test_medians_hide_no_loss() -> None:
    """Numbers use the median of the runs, errors use the worst run."""
    runs: list[dict[str, float | None]] = [
        {"p99": 1, "lost": 0},
        {"p99": 9, "lost": 5},
        {"p99": 2, "lost": 0, "tasks": 4},
    ]
    assert middle(runs) == {"p99": 2, "lost": 5, "tasks": 4}
    assert ratios({"p99": 1, "lost": 1, "x": None}, {"p99": 4, "lost": 2, "x": 1}) == {"p99": 0.25}
