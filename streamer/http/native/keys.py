"""Keys of a workspace."""

from http import HTTPStatus
from typing import Annotated, Literal

from aiohttp import web
from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, with_config
from typing_extensions import TypedDict

from streamer.access.authorize import PRINCIPAL, Access
from streamer.access.keys import Keyring
from streamer.access.manage import Administration
from streamer.access.principal import ADMIN, SCOPES, TEMPLATES
from streamer.core.clock import LAST, format_timestamp, now_us, parse_timestamp
from streamer.core.errors import NotFound, ValidationError
from streamer.core.ids import is_id
from streamer.http.native.lists import listed
from streamer.http.native.params import ListParams
from streamer.http.native.schemas import ANSWER, STRICT, Actor, Name, Time, Timestamp, Word
from streamer.http.operation import WORKSPACE, Operation, Resource
from streamer.http.responses import json_answer
from streamer.http.services import Services
from streamer.ingest.intake import Intake
from streamer.store.log.reader import SqlLog
from streamer.store.records.credentials import Credential


class _RequiredKey(TypedDict):
    name: Annotated[Name, StringConstraints(min_length=1)]


@with_config(STRICT)
class KeyActorIn(TypedDict):
    """The actor that a key acts as."""

    type: Word
    id: Word


@with_config(STRICT | ConfigDict(json_schema_extra={"oneOf": [{"required": ["scopes"]}, {"required": ["template"]}]}))
class KeyIn(_RequiredKey, total=False):
    """A key to be made: either `scopes` or a `template` of them."""

    scopes: Annotated[list[Literal[*SCOPES]], Field(min_length=1, max_length=len(SCOPES))]  # type: ignore[valid-type]
    template: Literal[*TEMPLATES]  # type: ignore[valid-type]
    actor: Annotated[KeyActorIn | None, Field(description="The key acts as this actor and no other.")]
    expires_at: Timestamp | None


@with_config(ANSWER)
class Key(TypedDict):
    """A key, without its secret."""

    id: str
    name: str
    scopes: list[str]
    actor: Actor | None
    created_at: Time
    created_by: str
    expires_at: Time | None


@with_config(ANSWER)
class NewKey(Key):
    """A key with its secret, which is shown only once."""

    key: str


@with_config(ANSWER)
class KeyList(TypedDict):
    """Keys in order of their ids."""

    keys: list[Key]


class KeyHandlers:
    """One method for each operation."""

    def __init__(self, services: Services) -> None:
        self._administration = services.get(Administration)
        self._keyring = services.get(Keyring)
        self._log = services.get(SqlLog)
        self._rate = services.get(Intake).rate

    async def create_key(self, request: web.Request, wanted: KeyIn) -> web.StreamResponse:
        principal = request[PRINCIPAL]
        if ("scopes" in wanted) == ("template" in wanted):
            raise ValidationError({"scopes": "send either scopes or a template"})
        expiry = wanted.get("expires_at")
        expires_at = parse_timestamp(expiry) if expiry else None
        if expires_at is not None and not now_us() < expires_at <= LAST:
            raise ValidationError({"expires_at": "must lie in the future, and not after the year 9999"})
        actor = wanted.get("actor")
        self._rate.take(principal.account, 1)
        made, secret = await self._administration.create_key(
            principal,
            request[WORKSPACE],
            name=wanted["name"],
            scopes=wanted["scopes"] if "scopes" in wanted else TEMPLATES[wanted["template"]],
            actor=(actor["type"], actor["id"]) if actor else None,
            expires_at=expires_at,
        )
        body: NewKey = {**_key(made), "key": secret}
        return json_answer(body, HTTPStatus.CREATED)

    async def list_keys(self, request: web.Request, wanted: ListParams) -> web.StreamResponse:
        workspace = request[WORKSPACE]
        await self._log.head(workspace)
        found = await self._keyring.keys(workspace, after=wanted.after, limit=wanted.limit)
        body: KeyList = {"keys": [_key(key) for key in found]}
        return listed(request, body, [key.id for key in found], wanted.limit)

    async def revoke_key(self, request: web.Request) -> web.StreamResponse:
        key_id = request.match_info["id"]
        if not is_id(key_id):
            raise NotFound("no such key in this workspace")
        await self._administration.revoke_key(request[PRINCIPAL], request[WORKSPACE], key_id)
        return web.Response(status=HTTPStatus.NO_CONTENT)


def _key(key: Credential) -> Key:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.grants.get(key.workspace or "", ())),
        "actor": {"type": key.actor[0], "id": key.actor[1]} if key.actor else None,
        "created_at": format_timestamp(key.created_at),
        "created_by": key.created_by,
        "expires_at": format_timestamp(key.expires_at) if key.expires_at is not None else None,
    }


_PATH = "/v1/workspaces/{ws}/keys"

KEYS = Resource(
    KeyHandlers,
    (
        Operation(
            "POST",
            _PATH,
            KeyHandlers.create_key,
            "Make a key for the workspace; its secret is shown only here",
            Access(ADMIN),
            body=TypeAdapter(KeyIn),
            answers={201: (NewKey, "Made.")},
            errors=(400, 404, 408, 413, 415, 429),
        ),
        Operation(
            "GET",
            _PATH,
            KeyHandlers.list_keys,
            "List the workspace's keys, without their secrets",
            Access(ADMIN),
            params=ListParams,
            answers={200: (KeyList, "In order of their ids.")},
            errors=(400, 404),
        ),
        Operation(
            "DELETE",
            f"{_PATH}/{{id}}",
            KeyHandlers.revoke_key,
            "Revoke a key; its streams are closed",
            Access(ADMIN),
            answers={204: (None, "Revoked.")},
            errors=(400, 404),
        ),
    ),
)
