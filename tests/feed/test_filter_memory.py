"""Filters of open subscriptions count towards the node's memory budget."""

import json
import re

import aiohttp

from tests.conftest import ADMIN_KEY, MakeServer
from tests.support.api import Api
from tests.support.waiting import eventually

WS = "filters"
TEXTS = [f"{'e' * 500}{n}" for n in range(100)]


async def test_long_filters_are_bounded(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Long filters are refused when their account has used up its share. Short filters and long events still work."""
    server = await make_server(memory_bytes=2**22, max_body_bytes=2**20, max_page_bytes=2**20)
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    other = api.with_key(await api.create_key(WS))
    async with http.ws_connect(f"{server.url}/v1/ws", headers=api.headers) as socket:

        async def subscribe(sub: str, texts: list[str]) -> str:
            await socket.send_str(json.dumps({"type": "subscribe", "workspace": WS, "sub": sub, "entity_id": texts}))
            answer = json.loads((await socket.receive(15)).data)
            return str(answer["error"]["code"] if answer["type"] == "error" else answer["type"])

        answers = [await subscribe(str(n), TEXTS) for n in range(60)]
        opened = answers.count("synced")
        assert answers == ["synced"] * opened + ["overloaded"] * (60 - opened)
        assert 2 < opened < 60
        assert await subscribe("short", ["x"]) == "synced"
        assert await _held(api) > 2**18
        (await other.append(WS, entity={"type": "t", "id": "x"}, details={"x": "y" * 200_000})).expect(201)
        frame = json.loads((await socket.receive(15)).data)
        assert (frame["type"], frame["sub"]) == ("events", "short")
        for n in range(opened):
            await socket.send_str(json.dumps({"type": "unsubscribe", "sub": str(n)}))
            assert json.loads((await socket.receive(15)).data)["type"] == "closed"
        assert await subscribe("again", TEXTS) == "synced"
    await eventually(lambda: _nothing_held(api))


async def _held(api: Api) -> float:
    text = (await api.get("/metrics")).body.decode()
    found = re.search(r'streamer_memory_bytes\{kind="filter"\} (\S+)', text)
    assert found is not None
    return float(found[1])


async def _nothing_held(api: Api) -> bool:
    return await _held(api) == 0
