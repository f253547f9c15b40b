"""The events that are appended: patterns with places for what differs from one to the next. Pure."""

DETAILS = '"details":{"n":%(n)d,"due":%(due)d}'
"""How an event carries its number and the time (`time.monotonic_ns`) at which it was to be sent, as the server encodes it."""

EVENT = (
    '{"action":"issue.updated","actor":{"type":"agent","id":"agent_eng1","name":"Bob","on_behalf_of":"user-123"},'
    '"entity":{"type":"issue","id":"issue_%(filter)d","identifier":"PAP-42","name":"Fix login bug"},'
    '"agent_id":"agent_eng1","run_id":"run_9",' + DETAILS + ',"changes":{"status":{"from":"todo","to":"in_progress"}}}'
)
"""About 650 bytes once it is stored."""

VARIED = (
    '{"action":"%(action)s","category":"%(category)s",'
    '"actor":{"type":"agent","id":"agent_%(actor)d","name":"Agent %(actor)d","on_behalf_of":"user-%(actor)d"},'
    '"entity":{"type":"issue","id":"issue_%(entity)d","identifier":"PAP-%(entity)d","name":"Fix login bug"},'
    '"agent_id":"agent_%(actor)d","run_id":"run_%(run)d","task_id":"task_%(entity)d",'
    + DETAILS
    + ',"changes":{"status":{"from":"todo","to":"in_progress"}}}'
)
"""As a long log has them: many actors, entities and runs, several actions, both categories."""

ACTORS, ENTITIES, RUNS = 37, 211, 101
"""How many there are of each. Primes, so that no two of them go together."""
ACTIONS = (
    "issue.created",
    "issue.updated",
    "issue.commented",
    "run.started",
    "run.finished",
    "issue.closed",
    "key.created",
)
"""The last one belongs to `audit`."""


def values(number: int, due: int, filters: int) -> dict[bytes, int | bytes]:
    """Return what stands in the places of event `number`; `filters` is how many filters the events are spread over, at least 1."""
    action = number % len(ACTIONS)
    return {
        b"n": number,
        b"due": due,
        b"filter": number % filters,
        b"action": ACTIONS[action].encode(),
        b"category": b"audit" if action == len(ACTIONS) - 1 else b"activity",
        b"actor": number % ACTORS,
        b"entity": number % ENTITIES,
        b"run": number % RUNS,
    }
