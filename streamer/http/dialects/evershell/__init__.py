"""Evershell's activity and audit API under `/v1`, beside ours: its envelope, errors and rules are those that ours follows."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from streamer.access.authorize import ANYONE, Access
from streamer.access.principal import AUDIT, READ
from streamer.http.dialects.evershell.handlers import Handlers
from streamer.http.dialects.evershell.params import ActivityParams, AuditParams, StreamParams
from streamer.http.models import Params
from streamer.http.operation import Dialect, Operation

_WS = "/v1/workspaces/{ws}"


def _get(
    path: str,
    handler: Callable[..., Awaitable[web.StreamResponse]],
    summary: str,
    access: Access,
    params: type[Params],
) -> Operation:
    streams = params is StreamParams
    headers = ("Last-Event-ID",) if streams else ()
    return Operation(
        "GET", path, handler, summary, access, params=params, headers=headers, streams=streams, documented=False
    )


EVERSHELL = Dialect(
    name="evershell",
    prefixes=(),  # its errors have our format
    operations=(
        _get(f"{_WS}/activity", Handlers.activity, "Page through a workspace's activity", Access(READ), ActivityParams),
        _get(
            f"{_WS}/audit",
            Handlers.audit,
            "Page through a workspace's audit events",
            Access(READ, also=AUDIT),
            AuditParams,
        ),
        _get("/v1/audit", Handlers.org_audit, "Page through the audit events of all workspaces", ANYONE, AuditParams),
        _get(
            f"{_WS}/activity/stream",
            Handlers.stream_activity,
            "Follow a workspace's activity",
            Access(READ, query_key="api_key"),
            StreamParams,
        ),
        _get(
            "/v1/activity/stream",
            Handlers.stream_org_activity,
            "Follow the activity of all workspaces",
            Access(query_key="api_key"),
            StreamParams,
        ),
    ),
    handlers=Handlers,
    render_error=None,
)
