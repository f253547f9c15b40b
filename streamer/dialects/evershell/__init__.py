"""Evershell's activity and audit API under `/v1`, beside ours: its envelope, errors and rules are those that ours follows."""

from streamer.auth.access import ANYONE, Access
from streamer.auth.principal import READ
from streamer.dialects.evershell.handlers import Handlers
from streamer.dialects.evershell.params import ActivityParams, AuditParams, StreamParams
from streamer.edge.models import Params
from streamer.edge.routes import Dialect, Route

_WS = "/v1/workspaces/{ws}"


def _route(path: str, operation: str, summary: str, access: Access, params: type[Params]) -> Route:
    streams = operation.startswith("stream_")
    headers = ("Last-Event-ID",) if streams else ()
    return Route(
        "GET", path, operation, summary, access, params=params, headers=headers, streams=streams, documented=False
    )


EVERSHELL = Dialect(
    name="evershell",
    prefixes=(),  # its errors are said as ours are
    routes=(
        _route(f"{_WS}/activity", "activity", "Page through a workspace's activity", Access(READ), ActivityParams),
        _route(f"{_WS}/audit", "audit", "Page through a workspace's audit events", Access(READ), AuditParams),
        _route("/v1/audit", "org_audit", "Page through the audit events of all workspaces", ANYONE, AuditParams),
        _route(
            f"{_WS}/activity/stream",
            "stream_activity",
            "Follow a workspace's activity",
            Access(READ, query_key="api_key"),
            StreamParams,
        ),
        _route(
            "/v1/activity/stream",
            "stream_org_activity",
            "Follow the activity of all workspaces",
            Access(query_key="api_key"),
            StreamParams,
        ),
    ),
    handlers=Handlers,
    manner=None,
)
