"""Structured logs: one line an event, JSON for machines or columns for people, never a credential."""

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
"""Characters of a traceback that are logged; of any other text `quoting.MAX_TEXT`."""

_OURS = frozenset({"request_id", "method", "level", "timestamp"})
"""Names of values that the server makes itself."""


def _is_ours(name: str, value: str) -> bool:
    """Return whether the server made a value itself. A token's issuer makes the rest of a principal's name after `user:`."""
    return name in _OURS or (name == "principal" and ":" not in value)


def configure(log_format: Literal["auto", "console", "json"], level: str, clean: Callable[[str], str] = str) -> None:
    """Set up logging for the process; libraries that use `logging` come out in the same form.

    Args:
        log_format: console or JSON; by itself the former on a terminal.
        level: the least severe one to write.
        clean: replaces the secrets in a text: a path or a traceback may quote what a client sent.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.types.Processor] = [
        structlog.processors.add_log_level,
        _add_timestamp,
    ]
    renderer: list[structlog.types.Processor] = [
        structlog.processors.format_exc_info,
        lambda _logger, _method, entry: {
            # Cut first: cleaning takes time in proportion to the text.
            name: clean(cut(value, MAX_TRACEBACK if name == "exception" else MAX_TEXT))
            if isinstance(value, str) and not _is_ours(name, value)
            else value
            for name, value in entry.items()
        },
        *([_printable] if console else []),
        # Plain tracebacks: pretty ones show the local variables, and so a request's credential.
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
    # It quotes the subprotocols that a client offers, which some misuse for credentials.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
    # It logs a traceback for each connection that an outage broke, with the database's texts. We log the outage, once.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))


def _add_timestamp(_logger: Any, _method: str, entry: structlog.types.EventDict) -> structlog.types.EventDict:
    entry["timestamp"] = format_timestamp(now_us())
    return entry


def _dumps(entry: Any, *, default: Callable[[Any], Any]) -> str:
    """Return JSON in ASCII: a terminal that shows a log must not obey what a client sent."""
    try:
        data = orjson.dumps(entry, default)
    except orjson.JSONEncodeError:  # a lone surrogate, or an integer beyond 64 bits
        return json.dumps(entry, default=default)
    return data.decode() if data.isascii() else json.dumps(entry, default=default)


def _dropped(processors: Sequence[structlog.types.Processor], lines: int) -> str:
    """Return the line that stands in the place of lines that could not be written."""
    entry: Any = {"event": "log_lines_dropped", "lines": lines}
    for processor in processors:
        entry = processor(None, "warning", entry)
    return str(entry)


def _printable(_logger: Any, _method: str, entry: structlog.types.EventDict) -> structlog.types.EventDict:
    """Escape what a terminal would obey or take for another line; JSON does so by itself."""
    return {
        name: value.encode("unicode_escape").decode()
        if isinstance(value, str) and name != "exception" and not value.isprintable()
        else value
        for name, value in entry.items()
    }
