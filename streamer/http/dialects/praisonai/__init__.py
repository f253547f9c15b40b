"""PraisonAI Platform's activity API at `/api/v1`: what its released server answers, and what its documents promise beyond that."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from streamer.access.authorize import ANYONE, PUBLIC, Access
from streamer.access.principal import READ
from streamer.http.dialects.praisonai.errors import render_error
from streamer.http.dialects.praisonai.handlers import Handlers
from streamer.http.dialects.praisonai.params import AcrossParams, ActivityParams, ViewParams
from streamer.http.models import Params
from streamer.http.operation import Dialect, Operation

_WS = "/api/v1/workspaces/{ws}"


def _get(
    path: str,
    handler: Callable[..., Awaitable[web.StreamResponse]],
    summary: str,
    access: Access,
    params: type[Params] | None = None,
) -> Operation:
    return Operation("GET", path, handler, summary, access, params=params, documented=False, answers_head=False)


PRAISONAI = Dialect(
    name="praisonai",
    prefixes=("/api/v1/", "/health"),
    operations=(
        _get(
            f"{_WS}/activity", Handlers.workspace_activity, "List a workspace's activity", Access(READ), ActivityParams
        ),
        _get(f"{_WS}/activity/{{id}}", Handlers.activity, "Return one activity", Access(READ), ViewParams),
        _get(
            f"{_WS}/issues/{{issue}}/activity",
            Handlers.workspace_issue_activity,
            "List an issue's activity",
            Access(READ),
            ActivityParams,
        ),
        _get(
            "/api/v1/issues/{issue}/activity",
            Handlers.issue_activity,
            "List an issue's activity",
            ANYONE,
            ActivityParams,
        ),
        _get("/api/v1/users/me/activity", Handlers.my_activity, "List the caller's activity", ANYONE, AcrossParams),
        _get(f"{_WS}/activity/", Handlers.workspace_activity_slash, "Redirect to the path without the slash", PUBLIC),
        _get(
            f"{_WS}/issues/{{issue}}/activity/",
            Handlers.issue_activity_slash,
            "Redirect to the path without the slash",
            PUBLIC,
        ),
        _get("/health", Handlers.health, "Tell whether the server answers", PUBLIC),
    ),
    handlers=Handlers,
    render_error=render_error,
)
