"""The formats of `tail -o`: from events to bytes, independent of the terminal and without state."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from streamer.cli.pretty import EventLines, TimeStyle, printable
from streamer.client import Activity, Event

FIELDS: Mapping[str, tuple[str, ...] | None] = {
    **dict.fromkeys(("id", "seq", "workspace_id", "category", "action"), ()),
    "actor": ("type", "id", "name", "role", "on_behalf_of", "ip"),
    "entity": ("type", "id", "identifier", "name"),
    **dict.fromkeys(("agent_id", "run_id", "task_id", "description"), ()),
    "details": None,
    "changes": None,
    **dict.fromkeys(("occurred_at", "timestamp", "traceparent"), ()),
}
"""An event's fields and their subfields: none, these, or (None) any, because the publisher chooses them."""

_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\", "{{": "{", "}}": "}"}
_NONCHARACTERS = "".join(f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(17))
_NOT_IN_ATTRIBUTES = re.compile(rf"[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef{_NONCHARACTERS}]")
_TOKEN = re.compile(r"(?P<escape>\\[nt\\]|\{\{|\}\})|\{(?P<path>[^{}]*)\}|(?P<stray>[{}])|(?P<text>[^\\{}]+|\\)")


@dataclass(frozen=True, slots=True)
class Format:
    """A format for events."""

    render: Callable[[Activity], bytes]
    """An event with its line end, so that the output is complete at any time."""
    first: bytes = b""
    """Written before the first event."""
    other: bytes = b""
    """Written before each further event."""
    end: bytes = b""
    """Written after the last event; `first` is written before it if there was no event."""
    gap: Callable[[str], bytes] | None = None
    """The line for missing events; None: the format has no place for it, and it goes to stderr."""


def format_of(output: str, *, workspace: str, time: TimeStyle, terminal: bool) -> Format:
    """Return the format that `-o` names.

    Args:
        output: `pretty`, `ndjson`, `json`, `cloudevents`, or `template=` and a template.
        workspace: the workspace of the events.
        time: how pretty lines show the time.
        terminal: pretty lines are for a terminal.

    Raises:
        ValueError: no such format, or the template is invalid; the message says what to do.
    """
    name, equals, text = output.partition("=")
    if name == "template":
        if not text:
            raise ValueError("the template is empty: -o 'template={timestamp} {actor.name} {action}'")
        return Format(template(text))
    match name if not equals else output:
        case "pretty":
            lines = EventLines(time, terminal=terminal)
            return Format(lambda activity: lines.line(activity.event), gap=lines.gap)
        case "ndjson":
            return Format(lambda activity: activity.body + b"\n")
        case "json":
            return Format(lambda activity: activity.body + b"\n", first=b"[", other=b",", end=b"]\n")
        case "cloudevents":
            return Format(lambda activity: cloud_event(workspace, activity))
    raise ValueError(f"there is no format {output!r}; there are pretty, ndjson, json, cloudevents and template=TEXT")


def cloud_event(workspace: str, activity: Activity) -> bytes:
    """Return an event as a CloudEvent 1.0 in structured JSON, on one line.

    `source` and `id` together are unique, as the specification requires, because an event's id is unique in its
    workspace. The source is the workspace's path, not its URL, so that an event read from another node or under another
    host name stays the same.
    """
    event = activity.event
    entity = event["entity"] or {}
    subject = "/".join(filter(None, (entity.get("type"), entity.get("id"))))
    attributes = {
        "specversion": "1.0",
        "id": event["id"],
        "source": f"/v1/workspaces/{quote(workspace, safe='')}",
        "type": _attribute(event["action"]),
        "subject": _attribute(subject),
        "time": event["timestamp"],
        "traceparent": event["traceparent"],
        "datacontenttype": "application/json",
    }
    given: dict[str, Any] = {name: value for name, value in attributes.items() if value}
    return orjson.dumps(given | {"data": orjson.Fragment(activity.body)}, option=orjson.OPT_APPEND_NEWLINE)


def _attribute(text: str) -> str:
    """Replace characters that a CloudEvent attribute must not contain: control characters and noncharacters (1.0.2, "Type System")."""
    return _NOT_IN_ATTRIBUTES.sub("\N{REPLACEMENT CHARACTER}", text)


def template(text: str) -> Callable[[Activity], bytes]:
    r"""Compile a template: `{actor.name}` is that value of the event, `{{` a brace; `\n`, `\t` and `\\` have their usual meaning.

    Raises:
        ValueError: an unmatched brace, or a field that no event has.
    """
    parts: list[str | tuple[str, ...]] = []
    for token in _TOKEN.finditer(text):
        match token.lastgroup:
            case "escape":
                parts.append(_ESCAPES[token[0]])
            case "path":
                parts.append(_path(token["path"]))
            case "stray":
                raise ValueError(f"a lone {token[0]}: write {token[0] * 2} for a brace, or {{action}} for a field")
            case _:
                parts.append(token[0])

    def render(activity: Activity) -> bytes:
        event = activity.event
        return ("".join(part if isinstance(part, str) else _value(event, part) for part in parts) + "\n").encode()

    return render


def _path(text: str) -> tuple[str, ...]:
    name, *rest = path = text.split(".")
    if name not in FIELDS:
        raise ValueError(f"{{{text}}}: an event has no field {name!r}; it has {', '.join(FIELDS)}")
    within = FIELDS[name]
    if within is not None and rest and (len(rest) > 1 or rest[0] not in within):
        has = f"it has {', '.join(within)}" if within else "it is a value"
        raise ValueError(f"{{{text}}}: {name} has no field {'.'.join(rest)!r}; {has}")
    return tuple(path)


def _value(event: Event, path: tuple[str, ...]) -> str:
    """Return the text of a value in an event, empty if it is absent: the publisher chooses which are present."""
    value: Any = event
    for name in path:
        if isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, dict):
            value = value.get(name)
        else:
            return ""
    if value is None:
        return ""
    return printable(value if isinstance(value, str) else orjson.dumps(value).decode())
