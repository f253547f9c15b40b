"""A list longer than one page reports this and can be followed to its end."""

from typing import Any

from tests.support.api import Answer, Api, make_event

WS = "w"


async def all_of(api: Api, path: str, name: str | None = None, **params: object) -> list[dict[str, Any]]:
    """Return a list's rows by following its `Link`."""
    found: list[dict[str, Any]] = []
    answer: Answer = await api.get(path, **params)
    while True:
        rows = answer.expect(200)
        found += rows if name is None else rows[name]
        if "Link" not in answer.headers:
            return found
        answer = await api.get(answer.headers["Link"].partition(">")[0].strip("<"))


async def test_more_runs_than_one_page(api: Api) -> None:
    """An issue's runs and a run's issues are listed completely, newest first and once each, while others are created."""
    issue = {"type": "issue", "id": "i1", "identifier": "ONE-1"}
    for start in range(0, 700, 350):
        batch = [make_event(entity=issue, run_id=f"r{index}") for index in range(start, start + 350)]
        (await api.post(f"/v1/workspaces/{WS}/events", batch)).expect(201)
        more = [
            make_event(entity={"type": "issue", "id": f"j{index}"}, run_id="big") for index in range(start, start + 350)
        ]
        (await api.post(f"/v1/workspaces/{WS}/events", more)).expect(201)
    for path, prefix in (("/api/issues/ONE-1/runs", "r"), ("/api/heartbeat-runs/big/issues", "j")):
        first = await api.get(path)
        assert len(first.expect(200)) == 500
        assert first.headers["X-Next-Cursor"] in first.headers["Link"]
        found = [row.get("id") for row in await all_of(api, path)]
        assert found == [f"{prefix}{index}" for index in reversed(range(700))]
        assert [row.get("id") for row in await all_of(api, path, limit=333)] == found
        for wrong in ("x", "é", first.headers["X-Next-Cursor"] + "=", first.headers["X-Next-Cursor"][:-2] + "A"):
            assert (await api.get(path, cursor=wrong)).status in {200, 400}, wrong
        assert (await api.get(path, cursor="x")).status == (await api.get(path, offset=1)).status == 400


async def test_lists_of_workspaces_and_members(api: Api) -> None:
    """The lists continue after the last id, whatever characters it contains."""
    names = [f"w{index}" for index in range(5)]
    users = ["a b", "ann@example.com", "b&c=d", "é", "z"]
    for name in names:
        (await api.put(f"/v1/workspaces/{name}")).expect(201)
    for user in users:
        (await api.put(f"/v1/workspaces/w0/members/{user}".replace("&", "%26"), {"role": "viewer"})).expect(201)
    for limit in (1, 2, 5, 100):
        listed = await all_of(api, "/v1/workspaces", "workspaces", limit=limit)
        assert [one["id"] for one in listed if one["id"] in names] == names
        members = await all_of(api, "/v1/workspaces/w0/members", "members", limit=limit)
        assert [one["user"] for one in members] == sorted(users, key=str.encode)
