"""Structured logs: one line per event, JSON for programs or columns for people, never a credential."""

import functools
import json
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import orjson
import structlog

from streamer.core.clock import format_timestamp, now_us
from streamer.core.quoting import MAX_TEXT, cut
from streamer.observe.output import Output, takes_escapes

MAX_TRACEBACK = 20_000
"""Characters of a traceback that are logged; for any other text `quoting.MAX_TEXT`."""

_OURS = frozenset({"request_id", "method", "level", "timestamp"})
"""Names of values that the server generates itself."""


def _is_ours(name: str, value: str) -> bool:
    """Return whether the server generated a value itself.

    A token's issuer chooses the rest of a principal's name after `user:`.
    """
    return name in _OURS or (name == "principal" and ":" not in value)


def configure(log_format: Literal["auto", "console", "json"], level: str, clean: Callable[[str], str] = str) -> None:
    """Set up logging for the process; libraries that use `logging` get the same format.

    Args:
        log_format: console or JSON; `auto`: console on a terminal.
        level: the lowest severity to write.
        clean: redacts a text: a path or a traceback may quote a client's input.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.types.Processor] = [
        structlog.processors.add_log_level,
        _add_timestamp,
    ]
    renderer: list[structlog.types.Processor] = [
        structlog.processors.format_exc_info,
        lambda _logger, _method, entry: {
            # Truncated first, because redaction takes linear time.
            name: clean(cut(value, MAX_TRACEBACK if name == "exception" else MAX_TEXT))
            if isinstance(value, str) and not _is_ours(name, value)
            else value
            for name, value in entry.items()
        },
        *([_printable] if console else []),
        # Plain tracebacks: pretty ones show local variables, and so a request's credential.
        structlog.dev.ConsoleRenderer(
            colors=takes_escapes(sys.stderr), exception_formatter=structlog.dev.plain_traceback
        )
        if console
        else structlog.processors.JSONRenderer(_dumps),
    ]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    if isinstance(sys.stderr, Output):
        sys.stderr.notice = functools.partial(_dropped, [*shared, *renderer])
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    # It quotes the subprotocols that a client offers, which some clients misuse for credentials.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
    # It logs a traceback for each connection that an outage broke, with the database's messages. We log the outage once.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))


def _add_timestamp(_logger: Any, _method: str, entry: structlog.types.EventDict) -> structlog.types.EventDict:
    entry["timestamp"] = format_timestamp(now_us())
    return entry


def _dumps(entry: Any, *, default: Callable[[Any], Any]) -> str:
    """Return JSON in ASCII: a terminal that shows a log must not interpret a client's input."""
    try:
        data = orjson.dumps(entry, default)
    except orjson.JSONEncodeError:  # a lone surrogate, or an integer beyond 64 bits
        return json.dumps(entry, default=default)
    return data.decode() if data.isascii() else json.dumps(entry, default=default)


def _dropped(processors: Sequence[structlog.types.Processor], lines: int) -> str:
    """Return the line that replaces lines that could not be written."""
    entry: Any = {"event": "log_lines_dropped", "lines": lines}
    for processor in processors:
        entry = processor(None, "warning", entry)
    return str(entry)


def _printable(_logger: Any, _method: str, entry: structlog.types.EventDict) -> structlog.types.EventDict:
    """Escape characters that a terminal would interpret, or that would start another line; JSON does so by itself."""
    return {
        name: value.encode("unicode_escape").decode()
        if isinstance(value, str) and name != "exception" and not value.isprintable()
        else value
        for name, value in entry.items()
    }
