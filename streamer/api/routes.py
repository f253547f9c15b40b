"""The native API: its resources, each with its operations. The router, the access checks, the document and the tests are made from them."""

from streamer.api.events import EVENTS
from streamer.api.keys import KEYS
from streamer.api.members import MEMBERS
from streamer.api.node import NODE
from streamer.api.sessions import SESSIONS
from streamer.api.streams import STREAMS
from streamer.api.workspaces import WORKSPACES
from streamer.edge.operation import Operation

RESOURCES = (EVENTS, STREAMS, WORKSPACES, MEMBERS, KEYS, SESSIONS, NODE)

ROUTES: tuple[Operation, ...] = tuple(operation for resource in RESOURCES for operation in resource.operations)
