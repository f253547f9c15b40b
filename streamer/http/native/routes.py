"""The native API: its resources, each with its operations. The router, the access checks, the document and the tests are made from them."""

from streamer.http.native.events import EVENTS
from streamer.http.native.keys import KEYS
from streamer.http.native.members import MEMBERS
from streamer.http.native.node import NODE
from streamer.http.native.sessions import SESSIONS
from streamer.http.native.streams import STREAMS
from streamer.http.native.workspaces import WORKSPACES
from streamer.http.operation import Operation

RESOURCES = (EVENTS, STREAMS, WORKSPACES, MEMBERS, KEYS, SESSIONS, NODE)

ROUTES: tuple[Operation, ...] = tuple(operation for resource in RESOURCES for operation in resource.operations)
