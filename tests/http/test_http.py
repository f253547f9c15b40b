"""HTTP according to the RFCs where clients and proxies could read a request differently, and compressed bodies."""

import gzip
import json
import zlib
from pathlib import Path

import pytest

from streamer.app import Server
from tests.conftest import ADMIN_KEY
from tests.support.api import events, make_event
from tests.support.databases import sqlite_url
from tests.support.raw import RawAnswer, RawConnection, request_head
from tests.support.websocket import UPGRADE

W = events("w")
BODY = json.dumps(make_event()).encode()
PACKED = gzip.compress(BODY)
AUTH = f"Authorization: Bearer {ADMIN_KEY}\r\nContent-Type: application/json\r\n"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Run on one kind of database only, because the server answers without it."""
    return sqlite_url(tmp_path)


def post(version: str, lines: str, body: bytes = b"") -> bytes:
    """Return the bytes of an append."""
    return f"POST {W} HTTP/{version}\r\nHost: x\r\n{AUTH}{lines}\r\n".encode() + body


def chunked(*parts: bytes, last: bytes = b"0\r\n\r\n") -> bytes:
    """Return a chunked body."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + last


async def ask(server: Server, data: bytes) -> RawAnswer:
    """Send bytes and return the first response."""
    async with await RawConnection.open(server.url) as connection:
        await connection.send(data)
        return await connection.answer()


async def ended(connection: RawConnection) -> bool:
    """Check that the server ends the connection without sending more."""
    try:
        return await connection.rest() == b""
    except ConnectionError:  # it did not wait for all the data sent
        return True


# ---- compressed bodies (RFC 9110, 8.4.1; RFC 1950 to 1952)


def raw_deflate(data: bytes) -> bytes:
    """Return deflate data without a header, as some clients send it."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        pytest.param("gzip", PACKED, id="gzip"),
        pytest.param("GZIP", PACKED, id="in capitals"),
        pytest.param("gzip", gzip.compress(BODY[:9]) + gzip.compress(b"") + gzip.compress(BODY[9:]), id="members"),
        pytest.param("gzip", gzip.compress(BODY.ljust(100_000)), id="more than it seems"),
        pytest.param("deflate", zlib.compress(BODY), id="deflate"),
        pytest.param("deflate", raw_deflate(BODY), id="deflate without a header"),
    ],
)
async def test_packed_bodies(server: Server, encoding: str, data: bytes) -> None:
    """Gzip of one or several members and deflate with or without zlib's header are read at once, chunked or byte by byte."""
    head = f"Content-Encoding: {encoding}\r\n"
    sized = f"{head}Content-Length: {len(data)}\r\n"
    parts = [data[n : n + 1] for n in range(len(data))]
    assert (await ask(server, post("1.1", sized, data))).status == 201
    assert (await ask(server, post("1.1", f"{head}Transfer-Encoding: chunked\r\n", chunked(*parts)))).status == 201
    async with await RawConnection.open(server.url) as connection:
        await connection.send(post("1.1", sized))
        for part in parts:
            await connection.send(part)
        assert (await connection.answer()).status == 201


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        pytest.param("gzip", PACKED[:-8], id="without check and length"),
        pytest.param("gzip", PACKED[:-1], id="without its last byte"),
        pytest.param("gzip", PACKED[: len(PACKED) // 2], id="half"),
        pytest.param("gzip", PACKED[:5], id="a piece of its head"),
        pytest.param("gzip", PACKED[:-8] + b"\0" * 4 + PACKED[-4:], id="wrong check"),
        pytest.param("gzip", PACKED[:-4] + b"\0" * 4, id="wrong length"),
        pytest.param("gzip", PACKED + b"x", id="followed by something"),
        pytest.param("gzip", PACKED + b"\0" * 8, id="followed by zeros"),
        pytest.param("gzip", PACKED + PACKED[:-1], id="a second member that is cut off"),
        pytest.param("gzip", gzip.compress(b"") * 101 + PACKED, id="too many members"),
        pytest.param("gzip", b"", id="nothing"),
        pytest.param("gzip", zlib.compress(BODY), id="deflate as gzip"),
        pytest.param("deflate", PACKED, id="gzip as deflate"),
        pytest.param("deflate", zlib.compress(BODY)[:-4], id="deflate without its check"),
        pytest.param("deflate", zlib.compress(BODY) + b"x", id="deflate followed by something"),
        pytest.param("deflate", raw_deflate(BODY)[:-2], id="deflate without its end"),
    ],
)
async def test_packed_bodies_that_are_broken(server: Server, encoding: str, data: bytes) -> None:
    """Truncated or damaged data, or data with a suffix, gets 400. The connection stays open, because its framing was valid."""
    async with await RawConnection.open(server.url) as connection:
        await connection.send(post("1.1", f"Content-Encoding: {encoding}\r\nContent-Length: {len(data)}\r\n", data))
        answer = await connection.answer()
        assert (answer.status, answer.error) == (400, "validation_error")
        assert list(answer.json["error"]["details"]["fields"]) == ["body"]
        await connection.send(post("1.1", f"Content-Length: {len(BODY)}\r\n", BODY))
        assert (await connection.answer()).json["seq"] == 1


