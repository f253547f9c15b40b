"""The native route table: what the API answers, who may ask, and what the OpenAPI document says of it.

One list, from which the router, the access check, the document and the tests that walk all routes are made.
"""

from streamer.api import schemas
from streamer.api.params import HistoryParams, ListParams, ReadyParams, SseParams, StreamParams, WorkspaceListParams
from streamer.auth.access import ANYONE, PUBLIC, Access
from streamer.auth.principal import ADMIN, OWNER, READ, WRITE
from streamer.edge.routes import Route

_WS = "/v1/workspaces/{ws}"


ROUTES: tuple[Route, ...] = (
    Route(
        "POST", f"{_WS}/events", "append_events", "Append one event, an array or NDJSON; all or nothing", Access(WRITE),
        headers=("Idempotency-Key",), body=schemas.EVENT,
        answers=((201, "Event | EventList", "Stored."), (200, "Event | EventList", "All were stored before.")),
        errors=(400, 404, 408, 409, 413, 415, 429, 503), appends=True,
    ),
    Route(
        "GET", f"{_WS}/events", "list_events", "Page through history", Access(READ),
        params=HistoryParams,
        answers=((200, "EventPage", 'A page; `Link: rel="next"` leads on.'),), errors=(400, 404, 410, 429),
    ),
    Route(
        "GET", f"{_WS}/events/stream", "stream_events", "Follow events as they are stored (server-sent events)",
        Access(READ, ticket=True), params=SseParams, headers=("Last-Event-ID",),
        answers=((200, "text/event-stream", "Events, from the given position on or from now on."),),
        errors=(400, 404, 429), streams=True,
    ),
    Route(
        "GET", f"{_WS}/events/ws", "open_socket", "Follow a workspace's events over a WebSocket", Access(READ, ticket=True),
        params=StreamParams, answers=((101, "", "Messages as docs/api.md describes them."),),
        errors=(400, 404, 429), streams=True,
    ),
    Route(
        "GET", "/v1/ws", "open_shared_socket", "Follow and append in many workspaces over one WebSocket", ANYONE,
        answers=((101, "", "Messages as docs/api.md describes them."),), errors=(400, 429), streams=True,
    ),
    Route(
        "POST", "/v1/tickets", "create_ticket", "Make a ticket: a credential for one stream of a browser", ANYONE,
        body=schemas.TICKET, answers=((201, "Ticket", "Made; it is shown only here."),),
        errors=(400, 404, 408, 413, 415, 429),
    ),
    Route(
        "GET", f"{_WS}/events/{{id}}", "get_event", "Return one event", Access(READ),
        answers=((200, "Event", "The event."),), errors=(400, 404),
    ),
    Route(
        "GET", f"{_WS}/entities/{{type}}/{{entity}}", "get_entity", "Return what the log tells of an entity: an issue, a run, …",
        Access(READ), answers=((200, "Entity", "The entity."),), errors=(400, 404),
    ),
    Route(
        "GET", "/v1/workspaces", "list_workspaces", "List the workspaces that the caller may read", ANYONE,
        params=WorkspaceListParams, answers=((200, "WorkspaceList", "In order of id."),), errors=(400,),
    ),
    Route(
        "PUT", _WS, "put_workspace", "Make a workspace, or change its values", Access(ADMIN), body=schemas.WORKSPACE,
        answers=((201, "Workspace", "Made."), (200, "Workspace", "Changed.")), errors=(400, 404, 408, 413, 415, 429),
    ),
    Route(
        "GET", _WS, "get_workspace", "Return a workspace and what its log holds", Access(READ),
        answers=((200, "Workspace", "The workspace."),), errors=(400, 404),
    ),
    Route(
        "DELETE", _WS, "delete_workspace", "Delete a workspace with its events, members and keys", Access(OWNER),
        answers=((204, "", "Deleted; its streams are closed."),), errors=(400, 404),
    ),
    Route(
        "GET", f"{_WS}/members", "list_members", "List the workspace's members", Access(READ),
        params=ListParams, answers=((200, "MemberList", "In order of their ids."),), errors=(400, 404),
    ),
    Route(
        "PUT", f"{_WS}/members/{{user}}", "put_member", "Give a person a role in the workspace", Access(ADMIN),
        body=schemas.MEMBER, answers=((201, "Member", "Added."), (200, "Member", "Was a member already.")),
        errors=(400, 404, 408, 409, 413, 415, 429),
    ),
    Route(
        "GET", f"{_WS}/members/{{user}}", "get_member", "Return a member", Access(READ),
        answers=((200, "Member", "The member."),), errors=(400, 404),
    ),
    Route(
        "DELETE", f"{_WS}/members/{{user}}", "remove_member",
        "Take a person out of the workspace; their streams are closed, keys that act as them revoked",
        Access(ADMIN, oneself="user"),
        answers=((204, "", "Removed."),), errors=(400, 404, 409),
    ),
    Route(
        "POST", f"{_WS}/keys", "create_key", "Make a key for the workspace; its secret is shown only here", Access(ADMIN),
        body=schemas.KEY, answers=((201, "NewKey", "Made."),), errors=(400, 404, 408, 413, 415, 429),
    ),
    Route(
        "GET", f"{_WS}/keys", "list_keys", "List the workspace's keys, without their secrets", Access(ADMIN),
        params=ListParams, answers=((200, "KeyList", "In order of their ids."),), errors=(400, 404),
    ),
    Route(
        "DELETE", f"{_WS}/keys/{{id}}", "revoke_key", "Revoke a key; its streams are closed", Access(ADMIN),
        answers=((204, "", "Revoked."),), errors=(400, 404),
    ),
    Route(
        "POST", "/v1/session", "sign_in", "Trade a one-time code for a browser session (a cookie)", PUBLIC,
        body=schemas.SIGN_IN, answers=((200, "Session", "Signed in."),), errors=(400, 401, 408, 413, 415),
    ),
    Route(
        "GET", "/v1/session", "get_session", "Tell who the caller is and what it may do", ANYONE,
        answers=((200, "Session", "The caller."),), errors=(400,),
    ),
    Route(
        "DELETE", "/v1/session", "sign_out", "End the browser session", ANYONE,
        answers=((204, "", "Signed out."),), errors=(400,),
    ),
    Route("GET", "/livez", "livez", "Tell whether the process answers", PUBLIC, answers=((200, "Health", "It does."),)),
    Route(
        "GET", "/readyz", "readyz", "Tell whether this node can serve appends and reads", PUBLIC,
        params=ReadyParams, answers=((200, "Health", "It can."),), errors=(400, 503),
    ),
    Route(
        "GET", "/metrics", "metrics", "Return the metrics in Prometheus' text format", Access(ADMIN),
        answers=((200, "text/plain", "The metrics."),),
    ),
    Route("GET", "/openapi.json", "openapi", "Return this document", PUBLIC, answers=((200, "object", "The document."),)),
    Route("GET", "/", "page", "The page", PUBLIC, documented=False),
    Route("GET", "/static/{file}", "static_file", "A file of the page", PUBLIC, documented=False),
)  # fmt: skip
