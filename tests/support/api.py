"""A thin client of the API: it sends what it is given and returns what it receives."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.support.sse import SseReader


@dataclass(frozen=True)
class Answer:
    """The server's response."""

    status: int
    headers: Mapping[str, str]
    """Names are case-insensitive."""
    body: bytes

    @property
    def json(self) -> Any:
        """Return the body, decoded."""
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """Return the error code; the response must be an error."""
        code = self.json["error"]["code"]
        assert isinstance(code, str)
        return code

    def expect(self, status: int) -> Any:
        """Check the status and return the decoded body, or None if there is none."""
        assert self.status == status, f"{self.status}: {self.body[:1000]!r}"
        return self.json if self.body else None


class Api:
    """Calls with one key."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str | None) -> None:
        self._session = session
        self.url = url
        self.key = key

    def with_key(self, key: str | None) -> "Api":
        """Return the same with another key, or without one."""
        return Api(self._session, self.url, key)

    def at(self, url: str) -> "Api":
        """Return the same for another server."""
        return Api(self._session, url, self.key)

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers with the credential."""
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, object] | None = None,
        body: object = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request; `body` is sent as JSON, `data` as it is. Parameters that are None are left out, lists are repeated."""
        sent = self.headers
        if data is None and body is not None:
            data = json.dumps(body).encode()
        if data is not None:
            sent["Content-Type"] = "application/json"
        pairs = [
            (name, str(value))
            for name, values in (params or {}).items()
            for value in (values if isinstance(values, list) else [values])
            if value is not None
        ]
        async with self._session.request(
            method, self.url + path, params=pairs, data=data, headers={**sent, **(headers or {})}, allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    # Any, here and in `stream`, lets mypy accept a dict of parameters as keywords.
    async def get(self, path: str, *, headers: Any = None, **params: object) -> Answer:
        """GET a path; keywords are its parameters."""
        return await self.request("GET", path, params=params, headers=headers)

    async def post(self, path: str, body: object = None, **options: Any) -> Answer:
        """POST a JSON body; keywords as in `request`."""
        return await self.request("POST", path, body=body, **options)

    async def put(self, path: str, body: object = None, **options: Any) -> Answer:
        """PUT a JSON body; keywords as in `request`."""
        return await self.request("PUT", path, body={} if body is None else body, **options)

    async def delete(self, path: str, **options: Any) -> Answer:
        """DELETE; keywords as in `request`."""
        return await self.request("DELETE", path, **options)

    async def append(self, workspace: str, **event: object) -> Answer:
        """Append one event; missing fields get defaults."""
        return await self.post(events(workspace), make_event(**event))

    async def append_all(self, workspace: str, batch: Sequence[Mapping[str, object]], **options: Any) -> Answer:
        """Append events at once; missing fields of each get defaults."""
        return await self.post(events(workspace), [make_event(**event) for event in batch], **options)

    async def history(self, workspace: str, **params: object) -> list[dict[str, Any]]:
        """Return all events that the parameters select, page by page, by cursor."""
        found: list[dict[str, Any]] = []
        page = (await self.request("GET", events(workspace), params=params)).expect(200)
        found += page["events"]
        # A cursor contains the order and the bounds; the filter and the limit are repeated.
        kept = {name: value for name, value in params.items() if name not in {"order", "after", "before"}}
        while "cursor" in page:
            answer = await self.request("GET", events(workspace), params=kept | {"cursor": page["cursor"]})
            page = answer.expect(200)
            found += page["events"]
        return found

    async def create_key(self, workspace: str, **wanted: object) -> str:
        """Create a key for the workspace and return its secret; keywords as in the API. By default it may read and write."""
        body = {"name": "test", **wanted}
        if "template" not in body:
            body.setdefault("scopes", ["workspace:read", "workspace:write"])
        secret = (await self.post(f"/v1/workspaces/{workspace}/keys", body)).expect(201)["key"]
        assert isinstance(secret, str)
        return secret

    async def stream(
        self,
        workspace: str,
        *,
        last_event_id: Any = None,
        receive_buffer: Any = None,
        headers: Any = None,
        **params: object,
    ) -> SseReader:
        """Open the workspace's stream; keywords are its parameters."""
        sent = {**self.headers, **(headers or {})}
        if last_event_id is not None:
            sent["Last-Event-ID"] = last_event_id
        return await SseReader.open(
            f"{self.url}{events(workspace)}/stream", params=params, headers=sent, receive_buffer=receive_buffer
        )


def events(workspace: str) -> str:
    """Return the path of a workspace's events."""
    return f"/v1/workspaces/{workspace}/events"


def make_event(**event: object) -> dict[str, object]:
    """Return an event with the given fields and defaults for required ones."""
    return {"action": "issue.created", "actor": {"type": "user", "id": "ann"}, **event}
