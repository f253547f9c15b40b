"""The OpenAPI document describes the input and responses of every route, and the server conforms to it."""

import asyncio
import copy
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import jsonschema_rs
import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events as happened
from schemathesis.engine import from_schema

from streamer import __version__
from streamer.app import Server
from streamer.core.filter import FILTER_FIELDS, MAX_VALUES
from streamer.http.native.params import FILTER_PATTERNS
from streamer.http.native.routes import ROUTES
from streamer.server.connection import MAX_HEADER
from tests.conftest import ADMIN_KEY
from tests.support.api import Answer, Api, events, make_event
from tests.support.waiting import SECONDS

Document = dict[str, Any]

METHODS = {"get", "put", "post", "delete"}

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
async def document(api: Api) -> Document:
    """Fetch the document as a client does, without a key."""
    answer = await api.with_key(None).get("/openapi.json")
    assert answer.headers["Content-Type"] == "application/json"
    found = answer.expect(200)
    assert isinstance(found, dict)
    return found


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    """Return each operation with its method and path."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert method in METHODS
            yield method.upper(), path, operation


def resolve(document: Document, reference: str) -> Any:
    """Return the target of a `$ref`."""
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(value: Any) -> Iterator[str]:
    """Return all `$ref` below a value."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


# ---- the document


@on_sqlite
async def test_it_is_a_valid_document(document: Document) -> None:
    """The document is valid OpenAPI 3.1, all its schemas are JSON Schema, and every reference has a target."""
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["version"] == __version__
    schemathesis.openapi.from_dict(document).validate()
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
    found = set(references(document))
    assert found
    for reference in found:
        assert isinstance(resolve(document, reference), dict), reference
    unused = set(document["components"]["schemas"]) - {reference.rpartition("/")[2] for reference in found}
    assert unused == set()


