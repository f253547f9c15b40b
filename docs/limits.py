"""Write docs/limits.md from the settings and the fixed limits.

python docs/limits.py write      write the page
python docs/limits.py            print it
"""

import sys
from pathlib import Path
from typing import Any

from streamer.access import tickets
from streamer.cli import publish
from streamer.core import entities as core_entities
from streamer.core import filter as filters
from streamer.core import quoting, shares
from streamer.fanout import pace
from streamer.http import bodies, decompress, merge, reading
from streamer.http.dialects.paperclip import params as paperclip
from streamer.http.native import workspaces
from streamer.server import connection
from streamer.settings import PREFIX, Settings
from streamer.store.engine import database, pools, readiness
from streamer.store.log import entities, held

PAGE = Path(__file__).parent / "limits.md"

KiB, MiB = 2**10, 2**20

INTRODUCTION = """# Limits

Everything that a client can make large or slow has a limit. This page says what happens at each limit, and what to do about it. It is
generated from the settings by `docs/limits.py`; a test keeps it true.

Nothing is truncated silently. A request over a limit is rejected with an error that names the field and the limit, a page that ends early
has a cursor, and a stream that ends reports why. Accepted events are never lost.

The promise *fair* depends on these limits: no single step of the server takes more than 50 ms of CPU at the defaults. If you raise a limit
on sizes by much, measure `streamer_loop_stall_seconds`.
"""

