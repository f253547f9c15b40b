"""Evershell's activity and audit API under `/v1`, beside ours: its envelope, errors and rules are those that ours follows."""

from streamer.auth.access import ANYONE, Access
from streamer.auth.principal import READ
from streamer.dialects.evershell.handlers import Handlers
from streamer.dialects.evershell.query import ACTIVITY_PARAMETERS, AUDIT_PARAMETERS, STREAM_PARAMETERS
from streamer.edge.routes import Dialect, Route

_WS = "/v1/workspaces/{ws}"


def _route(path: str, operation: str, summary: str, access: Access, query: tuple[str, ...]) -> Route:
    streams = operation.startswith("stream_")
    headers = ("Last-Event-ID",) if streams else ()
    return Route(
        "GET", path, operation, summary, access, query=query, headers=headers, streams=streams, documented=False
    )


EVERSHELL = Dialect(
    name="evershell",
    prefixes=(),  # its errors are said as ours are
    routes=(
        _route(f"{_WS}/activity", "activity", "Page through a workspace's activity", Access(READ), ACTIVITY_PARAMETERS),
        _route(f"{_WS}/audit", "audit", "Page through a workspace's audit events", Access(READ), AUDIT_PARAMETERS),
        _route("/v1/audit", "org_audit", "Page through the audit events of all workspaces", ANYONE, AUDIT_PARAMETERS),
        _route(
            f"{_WS}/activity/stream",
            "stream_activity",
            "Follow a workspace's activity",
            Access(READ, query_key="api_key"),
            STREAM_PARAMETERS,
        ),
        _route(
            "/v1/activity/stream",
            "stream_org_activity",
            "Follow the activity of all workspaces",
            Access(query_key="api_key"),
            STREAM_PARAMETERS,
        ),
    ),
    handlers=Handlers,
    manner=None,
)
