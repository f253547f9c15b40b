"""Requests use HTTP/1.1 or HTTP/1.0. Others get 400, in a response with a valid version."""

import pytest

from streamer.app import Server
from tests.conftest import ADMIN_KEY
from tests.support.raw import RawConnection, request_head


@pytest.mark.parametrize(
    "line", ["GET /livez HTTP/2.0", "GET /livez HTTP/0.9", "GET /livez HTTP/1.2", "GET /livez", "GET /livez HTTP/3.0"]
)
async def test_no_other_version(server: Server, line: str) -> None:
    """Other versions are refused, and the connection ends."""
    async with await RawConnection.open(server.url) as connection:
        await connection.send(f"{line}\r\nHost: tests\r\n\r\n".encode())
        said = await connection.rest()
    assert said.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 ")), said
    assert b'"validation_error"' in said


async def test_a_websocket_needs_http_1_1(server: Server) -> None:
    """HTTP/1.0 cannot be upgraded to a WebSocket, because its proxies would not forward the upgrade. HTTP/1.1 can."""
    upgrade: dict[str, str | int] = {
        "Connection": "Upgrade",
        "Upgrade": "WebSocket",
        "Sec-WebSocket-Version": 13,
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Authorization": f"Bearer {ADMIN_KEY}",
    }
    head = request_head("GET", "/v1/ws", upgrade)
    for version, expected in ((b"HTTP/1.1", 101), (b"HTTP/1.0", 400)):
        async with await RawConnection.open(server.url) as connection:
            await connection.send(head.replace(b"HTTP/1.1", version))
            assert (await connection.answer(has_body=False)).status == expected