@on_sqlite
async def test_every_route_is_in_it(document: Document) -> None:
    """Every route of the API occurs once, with a name, path parameters, required access and responses."""
    described = {(method, path): operation for method, path, operation in operations(document)}
    assert set(described) == {(route.method, route.path) for route in ROUTES if route.documented}
    assert {route.path for route in ROUTES if not route.documented} == {"/", "/static/{file}"}
    names = [operation["operationId"] for operation in described.values()]
    assert len(set(names)) == len(names)
    for route in ROUTES:
        if not route.documented:
            continue
        operation = described[route.method, route.path]
        assert operation["operationId"] == route.operation
        assert operation["summary"]
        parameters = [(parameter["in"], parameter["name"]) for parameter in operation["parameters"]]
        assert len(set(parameters)) == len(parameters)
        in_path = {name for where, name in parameters if where == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", route.path))
        assert all(parameter["description"] for parameter in operation["parameters"])
        assert bool(operation["security"]) is not route.access.public
        answers = set(operation["responses"])
        assert any(status.startswith("2") or status == "101" for status in answers)
        assert ("401" in answers) is (not route.access.public or route.operation == "sign_in")
        assert ("requestBody" in operation) is (route.method in {"POST", "PUT"})
        assert "413" in answers or "requestBody" not in operation


@on_sqlite
async def test_every_error_is_in_it(document: Document) -> None:
    """Each error response lists its possible codes, and all share one schema."""
    said: set[str] = set()
    for _, path, operation in operations(document):
        for status, answer in operation["responses"].items():
            if status >= "400":
                codes = set(re.findall(r"`(\w+)`", answer["description"]))
                assert codes, (path, status)
                assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Error"}
                said |= codes
    assert {
        "validation_error",
        "invalid_cursor",
        "id_conflict",
        "position_expired",
        "overloaded",
        "rate_limited",
    } <= said


def conforms(document: Document, operation_id: str, answer: Answer) -> None:
    """Check a response against the document."""
    found = {operation["operationId"]: operation for _, _, operation in operations(document)}[operation_id]
    response = found["responses"][str(answer.status)]
    if "content" not in response:
        assert answer.body == b""
        return
    schema = response["content"][answer.headers["Content-Type"].partition(";")[0]]["schema"]
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": document["components"], **schema}
    value = answer.json if "json" in answer.headers["Content-Type"] else answer.body.decode()
    jsonschema_rs.validator_for(whole, validate_formats=True).validate(value)


async def test_successes_and_failures_conform(server: Server, api: Api, document: Document) -> None:
    """Each operation's success, and each kind of error that a test can cause, conforms to the document."""
    path = events("w")
    full = make_event(
        id="e1", entity={"type": "issue", "id": "1"}, agent_id="a", details={"_previous": {"a": 1}},
        occurred_at="2026-11-21T06:22:04.5+01:00", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )  # fmt: skip
    seen: list[tuple[str, int, Answer]] = [
        ("put_workspace", 201, await api.put("/v1/workspaces/w", {"name": "W", "settings": {"a": [1]}})),
        ("put_workspace", 200, await api.put("/v1/workspaces/w", {})),
        ("get_workspace", 200, await api.get("/v1/workspaces/w")),
        ("list_workspaces", 200, await api.get("/v1/workspaces")),
        ("append_events", 201, await api.post(path, full)),
        ("append_events", 200, await api.post(path, full)),
        ("append_events", 409, await api.append("w", id="e1", action="x.y")),
        ("append_events", 201, await api.append_all("w", [{}, {"details": {"a": None}}])),
        ("append_events", 200, await api.post(path, data=json.dumps(full).encode(), headers={"Content-Type": "application/x-ndjson"})),
        ("append_events", 400, await api.post(path, data=b"{")),
        ("append_events", 415, await api.post(path, data=b"{", headers={"Content-Type": "text/plain"})),
        ("append_events", 413, await api.append("w", details={"a": "x" * 300_000})),
        ("append_events", 401, await api.with_key(None).append("w")),
        ("list_events", 200, await api.get(path)),
        ("list_events", 200, await api.get(path, limit=1)),
        ("list_events", 400, await api.get(path, limit=0)),
        ("list_events", 400, await api.get(path, cursor="x")),
        ("list_events", 410, await api.get(path, after="a.5")),
        ("get_event", 200, await api.get(f"{path}/e1")),
        ("get_event", 404, await api.get(f"{path}/e2")),
        ("get_entity", 200, await api.get("/v1/workspaces/w/entities/issue/1")),
        ("get_entity", 404, await api.get("/v1/workspaces/w/entities/issue/2")),
        ("create_key", 201, created := await api.post("/v1/workspaces/w/keys", {"name": "x", "template": "read_only"})),
        ("create_key", 201, await api.post(
            "/v1/workspaces/w/keys",
            {"name": "x", "scopes": ["workspace:write"], "actor": {"type": "a", "id": "b"}, "expires_at": "2999-01-01T00:00:00Z"},
        )),
        ("list_keys", 200, await api.get("/v1/workspaces/w/keys")),
        ("append_events", 403, await api.with_key(created.json["key"]).append("w")),
        ("list_events", 404, await api.with_key(created.json["key"]).get(events("v"))),
        ("metrics", 403, await api.with_key(created.json["key"]).get("/metrics")),
        ("metrics", 200, await api.get("/metrics")),
        ("get_session", 200, await api.with_key(created.json["key"]).get("/v1/session")),
        ("sign_out", 400, await api.delete("/v1/session")),
        ("sign_in", 401, await api.with_key(None).post("/v1/session", {"code": "x"})),
        ("sign_in", 200, signed_in := await api.with_key(None).post("/v1/session", {"code": await server.keyring.create_sign_in()})),
        ("sign_out", 204, await api.with_key(None).delete(
            "/v1/session", headers={"Cookie": signed_in.headers["Set-Cookie"].split(";")[0], "Origin": server.url}
        )),
        ("create_ticket", 201, await api.post("/v1/tickets", {"workspace": "w", "action": ["a.*", "b"], "q": "x"})),
        ("create_ticket", 400, await api.post("/v1/tickets", {"workspace": "w", "action": "*a"})),
        ("create_ticket", 404, await api.with_key(created.json["key"]).post("/v1/tickets", {"workspace": "v"})),
        ("open_socket", 400, await api.get(f"{path}/ws")),
        ("open_socket", 401, await api.with_key(None).get(f"{path}/ws", ticket="x")),
        ("open_shared_socket", 400, await api.get("/v1/ws")),
        ("list_events", 200, await api.get(path, after="2000-01-01T00:00:00Z", wait=1)),
        ("list_events", 400, await api.get(path, wait=1)),
        ("put_member", 201, await api.put("/v1/workspaces/w/members/ann", {"role": "owner"})),
        ("put_member", 200, await api.put("/v1/workspaces/w/members/ann", {"role": "admin"})),
        ("put_member", 400, await api.put("/v1/workspaces/w/members/ann", {"role": "king"})),
        ("get_member", 200, await api.get("/v1/workspaces/w/members/ann")),
        ("get_member", 404, await api.get("/v1/workspaces/w/members/bob")),
        ("list_members", 200, await api.get("/v1/workspaces/w/members")),
        ("remove_member", 204, await api.delete("/v1/workspaces/w/members/ann")),
        ("remove_member", 404, await api.delete("/v1/workspaces/w/members/ann")),
        ("revoke_key", 204, await api.delete(f"/v1/workspaces/w/keys/{created.json['id']}")),
        ("revoke_key", 404, await api.delete(f"/v1/workspaces/w/keys/{created.json['id']}")),
        ("delete_workspace", 204, await api.delete("/v1/workspaces/w")),
        ("delete_workspace", 404, await api.delete("/v1/workspaces/w")),
        ("livez", 200, await api.get("/livez")),
        ("readyz", 200, await api.get("/readyz")),
        ("openapi", 200, await api.get("/openapi.json")),
        ("list_nodes", 200, await api.get("/v1/nodes")),
    ]  # fmt: skip
    for operation, status, answer in seen:
        assert answer.status == status, (operation, answer.body)
        conforms(document, operation, answer)
    assert {operation for operation, status, _ in seen if status < 300} == {
        route.operation for route in ROUTES if route.documented and not route.streams
    }


# ---- schemathesis


def as_the_admin_key_meets_it(document: Document) -> Document:
    """Return the document with its descriptions turned into schemas, so that data generated as valid is valid.

    A key that is bound to no actor must send an actor, a cursor must come from the server, an expiry must be in the
    future, and a ticket needs an existing workspace.
    """
    tight = copy.deepcopy(document)
    schemas = tight["components"]["schemas"]
    word = next(option for option in schemas["ActorIn"]["properties"]["type"]["anyOf"] if option["type"] == "string")
    schemas["ActorIn"] |= {"required": ["type", "id"]}
    schemas["ActorIn"]["properties"] |= {"type": word, "id": word}
    schemas["EventIn"]["required"].append("actor")
    schemas["EventIn"]["properties"]["actor"] = {"$ref": "#/components/schemas/ActorIn"}
    schemas["TicketIn"]["properties"]["workspace"] = {"const": "w"}
    del schemas["KeyIn"]["properties"]["expires_at"]
    for _, path, operation in operations(tight):
        # `wait` is valid only with certain other parameters, and a valid one waits.
        operation["parameters"] = [one for one in operation["parameters"] if one["name"] not in {"cursor", "wait"}]
        for parameter in operation["parameters"]:
            if parameter["in"] == "path":
                ids = {"id": "known", "user": "ann", "type": "issue", "entity": "1"}
                # A separate workspace to delete, because schemathesis chooses the order of operations.
                ids["ws"] = "gone" if operation["operationId"] == "delete_workspace" else "w"
                parameter["example"] = "w" if "keys" in path else ids[parameter["name"]]
    return tight


def examine(
    url: str, document: Document, *, key: str = ADMIN_KEY, **generation: Any
) -> tuple[list[str], dict[str, Counter[int]]]:
    """Let schemathesis try every operation except streams. Return its findings and the statuses of each operation."""
    config = SchemathesisConfig.from_dict(
        {
            "base-url": url,
            "headers": {"Authorization": f"Bearer {key}"},
            "seed": generation.pop("seed", None) or 1,
            "cache": {"enabled": False},
            "generation": {"database": "none", **generation},
            "continue-on-failure": True,
            "request-timeout": SECONDS,
            "operations": [
                # These never end, or are not plain HTTP.
                *({"include-operation-id": route.operation, "enabled": False} for route in ROUTES if route.streams),
                # A well-formed position is rarely one of this log.
                {
                    "include-operation-id": "list_events",
                    "checks": {"positive_data_acceptance": {"expected-statuses": ["200", "404", "410"]}},
                },
                # A key has no session to end.
                {
                    "include-operation-id": "sign_out",
                    "checks": {"positive_data_acceptance": {"expected-statuses": ["204", "400"]}},
                },
            ],
        }
    )
    schema = schemathesis.openapi.from_dict(document, config=config)

    @schema.hook
    def filter_case(_: schemathesis.HookContext, case: schemathesis.Case[Any]) -> bool:
        """Skip cases with more filter values or a longer query than allowed, because no schema can express this."""
        body = case.body if isinstance(case.body, dict) else {}
        given = [{**case.query, **body}.get(name, []) for name in FILTER_FIELDS]
        lists = [value if isinstance(value, list) else [value] for value in given]
        values = sum(str(item).count(",") + 1 for items in lists for item in items)
        return values <= MAX_VALUES and len(urlencode(case.query, doseq=True)) < MAX_HEADER // 2

    wrong: list[str] = []
    statuses: dict[str, Counter[int]] = {}
    for event in from_schema(schema).execute():
        if isinstance(event, happened.ScenarioFinished):
            for case_id, interaction in event.recorder.interactions.items():
                operation = event.recorder.cases[case_id].value.operation
                status = interaction.response.status_code if interaction.response else 0
                statuses.setdefault(operation.label, Counter())[status] += 1
            for case_id, checks in event.recorder.checks.items():
                for check in checks:
                    if check.name == "positive_data_acceptance" and _is_linked(event.recorder.cases[case_id].value):
                        continue
                    if check.failure_info is not None:
                        failure = check.failure_info.failure
                        wrong.append(
                            f"{check.name}: {failure.title}: {failure.message}\n{check.failure_info.code_sample}"
                        )
        elif isinstance(event, happened.NonFatalError):
            wrong.append(f"{event.label}: {event.value!r}")
        elif isinstance(event, happened.FatalError):
            raise event.exception
    return wrong, statuses


def _is_linked(case: schemathesis.Case[Any]) -> bool:
    """Return whether schemathesis took a filter's value from a response, and so wrongly considers it valid."""
    given = [(name, case.query[name]) for name in FILTER_FIELDS if name in case.query]
    values = [(name, value) for name, each in given for value in (each if isinstance(each, list) else [each])]
    return any(not re.search(FILTER_PATTERNS[name], str(value)) for name, value in values)


async def examine_server(server: Server, api: Api, document: Document, **generation: Any) -> None:
    """Test a server that holds data, and require that operations both succeeded and failed."""
    (await api.append("w", id="known", entity={"type": "issue", "id": "1"})).expect(201)
    (await api.append("gone")).expect(201)
    wrong, statuses = await asyncio.to_thread(examine, server.url, as_the_admin_key_meets_it(document), **generation)
    assert wrong == [], f"{len(wrong)} errors, the first:\n" + "\n\n".join(text[:1500] for text in wrong[:5])
    assert len(statuses) == sum(route.documented and not route.streams for route in ROUTES)
    for route in ROUTES:
        if not route.documented or route.streams:
            continue
        found = statuses[f"{route.method} {route.path}"]
        assert 0 not in found, route
        assert any(status < 300 for status in found) or route.operation in {"sign_in", "sign_out", "revoke_key"}, (
            route,
            found,
        )
        assert any(400 <= status < 500 for status in found), (route, found)


@on_sqlite  # test_fuzz.py does the same on PostgreSQL
async def test_the_server_keeps_to_it(server: Server, api: Api, document: Document) -> None:
    """Whatever schemathesis sends, the server returns documented responses and no 5xx, and accepts valid data only."""
    await examine_server(server, api, document, **{"max-examples": 15, "seed": 1})


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [11, 12, 13])
async def test_the_server_keeps_to_it_for_long(server: Server, api: Api, document: Document, seed: int) -> None:
    """The same holds with many more examples."""
    await examine_server(server, api, document, **{"max-examples": 300, "seed": seed})
