"""Clients: append events, page through history, follow a stream that reconnects by itself, manage keys and members.

    async with Client("http://127.0.0.1:8080", key) as client:
        await client.append("my", {"action": "issue.created", "actor": {"type": "user", "id": "ann"}})
        async for message in client.stream("my", after=position):
            ...

`SyncClient` is the same without asyncio. `PlatformClient` and `SyncPlatformClient` make PraisonAI Platform's calls.

Errors::

    ClientError
    ├── ApiError          the server answered with an error: status, code, message, request_id, fields
    ├── Unreachable       no response after all attempts
    └── UnexpectedAnswer  a response that this API does not give: is another server at this address?

Only `Unreachable` and the statuses 408, 429 and 5xx are retried. All attempts of an append have the same
`Idempotency-Key`, so that a lost response cannot store its events twice. Calls that are not idempotent (creating and
revoking keys, removing members) are not retried.
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
