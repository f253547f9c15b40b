"""The OpenAPI 3.1 document, made from the operations and their models."""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from streamer import __version__
from streamer.core import errors
from streamer.core.filter import MAX_VALUE_LENGTH
from streamer.core.ids import ID_PATTERN
from streamer.http.models import NoParams, Params
from streamer.http.native import schemas
from streamer.http.native.params import POSITION_SCHEMA
from streamer.http.operation import Operation

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
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
    "user": (
        "The person: the `sub` of their tokens.",
        {"type": "string", "minLength": 1, "maxLength": MAX_VALUE_LENGTH, "pattern": "^[^\\u0000]*$"},
    ),
    "file": ("The file's name.", _TEXT),
}


def _object(properties: dict[str, Schema], *, optional: tuple[str, ...] = ()) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_ERROR = _object(
    {
        "error": _object(
            {"code": _TEXT, "message": _TEXT, "request_id": _TEXT, "details": {"type": "object"}},
            optional=("details",),
        )
    }
)


class OpenApi:
    """The document of a server that has these operations."""

    def __init__(self, operations: Sequence[Operation], public_url: str | None) -> None:
        self._operations = operations
        self._public_url = public_url

    @cached_property
    def document(self) -> dict[str, Any]:
        """The document."""
        servers = {"servers": [{"url": self._public_url}]} if self._public_url else {}
        return document(self._operations) | servers


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the OpenAPI document of these operations."""
    components: dict[str, Schema] = {"Error": _ERROR}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        if operation.documented:
            paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, components)
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


def _operation(route: Operation, components: dict[str, Schema]) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", route.path)
    parameters = [_parameter("path", name, *_PATH[name], required=True) for name in names]
    parameters += _query_parameters(route.params) if route.params not in {None, NoParams} else []
    parameters += [_parameter("header", name, *_HEADERS[name]) for name in route.headers]
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "parameters": parameters,
        "responses": _responses(route, components),
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


def _body(route: Operation, components: dict[str, Schema]) -> dict[str, Any]:
    assert route.body is not None  # noqa: S101 - the caller looked
    schema = _component(route.body, components, "validation")
    if route.body is not schemas.EVENT:
        return {"application/json": {"schema": schema}}
    events = {"type": "array", "items": schema, "minItems": 1, "maxItems": 1000}
    return {
        "application/json": {"schema": {"anyOf": [schema, events]}},
        "application/x-ndjson": {"schema": {"type": "string", "description": "One event a line."}},
    }


def _component(adapter: TypeAdapter[Any], components: dict[str, Schema], mode: JsonSchemaMode) -> Schema:
    """Add a model to the components, and what it is made of. Returns the reference to it."""
    schema = adapter.json_schema(ref_template="#/components/schemas/{model}", mode=mode)
    components.update(schema.pop("$defs", {}))
    name = schema["title"]
    components[name] = schema
    return _ref(name)


def _responses(route: Operation, components: dict[str, Schema]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, (model, text) in route.answers.items():
        responses[str(status)] = {"description": text} | _content(model, components)
    statuses = set(route.errors) | ({_BAD_REQUEST} if route.query or route.headers or route.body else set())
    if not route.access.public:
        statuses |= {401, 403}
        if "{ws}" in route.path:
            statuses.add(404)
    known = sorted({*_all_errors()}, key=lambda error: error.code)
    for status in sorted(statuses | {500, 503} if route.documented else statuses):
        codes = ", ".join(f"`{error.code}`" for error in known if error.status == status)
        responses[str(status)] = {"description": codes} | _json(_ref("Error"))
    return responses


def _all_errors() -> list[type[errors.StreamerError]]:
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.StreamerError) and value is not errors.StreamerError
    ]


def _content(model: Any, components: dict[str, Schema]) -> dict[str, Any]:
    if model is None:
        return {}
    if isinstance(model, str):
        return {"content": {model: {"schema": _TEXT}}}
    if model is dict:
        return _json({"type": "object"})
    if isinstance(model, tuple):
        return _json({"oneOf": [_component(TypeAdapter(one), components, "serialization") for one in model]})
    return _json(_component(TypeAdapter(model), components, "serialization"))


def _json(schema: Schema) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}
