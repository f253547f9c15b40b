"""Clients: append, page through history, follow a stream that heals itself; keys and members.

    async with Client("http://127.0.0.1:8080", key) as client:
        await client.append("my", {"action": "issue.created", "actor": {"type": "user", "id": "ann"}})
        async for message in client.stream("my", after=position):
            ...

`SyncClient` is the same without an event loop. `PlatformClient` and `SyncPlatformClient` make PraisonAI Platform's calls.

What can go wrong::

    ClientError
    ├── ApiError          the server answered with an error: status, code, message, request_id, fields
    ├── Unreachable       no answer, also after all attempts
    └── UnexpectedAnswer  an answer that this API does not give: is something else at this address?

Only `Unreachable` and the statuses 408, 429 and 5xx are tried again; an append always under one `Idempotency-Key`, so that a lost
answer cannot store its events twice. What would not be the same when it is repeated is not: keys are made and revoked, and members
removed, in one attempt.
"""

from streamer.client.backoff import Timing
from streamer.client.calls import host_of
from streamer.client.errors import ApiError, ClientError, UnexpectedAnswer, Unreachable
from streamer.client.http import Client, Filters, Page
from streamer.client.messages import (
    Activity,
    Checkpoint,
    Closed,
    Connected,
    Event,
    Gap,
    Lost,
    StreamMessage,
    Synced,
    seq_of,
)
from streamer.client.platform import ActivityFilters, PlatformClient
from streamer.client.sync import SyncClient, SyncPlatformClient

__all__ = [
    "Activity",
    "ActivityFilters",
    "ApiError",
    "Checkpoint",
    "Client",
    "ClientError",
    "Closed",
    "Connected",
    "Event",
    "Filters",
    "Gap",
    "Lost",
    "Page",
    "PlatformClient",
    "StreamMessage",
    "SyncClient",
    "SyncPlatformClient",
    "Synced",
    "Timing",
    "UnexpectedAnswer",
    "Unreachable",
    "host_of",
    "seq_of",
]