FIXED: tuple[tuple[str, object, str], ...] = (
    (
        "Values in one filter",
        filters.MAX_VALUES,
        "400 `validation_error`. Use several requests or subscriptions.",
    ),
    (
        "Characters of one value of a filter",
        filters.MAX_VALUE_LENGTH,
        "400 `validation_error`. No stored value is longer.",
    ),
    (
        "Bytes of a body that holds no events",
        bodies.MAX_SMALL_BYTES,
        "413 `payload_too_large`. No call needs that many.",
    ),
    (
        "Bytes of a workspace's `settings`",
        workspaces.MAX_SETTINGS_BYTES,
        "400 `validation_error`. Keep larger data elsewhere.",
    ),
    ("Levels of a workspace's `settings`", workspaces.MAX_SETTINGS_DEPTH, "400 `validation_error`."),
    (
        "Invalid fields that one error names",
        quoting.MAX_NAMED,
        "The error names the first ones, followed by `and more`. Correct them and send the request again.",
    ),
    (
        "Bytes of the request line, and of a header field",
        connection.MAX_HEADER,
        "400 `validation_error`; the connection is closed.",
    ),
    (
        "Total bytes of a request's head",
        connection.MAX_HEAD_BYTES,
        "400 `validation_error`; the connection is closed.",
    ),
    ("Header fields of a request", connection.MAX_HEADERS, "400 `validation_error`; the connection is closed."),
    (
        "Characters of a name or value that an error quotes",
        quoting.MAX_QUOTED,
        "The text is truncated and marked with `…`.",
    ),
    ("Seconds until a new connection's first request", connection.HEAD_SECONDS, "The connection is closed."),
    (
        "Seconds between two requests of a connection",
        connection.KEPT_SECONDS,
        "The connection is closed. Open another one.",
    ),
    (
        "Seconds within which a ticket must open its stream",
        tickets.OPEN_SECONDS,
        "401 `unauthenticated`. Get a new ticket.",
    ),
    (
        "Seconds that a request waits for a connection to the database",
        pools.TURN_SECONDS,
        "503 `store_unavailable` with `reason: busy`. Make reads shorter, or add nodes.",
    ),
    (
        "Milliseconds that `/readyz` waits for a lock on PostgreSQL",
        database.CHECK_LOCK_MS,
        "503 `store_unavailable` with `reason: locked`. End the session that holds the table (`pg_locks`).",
    ),
    (
        "Seconds within which `/readyz` answers",
        readiness.ANSWER_SECONDS,
        "503 `store_unavailable` with `reason: timeout`.",
    ),
    (
        "Seconds that an append waits for a workspace that another node has locked",
        held.HELD_SECONDS,
        "503 `store_unavailable` with `reason: locked`; nothing of it is stored. Other workspaces are not affected. Find the session that holds the lock.",
    ),
    (
        "Workspaces that one call or stream of a dialect reads at once",
        merge.MAX_WORKSPACES,
        "Memberships beyond that are left out, the least preferred first, and `X-Workspaces-Omitted` has their number. More grants of one key are 400.",
    ),
    (
        "Workspaces that are searched for an issue or a run without a workspace in the URL, with a key for all workspaces",
        entities.FOUND_ROWS,
        "409 in the dialect's form. Name the workspace, or use a key for it.",
    ),
    (
        "Runs or issues in one response of Paperclip's API",
        paperclip.MOST,
        "`Link` leads to the next ones.",
    ),
    (
        "Total bytes of an issue's id and a run's id, above which the two are not linked",
        core_entities.MAX_LINK_BYTES,
        "The event is stored; Paperclip's lists of runs and issues do not show the pair. Use shorter ids.",
    ),
    (
        "Characters of a ticket's filter",
        tickets.MAX_FILTER,
        "400 `validation_error`. Use a shorter filter, or a key.",
    ),
    ("Members of a gzip body", decompress.MAX_MEMBERS, "400 `validation_error`. Compress the body as one member."),
    (
        "Seconds that a scan waits for the other scans of its key",
        reading.SCAN_WAIT_SECONDS,
        "429 `rate_limited` with `Retry-After`.",
    ),
    (
        "Share of the append queue, of the large events that wait for redaction, and of `STREAMER_MEMORY_BYTES` that one key can use",
        f"1/{shares.ACCOUNT_PART}",
        f"503 `overloaded` for that key alone. 1/{shares.RESERVE_PART} is reserved for keys that use at most 1/{shares.LITTLE_PART}.",
    ),
    (
        "Share of the time that live filters of one key can spend on text search (`q`)",
        pace.SHARE,
        "The key's readers with such filters lag, and read from the log if they lag too far. They miss nothing, and no other key waits.",
    ),
    (
        "Bytes that SQLite's write-ahead log shrinks to",
        pools.WAL_BYTES,
        "It grows while another program holds a long read transaction, and shrinks afterwards.",
    ),
    (
        "Bytes of one line of `streamer publish`",
        publish.LONGEST_INPUT,
        "Exit code 2, with the line's number. Write one event per line.",
    ),
)
"""What is limited, the limit, and what happens at the limit."""


def page() -> str:
    """Return the page."""
    rows = [
        f"| `{PREFIX}{name.upper()}` | {_default(name, setting.default)} | {setting.description} | {_at_limit(setting)} |"
        for name, setting in Settings.model_fields.items()
        if _at_limit(setting)
    ]
    fixed = [f"| {what} | {_number(value)} | {text} |" for what, value, text in FIXED]
    return "\n".join(
        (
            INTRODUCTION,
            "## Settings",
            "",
            "[settings.md](settings.md) describes how to set them.",
            "",
            "| setting | default | what it limits | at the limit |",
            "|---|---|---|---|",
            *rows,
            "",
            "## Fixed limits",
            "",
            "| what | limit | at the limit |",
            "|---|---|---|",
            *fixed,
            "",
        )
    )


def _at_limit(setting: Any) -> str:
    extra = setting.json_schema_extra
    return str(extra.get("at_limit", "")) if isinstance(extra, dict) else ""


def _default(name: str, value: object) -> str:
    """Return a setting's default as readable text; sizes get a unit."""
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{_number(value)} ({value // MiB} MiB)" if value >= MiB else f"{_number(value)} ({value // KiB} KiB)"
    return _number(value)


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


if __name__ == "__main__":
    if sys.argv[1:] == ["write"]:
        PAGE.write_text(page())
    else:
        print(page())