async def test_encodings_in_two_lines(server: Server) -> None:
    """Two codings are two, on one header line or on two."""
    lines = f"Content-Encoding: gzip\r\nContent-Encoding: gzip\r\nContent-Length: {len(PACKED)}\r\n"
    assert (await ask(server, post("1.1", lines, PACKED))).status == 415


# ---- framing (RFC 9112, 6)

CHUNKED = chunked(BODY)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(post("1.0", "Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n", CHUNKED), id="1.0"),
        pytest.param(post("1.0", f"Transfer-Encoding: chunked\r\nContent-Length: {len(CHUNKED)}\r\n", CHUNKED), id="1.0 both"),
        pytest.param(post("1.1", f"Transfer-Encoding: chunked\r\nContent-Length: {len(CHUNKED)}\r\n", CHUNKED), id="both"),
        pytest.param(post("1.1", f"Content-Length: {len(CHUNKED)}\r\nTransfer-Encoding: chunked\r\n", CHUNKED), id="both, reversed"),
        pytest.param(post("1.1", f"Content-Length: {len(BODY)}\r\nContent-Length: {len(BODY)}\r\n", BODY), id="two lengths"),
        pytest.param(post("1.1", f"Content-Length: {len(BODY)}\r\nContent-Length: 3\r\n", BODY), id="two other lengths"),
        pytest.param(post("1.1", f"Content-Length: {len(BODY)}, {len(BODY)}\r\n", BODY), id="a list of lengths"),
        pytest.param(post("1.1", f"Content-Length: +{len(BODY)}\r\n", BODY), id="a signed length"),
        pytest.param(post("1.1", "Transfer-Encoding: identity\r\n", CHUNKED), id="identity"),
        pytest.param(post("1.1", "Transfer-Encoding: gzip, chunked\r\n", chunked(PACKED)), id="gzip, chunked"),
        pytest.param(post("1.1", "Transfer-Encoding: chunked, gzip\r\n", CHUNKED), id="chunked, gzip"),
        pytest.param(post("1.1", "Transfer-Encoding: chunked, chunked\r\n", CHUNKED), id="chunked twice"),
        pytest.param(post("1.1", "Transfer-Encoding: xchunked\r\n", CHUNKED), id="xchunked"),
        pytest.param(post("1.1", "Transfer-Encoding:\x0bchunked\r\n", CHUNKED), id="vertical tab"),
        pytest.param(post("1.1", "Transfer-Encoding : chunked\r\n", CHUNKED), id="a blank before the colon"),
        pytest.param(post("1.1", "X: a\r\n b\r\nContent-Length: 0\r\n"), id="a folded line"),
        pytest.param(f"GET /livez HTTP/1.1\r\n{AUTH}\r\n".encode(), id="no host"),
        pytest.param(b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two hosts"),
        pytest.param(post("1.1", "Transfer-Encoding: chunked\r\n", b"1;" + b"x" * 200_000 + b"\r\n"), id="a long chunk extension"),
        pytest.param(
            post("1.1", "Transfer-Encoding: chunked\r\n", chunked(BODY, last=b"0\r\n" + b"X: " + b"y" * 17_000)),
            id="a long trailer",
        ),
        pytest.param(
            post("1.1", "Transfer-Encoding: chunked\r\n", chunked(BODY, last=b"0\r\n" + (b"X: " + b"y" * 9_000 + b"\r\n") * 20)),
            id="many trailers",
        ),
        pytest.param(post("1.1", "Transfer-Encoding: chunked\r\n", b"zz\r\n"), id="a chunk without a size"),
        pytest.param(request_head("GET", "/livez", {f"X-{n}": "y" * 15_000 for n in range(5)}), id="a long head"),
        pytest.param(request_head("GET", "/livez", {f"X-{n}": "y" * 15_000 for n in range(120)})[:-4], id="a head that goes on"),
        pytest.param(request_head("GET", "/" + "x" * 17_000), id="a long line"),
    ],
)  # fmt: skip
async def test_requests_that_could_be_read_in_two_ways(server: Server, data: bytes) -> None:
    """Ambiguous framing or an unterminated head gets 400, and later data is not read as a request."""
    async with await RawConnection.open(server.url) as connection:
        await connection.send(data)
        answer = await connection.answer()
        assert (answer.status, answer.error) == (400, "validation_error")
        assert await ended(connection)
    assert (await ask(server, request_head("GET", "/livez"))).status == 200


