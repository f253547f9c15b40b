"""Paperclip's activity API at `/api`: what its released server answers, and what its document promises beyond that. A company is a workspace."""

from streamer.access.authorize import ANYONE, Access
from streamer.access.principal import READ, WRITE
from streamer.http.dialects.paperclip.errors import TOKEN, render_error
from streamer.http.dialects.paperclip.handlers import Handlers
from streamer.http.dialects.paperclip.params import LinkedParams, ListParams, LiveParams
from streamer.http.operation import Dialect, Operation, check_writable

_COMPANY = "/api/companies/{ws}"

PAPERCLIP = Dialect(
    name="paperclip",
    prefixes=("/api/",),
    operations=(
        Operation(
            "GET",
            f"{_COMPANY}/activity",
            Handlers.company_activity,
            "List a company's activity",
            Access(READ),
            workspace=str,  # what is no id has an empty list
            params=ListParams,
            documented=False,
        ),
        Operation(
            "POST",
            f"{_COMPANY}/activity",
            Handlers.create_company_activity,
            "Append one event",
            Access(WRITE, agents=False),
            appends=True,
            workspace=check_writable,
            documented=False,
        ),
        Operation(
            "GET",
            "/api/issues/{issue}/activity",
            Handlers.activity_of_issue,
            "List an issue's activity",
            ANYONE,
            params=ListParams,
            documented=False,
        ),
        Operation(
            "GET",
            "/api/issues/{issue}/runs",
            Handlers.issue_runs,
            "List an issue's runs",
            ANYONE,
            params=LinkedParams,
            documented=False,
        ),
        Operation(
            "GET",
            "/api/heartbeat-runs/{run}/issues",
            Handlers.run_issues,
            "List a run's issues",
            ANYONE,
            params=LinkedParams,
            documented=False,
        ),
        Operation(
            "GET",
            f"{_COMPANY}/events/ws",
            Handlers.company_events,
            "Follow a company's activity",
            Access(READ, query_key=TOKEN),
            params=LiveParams,
            streams=True,
            documented=False,
        ),
    ),
    handlers=Handlers,
    render_error=render_error,
)
