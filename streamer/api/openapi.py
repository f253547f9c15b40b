"""The OpenAPI 3.1 document, made from the route table and the models."""

import re
from typing import Any

from streamer import __version__
from streamer.api import schemas
from streamer.api.params import POSITION_SCHEMA
from streamer.api.routes import ROUTES
from streamer.auth.principal import ROLES
from streamer.core import errors
from streamer.core.filter import CATEGORIES
from streamer.core.ids import ID_PATTERN
from streamer.edge.models import Params
from streamer.edge.routes import Route

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_MAYBE: Schema = {"type": ["string", "null"]}
_TIME: Schema = {"type": "string", "format": "date-time"}
_MAYBE_TIME: Schema = {"type": ["string", "null"], "format": "date-time"}
_POSITION: Schema = POSITION_SCHEMA
_BAD_REQUEST = 400

_HEADERS: dict[str, tuple[str, Schema]] = {
    "Idempotency-Key": (
        "The same key with the same content within 24 hours answers what the first request did.",
        {"type": "string", "pattern": "^[!-~]{1,255}$"},
    ),
    "Last-Event-ID": ("The position of the last event that was received; wins over `after`.", _POSITION),
}

_PATH: dict[str, tuple[str, Schema]] = {
    "ws": ("The workspace.", {"type": "string", "pattern": ID_PATTERN}),
    "id": ("The event's or key's id.", {"type": "string", "pattern": ID_PATTERN}),
    "type": ("The entity's type; `heartbeat_run` is a second name of `run`.", _TEXT),
    "entity": ("The entity's id.", _TEXT),
    "user": ("The person: the `sub` of their tokens.", schemas.USER_SCHEMA),
    "file": ("The file's name.", _TEXT),
}


def _object(properties: dict[str, Schema], *, optional: tuple[str, ...] = ()) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _list_of(name: str, item: str) -> Schema:
    return _object({name: {"type": "array", "items": _ref(item)}})


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_ACTOR = _object(dict.fromkeys(("type", "id"), _TEXT) | dict.fromkeys(("name", "role", "on_behalf_of", "ip"), _MAYBE))
_BOUND_ACTOR: Schema = {"oneOf": [_object({"type": _TEXT, "id": _TEXT}), {"type": "null"}]}
_SCOPES: Schema = {"type": "array", "items": _TEXT}

_SCHEMAS: dict[str, Schema] = {
    "Event": _object(
        {
            "id": _TEXT,
            "seq": {"type": "integer", "minimum": 1},
            "workspace_id": _TEXT,
            "category": {"enum": list(CATEGORIES)},
            "action": _TEXT,
            "actor": _ACTOR,
            "entity": {
                "oneOf": [_object(dict.fromkeys(("type", "id", "identifier", "name"), _MAYBE)), {"type": "null"}]
            },
            "agent_id": _MAYBE,
            "run_id": _MAYBE,
            "task_id": _MAYBE,
            "description": _TEXT,
            "details": {"type": ["object", "null"]},
            "changes": {"type": ["object", "null"]},
            "occurred_at": _MAYBE_TIME,
            "timestamp": _TIME,
            "traceparent": _MAYBE,
        }
    ),
    "Entity": _object(
        {
            "workspace_id": _TEXT,
            "type": _TEXT,
            "id": _TEXT,
            **dict.fromkeys(("identifier", "name", "status"), _MAYBE),
            "attributes": {"type": "object", "additionalProperties": _TEXT},
            "created_at": _TIME,
            "updated_at": _TIME,
            "deleted_at": _MAYBE_TIME,
        }
    ),
    "EventList": _list_of("events", "Event"),
    "EventPage": _object(
        {
            "events": {"type": "array", "items": _ref("Event")},
            "cursor": _TEXT,
            "position": _POSITION,
            "scanned_to": _POSITION,
        },
        optional=("cursor", "scanned_to"),
    ),
    "Workspace": _object(
        {
            "id": _TEXT,
            "name": _MAYBE,
            "org_id": _TEXT,
            "settings": {"type": "object"},
            "created_at": _TIME,
            "created_by": _TEXT,
            "position": _POSITION,
            "earliest": _POSITION,
        }
    ),
    "WorkspaceList": _list_of("workspaces", "Workspace"),
    "Key": (
        _key := _object(
            {
                "id": _TEXT,
                "name": _TEXT,
                "scopes": _SCOPES,
                "actor": _BOUND_ACTOR,
                "created_at": _TIME,
                "created_by": _TEXT,
                "expires_at": _MAYBE_TIME,
            }
        )
    ),
    "NewKey": _object(_key["properties"] | {"key": _TEXT}),
    "KeyList": _list_of("keys", "Key"),
    "Member": _object({"user": _TEXT, "role": {"enum": list(ROLES)}, "added_at": _TIME, "added_by": _TEXT}),
    "MemberList": _list_of("members", "Member"),
    "Session": _object(
        {
            "id": _TEXT,
            "name": _TEXT,
            "grants": {"type": "object", "additionalProperties": _SCOPES},
            "roles": {"type": "object", "additionalProperties": {"enum": list(ROLES)}},
            "actor": _BOUND_ACTOR,
            "expires_at": _MAYBE_TIME,
        }
    ),
    "Ticket": _object({"ticket": _TEXT, "expires_at": _TIME}),
    "Health": _object({"status": {"const": "ok"}}),
    "Error": _object(
        {
            "error": _object(
                {"code": _TEXT, "message": _TEXT, "request_id": _TEXT, "details": {"type": "object"}},
                optional=("details",),
            )
        }
    ),
}


