"""Paperclip's activity API at `/api`: what its released server answers, and what its document promises beyond that. A company is a workspace."""

from streamer.auth.access import ANYONE, Access
from streamer.auth.principal import READ, WRITE
from streamer.dialects.paperclip.errors import TOKEN, manner
from streamer.dialects.paperclip.handlers import Handlers
from streamer.dialects.paperclip.params import LinkedParams, ListParams, LiveParams
from streamer.edge.routes import Dialect, Route

_COMPANY = "/api/companies/{ws}"

PAPERCLIP = Dialect(
    name="paperclip",
    prefixes=("/api/",),
    routes=(
        Route(
            "GET",
            f"{_COMPANY}/activity",
            "company_activity",
            "List a company's activity",
            Access(READ),
            params=ListParams,
            documented=False,
        ),
        Route(
            "POST",
            f"{_COMPANY}/activity",
            "create_company_activity",
            "Append one event",
            Access(WRITE, agents=False),
            appends=True,
            documented=False,
        ),
        Route(
            "GET",
            "/api/issues/{issue}/activity",
            "activity_of_issue",
            "List an issue's activity",
            ANYONE,
            params=ListParams,
            documented=False,
        ),
        Route(
            "GET",
            "/api/issues/{issue}/runs",
            "issue_runs",
            "List an issue's runs",
            ANYONE,
            params=LinkedParams,
            documented=False,
        ),
        Route(
            "GET",
            "/api/heartbeat-runs/{run}/issues",
            "run_issues",
            "List a run's issues",
            ANYONE,
            params=LinkedParams,
            documented=False,
        ),
        Route(
            "GET",
            f"{_COMPANY}/events/ws",
            "company_events",
            "Follow a company's activity",
            Access(READ, query_key=TOKEN),
            params=LiveParams,
            streams=True,
            documented=False,
        ),
    ),
    handlers=Handlers,
    manner=manner,
)
