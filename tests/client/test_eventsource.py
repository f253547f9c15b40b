"""The event stream parser follows the specification, wherever the byte stream is split."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.eventsource import EventStreamParser, Item, Message, ResumePoint, Retry


def parse(stream: bytes, start: str = "") -> list[Item]:
    """Parse a stream that arrives in one piece."""
    return EventStreamParser(start).feed(stream)


@pytest.mark.parametrize(
    ("stream", "items"),
    [
        pytest.param(b"data: a\n\n", [Message("message", "a", "")], id="default type"),
        pytest.param(b"data:a\n\n", [Message("message", "a", "")], id="no space"),
        pytest.param(b"data:  a\n\n", [Message("message", " a", "")], id="only one space goes"),
        pytest.param(b"data: a\ndata: b\n\n", [Message("message", "a\nb", "")], id="several lines"),
        pytest.param(b"data\n\n", [Message("message", "", "")], id="a field without a colon"),
        pytest.param(b"data:\ndata:\n\n", [Message("message", "\n", "")], id="empty lines of data"),
        pytest.param(b"event: x\r\ndata: a\r\n\r\n", [Message("x", "a", "")], id="CR LF"),
        pytest.param(b"event: x\rdata: a\r\r", [Message("x", "a", "")], id="CR"),
        pytest.param(b"event: x\rdata: a\n\r\n", [Message("x", "a", "")], id="mixed"),
        pytest.param(b"event: x\n\ndata: a\n\n", [Message("message", "a", "")], id="a type without data is forgotten"),
        pytest.param(
            b"id: 1\ndata: a\n\ndata: b\n\n",
            [Message("message", "a", "1"), Message("message", "b", "1")],
            id="an id stays",
        ),
        pytest.param(b"id: 7\n\n", [ResumePoint("7")], id="an id alone moves the resume point"),
        pytest.param(b"id: 7\n\nid: 7\n\n\n", [ResumePoint("7")], id="a resume point that does not move is no item"),
        pytest.param(
            b"id: 7\ndata: a\n\nid\ndata: b\n\n",
            [Message("message", "a", "7"), Message("message", "b", "")],
            id="an empty id takes it back",
        ),
        pytest.param(b"id: 1\0\ndata: a\n\n", [Message("message", "a", "")], id="an id with NUL is ignored"),
        pytest.param(b": ping\n:\ndata: a\n\n", [Message("message", "a", "")], id="comments"),
        pytest.param(b"retry: 2000\n\n", [Retry(2000)], id="retry"),
        pytest.param("retry: 2s\nretry:\nretry: -1\nretry: ٣\n\n".encode(), [], id="retry is digits only"),
        pytest.param(b"Data: a\ndata : b\nfoo: c\n\n", [], id="unknown fields"),
        pytest.param(b"\xef\xbb\xbfdata: a\n\n", [Message("message", "a", "")], id="byte order mark"),
        pytest.param(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", [], id="only one byte order mark"),
        pytest.param(b"data: a\n", [], id="a block that was cut off"),
        pytest.param(b"data: \xff\n\n", [Message("message", "\ufffd", "")], id="not UTF-8"),
        pytest.param(b"", [], id="nothing"),
    ],
)
def test_the_specification(stream: bytes, items: list[Item]) -> None:
    """Each rule of HTML 9.2.6 holds, with the stream in one piece and byte by byte."""
    assert parse(stream) == items
    parser = EventStreamParser()
    assert [item for byte in stream for item in parser.feed(bytes([byte]))] == items


def test_the_resume_point_lives_on_over_connections() -> None:
    """A message without an id keeps the resume point of the previous connection."""
    assert parse(b"data: a\n\n", "e.5") == [Message("message", "a", "e.5")]
    assert parse(b"id: e.5\n\n", "e.5") == []


LINES = st.sampled_from(
    [
        b"",
        b"",
        b"data: a",
        b"data:",
        b"data: \xc3\xa9\xf0\x9f\x9a\x80",
        b"event: x",
        b"id: e.1",
        b"id: e.2",
        b"id",
        b": ping",
        b"retry: 10",
    ]
)
STREAMS = st.builds(
    lambda bom, lines: bom + b"".join(line + end for line, end in lines),
    st.sampled_from([b"", b"\xef\xbb\xbf", b"\xef"]),
    st.lists(st.tuples(LINES | st.binary(max_size=8), st.sampled_from([b"\n", b"\r\n", b"\r"]))),
)


@given(stream=STREAMS | st.binary(), data=st.data())
def test_any_chunking_gives_the_same_items(stream: bytes, data: st.DataObject) -> None:
    """The result does not depend on where the network splits the bytes."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))))
    parser = EventStreamParser()
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [item for chunk in chunks for item in parser.feed(chunk)] == parse(stream)


@given(st.lists(st.tuples(st.text(), st.sampled_from(["activity", "gap"])), max_size=5))
def test_what_a_server_writes_is_read_back(messages: list[tuple[str, str]]) -> None:
    """Data of any number of lines is read as it was written, except that line ends become LF."""
    stream = b""
    expected = []
    for number, (text, event) in enumerate(messages):
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        block = [f"id: e.{number}", f"event: {event}", *(f"data: {line}" for line in lines)]
        stream += ("\n".join(block) + "\n\n").encode()
        expected.append(Message(event, "\n".join(lines), f"e.{number}"))
    assert parse(stream) == expected