async def test_the_longest_head(server: Server) -> None:
    """A head may have almost 64 KiB, in one piece or many, and so may each later head on the connection."""
    head = request_head("GET", "/livez", {f"X-{n}": "y" * 15_000 for n in range(4)})
    async with await RawConnection.open(server.url) as connection:
        await connection.send(head * 8)
        for first in range(0, len(head), 5000):
            await connection.send(head[first : first + 5000])
        for _ in range(9):
            assert (await connection.answer()).status == 200


async def test_trailers_and_chunk_extensions(server: Server) -> None:
    """Trailers and chunk extensions of a usual size are ignored."""
    body = b"%x;name=value\r\n%b\r\n0;x\r\nX-Check: abc\r\n\r\n" % (len(BODY), BODY)
    assert (await ask(server, post("1.1", "Transfer-Encoding: Chunked\r\n", body))).status == 201


async def test_many_small_chunks(server: Server) -> None:
    """Small chunks have more framing than data, and are accepted."""
    parts = [b" "] * 30_000 + [BODY]
    assert (await ask(server, post("1.1", "Transfer-Encoding: chunked\r\n", chunked(*parts)))).status == 201


# ---- expectations (RFC 9110, 10.1.1)


async def test_what_is_expected(server: Server) -> None:
    """Only `100-continue` is honoured, in HTTP/1.1 and before the body arrives."""
    length = f"Content-Length: {len(BODY)}\r\n"
    async with await RawConnection.open(server.url) as connection:
        await connection.send(post("1.1", f"Expect: 100-Continue\r\n{length}"))
        assert (await connection.answer(has_body=False)).status == 100
        await connection.send(BODY)
        assert (await connection.answer()).status == 201
    # The body has arrived, or there is none.
    assert (await ask(server, post("1.1", f"Expect: 100-continue\r\n{length}", BODY))).status == 201
    assert (await ask(server, post("1.1", "Expect: 100-continue\r\nContent-Length: 0\r\n"))).status == 400
    # An interim response would be taken for the final one.
    async with await RawConnection.open(server.url) as connection:
        await connection.send(post("1.0", f"Expect: 100-continue\r\n{length}"))
        assert await connection.some(0.2) == b""
        await connection.send(BODY)
        assert (await connection.answer()).status == 201
    for other in ("200-ok", "100-continue, x", "x"):
        async with await RawConnection.open(server.url) as connection:
            await connection.send(post("1.1", f"Expect: {other}\r\n{length}"))
            answer = await connection.answer()
            assert (answer.status, answer.error) == (417, "expectation_failed")
            assert await ended(connection)
    assert (await ask(server, post("1.0", f"Expect: x\r\n{length}", BODY))).status == 201


async def test_an_upgrade_with_a_body(server: Server) -> None:
    """Data after a refused upgrade is read according to its framing."""
    upgrade: dict[str, str | int] = {**UPGRADE, "Content-Length": 5, "Authorization": f"Bearer {ADMIN_KEY}"}
    async with await RawConnection.open(server.url) as connection:
        await connection.send(request_head("GET", "/livez", upgrade) + b"abcde" + request_head("GET", "/livez"))
        assert (await connection.answer()).status == 200
        assert (await connection.answer()).status == 200
    async with await RawConnection.open(server.url) as connection:
        tail = b"GET /livez HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        await connection.send(request_head("GET", "/livez", UPGRADE) + tail)
        assert (await connection.answer()).status == 200
        assert (await connection.answer()).status == 400
        assert await ended(connection)
