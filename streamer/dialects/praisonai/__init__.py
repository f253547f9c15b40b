"""PraisonAI Platform's activity API at `/api/v1`: what its released server answers, and what its documents promise beyond that."""

from streamer.auth.access import ANYONE, PUBLIC, Access
from streamer.auth.principal import READ
from streamer.dialects.praisonai.errors import manner
from streamer.dialects.praisonai.handlers import Handlers
from streamer.dialects.praisonai.params import AcrossParams, ActivityParams, ViewParams
from streamer.edge.models import Params
from streamer.edge.routes import Dialect, Route

_WS = "/api/v1/workspaces/{ws}"


def _route(path: str, operation: str, summary: str, access: Access, params: type[Params] | None = None) -> Route:
    return Route("GET", path, operation, summary, access, params=params, documented=False, answers_head=False)


PRAISONAI = Dialect(
    name="praisonai",
    prefixes=("/api/v1/", "/health"),
    routes=(
        _route(f"{_WS}/activity", "workspace_activity", "List a workspace's activity", Access(READ), ActivityParams),
        _route(f"{_WS}/activity/{{id}}", "activity", "Return one activity", Access(READ), ViewParams),
        _route(
            f"{_WS}/issues/{{issue}}/activity",
            "workspace_issue_activity",
            "List an issue's activity",
            Access(READ),
            ActivityParams,
        ),
        _route("/api/v1/issues/{issue}/activity", "issue_activity", "List an issue's activity", ANYONE, ActivityParams),
        _route("/api/v1/users/me/activity", "my_activity", "List the caller's activity", ANYONE, AcrossParams),
        _route(f"{_WS}/activity/", "workspace_activity_slash", "Redirect to the path without the slash", PUBLIC),
        _route(
            f"{_WS}/issues/{{issue}}/activity/",
            "issue_activity_slash",
            "Redirect to the path without the slash",
            PUBLIC,
        ),
        _route("/health", "health", "Tell whether the server answers", PUBLIC),
    ),
    handlers=Handlers,
    manner=manner,
)