def document() -> dict[str, Any]:
    """Return the OpenAPI document of this server."""
    components = dict(_SCHEMAS)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        if route.documented:
            paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "streamer", "version": __version__, "summary": "A durable, live and exact activity log."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "A key, `sk_…`, or a JSON Web Token."},
                "session": {"type": "apiKey", "in": "cookie", "name": "streamer_session"},
            },
        },
    }


def _operation(route: Route, components: dict[str, Schema]) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", route.path)
    parameters = [_parameter("path", name, *_PATH[name], required=True) for name in names]
    parameters += _query_parameters(route.params) if route.params is not None else []
    parameters += [_parameter("header", name, *_HEADERS[name]) for name in route.headers]
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "parameters": parameters,
        "responses": _responses(route),
        "security": [] if route.access.public else [{"key": []}, {"session": []}],
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _body(route, components)}
    return operation


def _query_parameters(model: type[Params]) -> list[dict[str, Any]]:
    found = []
    for name, schema in model.model_json_schema()["properties"].items():
        described = {key: value for key, value in schema.items() if key not in {"title", "description"}}
        if not described.get("default"):  # what is absent has no value that could be sent
            described.pop("default", None)
        if "anyOf" in described:
            options = [option for option in described.pop("anyOf") if option != {"type": "null"}]
            described |= options[0] if len(options) == 1 else {"anyOf": options}
        found.append(_parameter("query", name, schema["description"], described))
    return found


def _parameter(where: str, name: str, text: str, schema: Schema, *, required: bool = False) -> dict[str, Any]:
    return {
        "in": where,
        "name": name,
        "description": text,
        "schema": schema,
        "required": required,
    }


def _body(route: Route, components: dict[str, Schema]) -> dict[str, Any]:
    schema = route.body.json_schema(ref_template="#/components/schemas/{model}")
    components.update(schema.pop("$defs", {}))
    name = schema.get("title", route.operation)
    components[name] = schema
    if route.body is not schemas.EVENT:
        return {"application/json": {"schema": _ref(name)}}
    events = {"type": "array", "items": _ref(name), "minItems": 1, "maxItems": 1000}
    return {
        "application/json": {"schema": {"anyOf": [_ref(name), events]}},
        "application/x-ndjson": {"schema": {"type": "string", "description": "One event a line."}},
    }


def _responses(route: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, kind, text in route.answers:
        responses[str(status)] = {"description": text} | _content(kind)
    statuses = set(route.errors) | ({_BAD_REQUEST} if route.params or route.headers or route.body else set())
    if not route.access.public:
        statuses |= {401, 403}
        if "{ws}" in route.path:
            statuses.add(404)
    known = sorted({*_all_errors()}, key=lambda error: error.code)
    for status in sorted(statuses | {500, 503} if route.documented else statuses):
        codes = ", ".join(f"`{error.code}`" for error in known if error.status == status)
        responses[str(status)] = {"description": codes} | _content("Error")
    return responses


def _all_errors() -> list[type[errors.StreamerError]]:
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.StreamerError) and value is not errors.StreamerError
    ]


def _content(kind: str) -> dict[str, Any]:
    if not kind:
        return {}
    if "/" in kind:
        return {"content": {kind: {"schema": _TEXT}}}
    if kind == "object":
        return {"content": {"application/json": {"schema": {"type": "object"}}}}
    names = kind.split(" | ")
    schema = _ref(names[0]) if len(names) == 1 else {"oneOf": [_ref(name) for name in names]}
    return {"content": {"application/json": {"schema": schema}}}
