"""The size limit of events whose changes are derived from `details._previous`."""

import re

import aiohttp
import pytest

from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Answer, Api

LIMIT = 20_000


async def append(make_server: MakeServer, http: aiohttp.ClientSession, names: int) -> Answer:
    """Append an event with this many previous values, with names of 100 characters."""
    api = Api(http, (await make_server(max_event_bytes=LIMIT)).url, ADMIN_KEY)
    return await api.append("w", details={"_previous": {f"{n:0100}": 1 for n in range(names)}})


async def test_changes_are_not_derived_from_what_is_too_large(
    make_server: MakeServer, http: aiohttp.ClientSession
) -> None:
    """An event that is too large as sent is refused before its changes, which double its size, are derived."""
    refused = await append(make_server, http, 1000)
    assert (refused.status, refused.error) == (413, "payload_too_large")
    size = re.search(r"(\d+) bytes; at most", refused.json["error"]["message"])
    assert size is not None
    assert 100_000 < int(size[1]) < 110_000


@pytest.mark.parametrize(("names", "status"), [(60, 201), (120, 413)])
async def test_derived_changes_count(
    make_server: MakeServer, http: aiohttp.ClientSession, names: int, status: int
) -> None:
    """An event is refused if its derived changes make it too large; below the limit, they are stored."""
    answer = await append(make_server, http, names)
    assert answer.status == status
    if status == 413:
        assert answer.error == "payload_too_large"
