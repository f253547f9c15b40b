"""The longest values that the API accepts fit into the indexes of both databases."""

import random

from tests.support.api import Api

RNG = random.Random(7)


def longest(characters: int = 512) -> str:
    """Return a text of four-byte characters that does not compress."""
    return "".join(chr(RNG.randrange(0x10000, 0x20000)) for _ in range(characters))


async def test_the_longest_values_are_stored_on_both_databases(api: Api) -> None:
    """The longest values in every indexed field, an issue and its run, a member and an Idempotency-Key cause no 500."""
    issue, run = longest(256), longest()
    event = {
        "action": longest(),
        "actor": {"type": longest(), "id": longest(), "on_behalf_of": longest()},
        "entity": {"type": longest(), "id": longest(), "identifier": longest()},
        **{name: longest() for name in ("agent_id", "run_id", "task_id")},
    }
    (await api.append("w", **event)).expect(201)
    linked = {"type": "issue", "id": issue}
    stored = (await api.append("w", action="issue.updated", entity=linked, run_id=run)).expect(201)
    details = {"issueId": issue}
    (await api.append("w", action="heartbeat.invoked", run_id=run, details=details)).expect(201)
    assert [event["id"] for event in await api.history("w", run_id=run, action="issue.updated")] == [stored["id"]]
    (await api.append("w", action="issue.updated", entity={"type": longest(64), "id": longest()})).expect(201)
    (await api.append("w", category="audit", action=longest())).expect(201)
    (await api.put(f"/v1/workspaces/w/members/{longest()}", {"role": "viewer"})).expect(201)
    key = {"Idempotency-Key": "k" * 255}
    body = {"action": "a.b", "actor": {"type": "user", "id": longest()}}
    for status in (201, 200):
        (await api.post("/v1/workspaces/w/events", body, headers=key)).expect(status)
