"""WebSockets: several subscriptions on one socket, publishing, messages, close codes and frames."""

import asyncio
import json
import sys
from typing import Any

import aiohttp
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.access.authorize import COOKIE
from streamer.app import Server
from streamer.core.filter import FILTER_FIELDS
from tests.conftest import ADMIN_KEY, MakeProcess, MakeServer
from tests.support.api import Api, events, make_event
from tests.support.readers import BEGINNING, CODES
from tests.support.waiting import SECONDS, eventually
from tests.support.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    WsReader,
    encode_frame,
    open_socket,
)

# Tests that do not depend on the database.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

WS = "sockets"


def subscribe(sub: str, workspace: str = WS, **options: object) -> dict[str, object]:
    """Return the message that subscribes."""
    return {"type": "subscribe", "sub": sub, "workspace": workspace, **options}


def publish(ref: str | None = None, workspace: str = WS, **options: object) -> dict[str, object]:
    """Return the message that appends, with one event by default."""
    message: dict[str, object] = {"type": "publish", "workspace": workspace, **options}
    if not {"event", "events"} & set(options):
        message["event"] = make_event()
    if ref is not None:
        message["ref"] = ref
    return message


def error_of(answer: Any, code: str, *fields: str) -> Any:
    """Require that a response is this error with these wrong fields, in the documented form; return it."""
    assert answer["type"] == "error", answer
    assert set(answer) <= {"type", "error", "sub", "ref"}
    assert set(answer["error"]) <= {"code", "message", "details"}
    assert answer["error"]["code"] == code, answer
    assert isinstance(answer["error"]["message"], str)
    if code == "validation_error":
        assert set(answer["error"]["details"]["fields"]) == set(fields), answer
    return answer


async def is_alive(socket: WsReader) -> None:
    """Require that the socket still responds, and that nothing else arrives."""
    await socket.send({"type": "ping", "ref": "alive"})
    assert await socket.next() == {"type": "pong", "ref": "alive"}


# ---- the handshake


@on_sqlite
async def test_the_handshake_has_no_extension(api: Api) -> None:
    """The server declines compression on both sockets. The subscription of a workspace's socket is `default`."""
    (await api.append(WS)).expect(201)
    async with await open_socket(api, WS) as socket, await open_socket(api) as many:
        assert (socket.status, many.status) == (101, 101)
        assert "sec-websocket-extensions" not in socket.headers | many.headers
        synced = await socket.next()
        assert synced == {"type": "synced", "sub": "default", "position": synced["position"]}
        await is_alive(many)  # nothing came before: it starts without a subscription
        stored = (await api.append(WS, description="aaaa" * 20_000)).expect(201)
        message = await socket.next()  # the bit for compression is checked in every frame
        assert message == {"type": "events", "sub": "default", "events": [stored], "position": message["position"]}


@on_sqlite
async def test_the_handshake_is_guarded(server: Server, api: Api) -> None:
    """Without a credential, it gets 401, with unknown parameters 400, and a plain GET gets 400 that says what is missing."""
    (await api.append(WS)).expect(201)
    for workspace in (WS, None):
        for key in (None, "garbage"):
            answer = await (await open_socket(api.with_key(key), workspace)).answer()
            assert (answer.status, answer.error) == (401, "unauthenticated")
        answer = await (await open_socket(api, workspace, bogus="1")).answer()
        assert list(answer.expect(400)["error"]["details"]["fields"]) == ["bogus"]
        path = "/v1/ws" if workspace is None else f"{events(workspace)}/ws"
        assert (await api.get(path)).error == "validation_error"
        for sent in ({"Sec-WebSocket-Version": "12"}, {"Sec-WebSocket-Key": "short"}, {"Upgrade": "h2c"}):
            refused = await (await open_socket(api, workspace, headers=sent)).answer()
            assert 400 <= refused.status < 500, sent
            assert refused.error
    answer = await (await open_socket(api, after="2000-01-01T00:00:00Z")).answer()
    assert list(answer.expect(400)["error"]["details"]["fields"]) == ["after"]  # there is no subscription yet
    assert server.url


@on_sqlite
async def test_a_session_needs_its_own_origin(server: Server, api: Api) -> None:
    """With the cookie, only this server's own page can open a socket, because another site's page could read with it."""
    (await api.append(WS)).expect(201)
    code = (await server.sign_in_link()).partition("#sign-in=")[2]
    signed_in = await api.with_key(None).post("/v1/session", {"code": code})
    cookie = {"Cookie": signed_in.headers["Set-Cookie"].split(";")[0]}
    assert cookie["Cookie"].startswith(COOKIE)
    nobody = api.with_key(None)
    for workspace in (WS, None):
        for origin in (
            None,
            "null",
            "http://evil.example",
            f"{server.url}.evil.example",
            f"http://evil@{server.url[7:]}",
        ):
            headers = cookie if origin is None else {**cookie, "Origin": origin}
            answer = await (await open_socket(nobody, workspace, headers=headers)).answer()
            assert (answer.status, answer.error) == (403, "permission_denied"), origin
        async with await open_socket(nobody, workspace, headers={**cookie, "Origin": server.url}) as socket:
            assert socket.status == 101
            assert (await socket.ask(publish(), "published"))["type"] == "published"


# ---- several subscriptions


async def test_many_subscriptions_on_one_socket(api: Api) -> None:
    """Each subscription has its own workspace, position and filter, and advances independently."""
    for workspace in ("one", "two"):
        (
            await api.append_all(workspace, [{"action": f"issue.{verb}"} for verb in ("created", "updated", "closed")])
        ).expect(201)
    epoch = (await api.get(events("one"))).expect(200)["position"].rpartition(".")[0]
    socket = await open_socket(api)
    wanted = [
        subscribe("all of one", "one", after=BEGINNING),
        subscribe("rest of one", "one", after=f"{epoch}.2"),
        subscribe("some of two", "two", after=BEGINNING, action=["issue.created", "issue.closed"]),
        subscribe("none of two", "two", after=BEGINNING, action="!issue.*"),
        subscribe("one from now", "one", q="CLOSED"),
    ]
    for message in wanted:
        await socket.send(message)
    expected = {
        "all of one": [1, 2, 3],
        "rest of one": [3],
        "some of two": [1, 3],
        "none of two": [],
        "one from now": [],
    }

    def seen() -> dict[str, list[int]]:
        found: dict[str, list[int]] = {str(message["sub"]): [] for message in wanted}
        for message in socket.messages:
            found[message["sub"]] += [event["seq"] for event in message.get("events", [])]
        return found

    for _ in wanted:
        await socket.next("synced")
    assert seen() == expected
    for workspace in ("one", "two"):
        (await api.append_all(workspace, [{"action": "issue.closed"}, {"action": "issue.updated"}])).expect(201)
    expected = {
        "all of one": [1, 2, 3, 4, 5],
        "rest of one": [3, 4, 5],
        "some of two": [1, 3, 4],
        "none of two": [],
        "one from now": [4],
    }
    while seen() != expected:
        await socket.next("events")
    assert {event["workspace_id"] for event in events_of(socket, "some of two")} == {"two"}
    socket.abort()
    # Each continues from its own position.
    for workspace in ("one", "two"):
        (await api.append(workspace, action="issue.created")).expect(201)
    again = await open_socket(api)
    for message in wanted:
        await again.send(message | {"after": socket.positions[str(message["sub"])]})
    socket.messages, more = again.messages, [6, 6, 4]
    for _ in wanted:
        await again.next("synced")
    found = {sub: seqs for sub, seqs in seen().items() if sub in {"all of one", "rest of one"}}
    assert found == {"all of one": [6], "rest of one": [6]}, more
    assert [seq for seq in seen()["some of two"] if seq > 4] == [6]
    again.close()


def events_of(socket: WsReader, sub: str) -> list[dict[str, Any]]:
    """Return the events of a subscription so far."""
    return [event for message in socket.messages if message.get("sub") == sub for event in message.get("events", [])]


@on_sqlite
async def test_more_subscriptions_on_a_workspaces_own_socket(api: Api) -> None:
    """A workspace's socket accepts more subscriptions of its workspace, which is the default. Either side may end them."""
    for workspace in (WS, "other"):
        (await api.append(workspace)).expect(201)
    socket = await open_socket(api, WS, after=BEGINNING, action="issue.created")
    assert [event["seq"] for event in await socket.events(1, "default")] == [1]
    await socket.next("synced")
    await socket.send({"type": "subscribe", "sub": "more", "after": BEGINNING})
    assert (await socket.next("events", sub="more"))["events"][0]["workspace_id"] == WS
    await socket.next("synced", sub="more")
    error_of(await socket.ask(subscribe("elsewhere", "other")), "validation_error", "workspace")
    error_of(await socket.ask(publish(workspace="other")), "validation_error", "workspace")
    error_of(await socket.ask(subscribe("default")), "validation_error", "sub")
    stored = await socket.ask(publish(), "published")
    assert stored["events"][0]["seq"] == 2
    closed = await socket.ask({"type": "unsubscribe", "sub": "more"}, "closed")
    assert closed == {"type": "closed", "sub": "more", "reason": "unsubscribed", "reconnect": False}
    (await api.append(WS)).expect(201)
    while [event["seq"] for event in events_of(socket, "default")] != [1, 2, 3]:
        await socket.next("events")
    closed = await socket.ask({"type": "unsubscribe", "sub": "default"}, "closed")
    assert closed == {"type": "closed", "sub": "default", "reason": "unsubscribed", "reconnect": False}
    (await api.append(WS)).expect(201)
    await socket.send({"type": "subscribe", "sub": "default"})
    await socket.next("synced", sub="default")
    assert len(events_of(socket, "default")) == 3, "no event from before the new subscription"
    (await api.delete(f"/v1/workspaces/{WS}")).expect(204)
    assert (await socket.closed())[0] == 4500


@on_sqlite
async def test_a_socket_for_many_outlives_its_subscriptions(api: Api) -> None:
    """When a workspace is deleted, its subscriptions close, the others continue, and the name can be reused."""
    for workspace in ("one", "two"):
        (await api.append(workspace)).expect(201)
    async with await open_socket(api) as socket:
        await socket.send(subscribe("a", "one"))
        await socket.next("synced", sub="a")
        await socket.send(subscribe("b", "two"))
        await socket.next("synced", sub="b")
        (await api.delete("/v1/workspaces/one")).expect(204)
        closed = await socket.next("closed")
        assert closed == {"type": "closed", "sub": "a", "reason": "workspace_deleted", "reconnect": False}
        (await api.append("two", id="still")).expect(201)
        assert (await socket.events(1, "b"))[0]["id"] == "still"
        await socket.send(subscribe("a", "two", after=BEGINNING))
        assert len(await socket.events(2, "a")) == 2


async def test_nothing_comes_after_closed(api: Api) -> None:
    """Under load, no event follows a subscription's `closed`, and a new one of the same name resumes exactly."""
    (await api.append(WS)).expect(201)

    async def load() -> None:
        for _ in range(60):
            (await api.append_all(WS, [{}] * 10)).expect(201)

    loading = asyncio.create_task(load())
    seqs: list[int] = []
    rounds = 0
    async with await open_socket(api) as socket:
        await socket.send(subscribe("other"))
        position = BEGINNING
        while len(seqs) < 601:
            await socket.send(subscribe("mine", after=position))
            message = await socket.next("events", sub="mine")
            await socket.send({"type": "unsubscribe", "sub": "mine"})
            while message["type"] != "closed":
                seqs += [event["seq"] for event in message.get("events", [])]
                message = await socket.next(sub="mine")
            assert (message["reason"], message["reconnect"]) == ("unsubscribed", False)
            position = socket.positions["mine"]
            seen = len(socket.messages)
            await socket.ask({"type": "ping"}, "pong")
            assert not [late for late in socket.messages[seen:] if late.get("sub") == "mine"]
            rounds += 1
        await loading
    assert seqs == list(range(1, 602))
    assert rounds > 2


# ---- refused messages


WRONG: list[tuple[Any, str, tuple[str, ...]]] = [
    ({}, "validation_error", ("type",)),
    ({"type": "nonsense"}, "validation_error", ("type",)),
    ({"type": 5}, "validation_error", ("type",)),
    ({"type": ["ping"]}, "validation_error", ("type",)),
    ({"type": "ping", "bogus": 1}, "validation_error", ("bogus",)),
    ({"type": "ping", "ref": 5}, "validation_error", ("ref",)),
    ({"type": "ping", "ref": "x" * 129}, "validation_error", ("ref",)),
    ({"type": "subscribe", "workspace": WS}, "validation_error", ("sub",)),
    ({"type": "subscribe", "sub": "x"}, "validation_error", ("workspace",)),
    (subscribe(""), "validation_error", ("sub",)),
    (subscribe("x" * 129), "validation_error", ("sub",)),
    (subscribe("taken"), "validation_error", ("sub",)),
    ({"type": "subscribe", "sub": 5, "workspace": WS}, "validation_error", ("sub",)),
    ({"type": "subscribe", "sub": "x", "workspace": 5}, "validation_error", ("workspace",)),
    (subscribe("x", bogus=1), "validation_error", ("bogus",)),
    (subscribe("x", after="garbage"), "validation_error", ("after",)),
    (subscribe("x", after=5), "validation_error", ("after",)),
    (subscribe("x", after=["a.1"]), "validation_error", ("after",)),
    (subscribe("x", category="nonsense"), "validation_error", ("category",)),
    (subscribe("x", action="a*b"), "validation_error", ("action",)),
    (subscribe("x", agent_id=5), "validation_error", ("agent_id",)),
    (subscribe("x", agent_id=""), "validation_error", ("agent_id",)),
    (subscribe("x", q=["x", ""]), "validation_error", ("q",)),
    (subscribe("x", run_id={"a": 1}), "validation_error", ("run_id",)),
    (subscribe("x", agent_id=["a"] * 101), "validation_error", ("filter",)),
    (subscribe("x", category="nonsense", after="garbage"), "validation_error", ("category", "after")),
    (subscribe("x", "nowhere"), "workspace_not_found", ()),
    (subscribe("x", "\0"), "workspace_not_found", ()),
    (subscribe("x", "é"), "workspace_not_found", ()),
    ({"type": "unsubscribe"}, "validation_error", ("sub",)),
    ({"type": "unsubscribe", "sub": "nobody"}, "validation_error", ("sub",)),
    ({"type": "unsubscribe", "sub": "taken", "bogus": 1}, "validation_error", ("bogus",)),
    ({"type": "publish", "workspace": WS}, "validation_error", ("event",)),
    ({"type": "publish", "event": make_event()}, "validation_error", ("workspace",)),
    (publish(event=make_event(), events=[make_event()]), "validation_error", ("event",)),
    (publish(event=5), "validation_error", ("event",)),
    (publish(event={}), "validation_error", ("event.action",)),
    (publish(event=make_event(bogus=1)), "validation_error", ("event.bogus",)),
    (publish(event=make_event(actor={"type": "user"})), "validation_error", ("event.actor.id",)),
    (publish(events=make_event()), "validation_error", ("events",)),
    (publish(events=[]), "validation_error", ("events",)),
    (publish(events=[make_event()] * 1001), "validation_error", ("events",)),
    (publish(events=[make_event(), make_event(action="")]), "validation_error", ("events[1].action",)),
    (publish(idempotency_key="a b"), "validation_error", ("idempotency_key",)),
    (publish(idempotency_key=""), "validation_error", ("idempotency_key",)),
    (publish(idempotency_key=5), "validation_error", ("idempotency_key",)),
    (publish(bogus=1), "validation_error", ("bogus",)),
    (publish(workspace="system"), "validation_error", ("workspace",)),
    (publish(workspace="é"), "validation_error", ("workspace",)),
    (publish(event=make_event(description="x" * 300_000)), "payload_too_large", ()),
]  # fmt: skip


@on_sqlite
async def test_wrong_messages_are_errors_that_name_the_field(api: Api) -> None:
    """Each is answered with one `error` that names the field and the message's `ref` or `sub`. The socket stays open."""
    (await api.append(WS)).expect(201)
    async with await open_socket(api) as socket:
        await socket.send(subscribe("taken"))
        await socket.next("synced")
        for message, code, fields in WRONG:
            await socket.send(message)
            answer = error_of(await socket.next(), code, *fields)
            if isinstance(message.get("ref"), str) and "ref" not in fields:
                assert answer["ref"] == message["ref"]
            if (
                isinstance(message.get("sub"), str)
                and message["type"] == "subscribe"
                and len(message["sub"]) in range(1, 129)
            ):
                assert answer["sub"] == message["sub"], message
            await is_alive(socket)
        for kind in ("publish", "ping"):
            answer = await socket.ask({"type": kind, "ref": "my ref", "bogus": 1})
            assert answer["ref"] == "my ref"
        stored = (await api.append(WS, id="unharmed")).expect(201)
        assert (await socket.next("events"))["events"] == [stored]
    assert len(await api.history(WS)) == 2, "no refused event is stored"


@on_sqlite
async def test_what_is_not_a_message(api: Api) -> None:
    """Invalid JSON, JSON that is not an object, and binary frames are errors, and the socket stays open."""
    async with await open_socket(api) as socket:
        for text in (b"", b" ", b"{", b"nonsense", b"[]", b"5", b"null", b'"ping"', b'{"type":"ping"}x', b"NaN",
                     b"[" * 5000, b'{"type":"ping","type":' + b"[" * 500, b'{"a":"\\ud800"}'):  # fmt: skip
            await socket.send_frame(TEXT, text)
            answer = await socket.next()
            assert answer["type"] == "error"
            assert answer["error"]["code"] == "validation_error", text
            assert answer["error"]["details"]["fields"], text
            await is_alive(socket)
        await socket.send_frame(BINARY, b'{"type":"ping"}')
        answer = await socket.next()
        assert answer["error"]["code"] == "validation_error"
        await is_alive(socket)
        # Its fragments are one message, and a control frame may come between them.
        whole = json.dumps({"type": "ping", "ref": "in pieces"}).encode()
        await socket.send_frame(TEXT, whole[:5], final=False)
        await socket.send_frame(PING, b"between")
        await socket.send_frame(CONTINUATION, whole[5:9], final=False)
        await socket.send_frame(CONTINUATION, whole[9:])
        assert await socket.next() == {"type": "pong", "ref": "in pieces"}
        assert socket.pongs == [b"between"]


@on_sqlite
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(encode_frame(TEXT, b"\xff\xfe"), 1007, id="not UTF-8"),
        pytest.param(encode_frame(TEXT, b'{"type":"\xc3"}'), 1007, id="half a character"),
        pytest.param(encode_frame(TEXT, b'{"type":"ping"}', reserved=4), 1002, id="compressed"),
        pytest.param(encode_frame(0x3, b"x"), 1002, id="unknown opcode"),
        pytest.param(encode_frame(PING, b"x" * 126), 1002, id="long ping"),
        pytest.param(encode_frame(PING, b"x", final=False), 1002, id="ping in pieces"),
        pytest.param(encode_frame(CONTINUATION, b"x"), 1002, id="continues nothing"),
        pytest.param(encode_frame(TEXT, b'"' + b"x" * 70_000 + b'"'), 1009, id="too long"),
        pytest.param(
            encode_frame(TEXT, b'"' + b"x" * 40_000, final=False) + encode_frame(CONTINUATION, b"x" * 40_000 + b'"'),
            1009,
            id="too long in pieces",
        ),
    ],
)
async def test_a_client_that_is_wrong_is_told_by_the_code(
    make_server: MakeServer, http: aiohttp.ClientSession, sent: bytes, code: int
) -> None:
    """An invalid frame closes the socket with the standard code for the reason."""
    api = Api(http, (await make_server(max_body_bytes=65_536)).url, ADMIN_KEY)
    async with await open_socket(api) as socket:
        await socket.send_frame(TEXT, b'"' + b"x" * 60_000 + b'"')  # not too long
        assert (await socket.next())["type"] == "error"
        await socket.send_bytes(sent)
        assert (await socket.closed())[0] == code


@on_sqlite
async def test_subscriptions_of_a_socket_are_bounded(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """A subscription above the limit is an error. One that ends makes room for another."""
    api = Api(http, (await make_server(max_subscriptions=3)).url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    async with await open_socket(api, WS) as socket:
        await socket.next("synced")
        for name in "ab":
            await socket.send(subscribe(name))
            assert (await socket.next())["sub"] == name
        answer = await socket.ask(subscribe("c"))
        assert answer["type"] == "error"
        assert answer["error"]["code"] in {"rate_limited", "validation_error"}
        assert answer["sub"] == "c"
        await socket.ask({"type": "unsubscribe", "sub": "a"}, "closed")
        await socket.send(subscribe("c"))
        assert (await socket.next())["type"] == "synced"


@on_sqlite
async def test_grants_are_checked_for_each_message(api: Api) -> None:
    """Each message is authorized by itself: a key reads and writes where it may, and other workspaces do not exist."""
    for workspace in ("mine", "theirs"):
        (await api.append(workspace)).expect(201)
    reader = api.with_key(await api.create_key("mine", scopes=["workspace:read"]))
    writer = api.with_key(await api.create_key("mine", scopes=["workspace:write"]))
    async with await open_socket(reader) as socket:
        for workspace in ("theirs", "nowhere", "system"):
            error_of(await socket.ask(subscribe("x", workspace)), "workspace_not_found")
            error_of(await socket.ask(publish(workspace=workspace)), "workspace_not_found")
        error_of(await socket.ask(publish(workspace="mine")), "permission_denied")
        await socket.send(subscribe("x", "mine", after=BEGINNING))
        assert len(await socket.events(1)) == 1
    async with await open_socket(writer) as socket:
        error_of(await socket.ask(subscribe("x", "mine")), "permission_denied")
        assert (await socket.ask(publish(workspace="mine"), "published"))["created"] is True
    refused = await (await open_socket(writer, "mine")).answer()
    assert (refused.status, refused.error) == (403, "permission_denied")
    assert len(await api.history("theirs")) == 1


# ---- publishing


async def test_publish_answers_in_order_after_the_commit(api: Api) -> None:
    """Appends are acknowledged in order with their `ref` once they are stored, so history contains what was acknowledged."""
    async with await open_socket(api) as socket:
        first = await socket.ask(publish("0", event=make_event(id="first")), "published")
        assert set(first) == {"type", "events", "created", "ref"}
        (stored,) = await api.history(WS)
        assert (first["events"], first["created"], first["ref"]) == ([{"id": "first", "seq": stored["seq"]}], True, "0")
        for number in range(1, 100):
            batch = [make_event(details={"n": number, "i": i}) for i in range(number % 3)]
            await socket.send(publish(str(number), **({"events": batch} if batch else {"event": make_event()})))
            if number % 10 == 5:  # between them an invalid one, which is answered in its turn, too
                await socket.send(publish(f"wrong-{number}", event={}))
        seqs = [1]
        refs: list[str] = []
        while len(refs) < 109:
            answer = await socket.next()
            refs.append(answer["ref"])
            assert (answer["type"] == "error") == answer["ref"].startswith("wrong-")
            seqs += [event["seq"] for event in answer.get("events", [])]
            if len(refs) == 50:
                held = {event["seq"] for event in await api.history(WS, limit=1000)}
                assert set(seqs) <= held, "acknowledged events are stored"
        expected = [ref for n in range(1, 100) for ref in [str(n), *([f"wrong-{n}"] if n % 10 == 5 else [])]]
        assert refs == expected
        assert seqs == list(range(1, len(seqs) + 1))
    assert [event["seq"] for event in await api.history(WS, order="asc")] == seqs


async def test_publish_is_append(api: Api) -> None:
    """Ids and idempotency keys work as in POST and share their scope. A workspace's socket implies its workspace."""
    event = make_event(id="mine", details={"n": 1})
    async with await open_socket(api) as socket:
        made = await socket.ask(publish("a", event=event), "published")
        again = await socket.ask(publish("b", event=event), "published")
        assert (made["created"], again["created"]) == (True, False)
        assert again["events"] == made["events"]
        error_of(await socket.ask(publish("c", event=event | {"action": "other.action"})), "id_conflict")
        batch = [make_event(details={"n": n}) for n in range(2)]
        made = await socket.ask(publish(events=batch, idempotency_key="once"), "published")
        again = await socket.ask(publish(events=batch, idempotency_key="once"), "published")
        assert (made["created"], again["created"]) == (True, False)
        assert again["events"] == made["events"]
        assert "ref" not in again
        error_of(await socket.ask(publish(idempotency_key="once")), "idempotency_conflict")
        posted = await api.append_all(WS, batch, headers={"Idempotency-Key": "once"})
        assert [{"id": event["id"], "seq": event["seq"]} for event in posted.expect(200)["events"]] == made["events"]
        secret = await socket.ask(publish(event=make_event(details={"password": "hunter2"})), "published")
        stored = (await api.get(f"{events(WS)}/{secret['events'][0]['id']}")).expect(200)
        assert stored["details"]["password"] == "***REDACTED***"
        assert (await socket.ask(publish(workspace="made by it"), "published", "error"))["type"] == "error"
        assert (await socket.ask(publish(workspace="made-by-it"), "published"))["created"] is True
    assert len(await api.history(WS)) == 4
    assert len(await api.history("made-by-it")) == 1


async def test_publish_by_a_key_that_is_bound_to_an_actor(api: Api) -> None:
    """A key bound to an actor need not name it and cannot name another. Other readers of the same kind see its events."""
    (await api.append(WS)).expect(201)
    bound = api.with_key(await api.create_key(WS, actor={"type": "agent", "id": "bob"}))
    async with await open_socket(bound) as socket, await open_socket(api, WS) as other:
        await other.next("synced")
        stored = await socket.ask(publish(event={"action": "run.started"}), "published")
        error_of(await socket.ask(publish(event=make_event())), "permission_denied")
        error_of(await socket.ask(publish(events=[{"action": "x.y"}, make_event()])), "permission_denied")
        (heard,) = (await other.next("events"))["events"]
        assert (heard["id"], heard["actor"]["type"], heard["actor"]["id"]) == (
            stored["events"][0]["id"],
            "agent",
            "bob",
        )


@on_sqlite
async def test_a_publisher_hears_itself_in_order(api: Api) -> None:
    """A publisher's own subscription receives its events once and in order, whatever comes between."""
    (await api.append(WS)).expect(201)
    async with await open_socket(api, WS) as socket:
        await socket.next("synced")
        for number in range(50):
            await socket.send(publish(str(number)))
        heard = await socket.events(50)
        assert [event["seq"] for event in heard] == list(range(2, 52))


# ---- frames


@on_sqlite
async def test_pings_both_ways(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """The server pings an idle socket, answers pings with their payload and `ping` messages with their `ref`."""
    api = Api(http, (await make_server(heartbeat_seconds=1)).url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    async with await open_socket(api, WS) as socket, await open_socket(api) as many:
        await socket.next("synced")
        for each in (socket, many):
            await each.pinged()
            await each.send_frame(PING, b"\0 any bytes \xff")
            await is_alive(each)
            assert each.pongs == [b"\0 any bytes \xff"]
            await each.send_frame(PONG, b"nobody asked")
            assert await each.ask({"type": "ping"}, "pong") == {"type": "pong"}


@on_sqlite
async def test_a_close_is_answered(api: Api) -> None:
    """A client's close frame is answered with its code, and the connection ends."""
    (await api.append(WS)).expect(201)
    for payload, code in ((b"\x03\xe8bye", 1000), (b"\x03\xe9", 1001), (b"", 1000)):
        async with await open_socket(api, WS) as socket:
            await socket.next("synced")
            await socket.send_frame(CLOSE, payload)
            found, _ = await socket.closed()
            assert found in {code, 1005, 1000}
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await socket.frame()


@on_sqlite
async def test_messages_are_not_longer_than_a_client_may_take(api: Api) -> None:
    """A long replay is sent in messages of up to about 256 KiB, unless one event is longer."""
    for _ in range(4):
        (await api.append_all(WS, [{"description": "x" * 9000}] * 50)).expect(201)
    (await api.append(WS, description="x" * 250_000)).expect(201)
    async with await open_socket(api, WS, after=BEGINNING) as socket:
        await socket.next("synced")
        found = [message["events"] for message in socket.messages if message["type"] == "events"]
        assert [event["seq"] for batch in found for event in batch] == list(range(1, 202))
        assert max(len(json.dumps(batch)) for batch in found) < 300_000
        assert len(found) < 100, "several events per message"


@on_sqlite
async def test_a_client_that_floods_and_never_reads_is_bounded(
    make_process: MakeProcess, http: aiohttp.ClientSession
) -> None:
    """A client that sends without reading is blocked when the buffers are full. The server holds little, and others are served."""
    process = make_process()
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    server = psutil.Process(process.pid)
    socket = await open_socket(api, receive_buffer=4096)
    other = await open_socket(api, WS)
    before = server.memory_info().rss
    flood = (
        encode_frame(TEXT, b'{"type":"nonsense","ref":"%b"}' % (b"x" * 100)) * 500
        + encode_frame(PING, b"y" * 100) * 500
    )
    sent, most = 0, 128 * 2**20
    try:
        while sent < most:
            async with asyncio.timeout(2):
                await socket.send_bytes(flood)
            sent += len(flood)
    except TimeoutError:
        pass
    assert sent < most, "the server still reads without limit"
    assert server.memory_info().rss - before < 24 * 2**20
    stored = (await api.append(WS)).expect(201)
    assert (await other.next("events"))["events"] == [stored]
    other.close()
    socket.abort()


# ---- close codes


async def test_close_codes(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """The last message says why and whether to reconnect. The close code matches the table, with the reason as its text."""
    server = await make_server(heartbeat_seconds=1)
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)

    async def ends(socket: WsReader, reason: str, *, reconnect: bool) -> None:
        closed = await socket.next("closed")
        assert (closed["reason"], closed["reconnect"]) == (reason, reconnect)
        assert await socket.closed() == (CODES[reason], reason)
        assert (CODES[reason] < 4500) == reconnect

    made = (await api.post(f"/v1/workspaces/{WS}/keys", {"name": "k", "template": "submit_observe"})).expect(201)
    caller = api.with_key(made["key"])
    sockets = [await open_socket(caller, WS), await open_socket(caller)]
    await sockets[1].send(subscribe("x"))
    for socket in sockets:
        await socket.next("synced")
    (await api.delete(f"/v1/workspaces/{WS}/keys/{made['id']}")).expect(204)
    for socket in sockets:
        await ends(socket, "credential_revoked", reconnect=False)
    socket = await open_socket(api, WS)
    await socket.next("synced")
    (await api.delete(f"/v1/workspaces/{WS}")).expect(204)
    await ends(socket, "workspace_deleted", reconnect=False)


async def test_a_dead_socket_of_many_leaves_nothing(api: Api, server: Server) -> None:
    """When a socket disconnects, all its subscriptions are removed, in any state."""
    for number in range(5):
        (await api.append_all(f"w{number}", [{"description": "x" * 1000}] * 200)).expect(201)
    for _ in range(10):
        socket = await open_socket(api, receive_buffer=4096)
        for number in range(5):
            await socket.send(subscribe(f"live {number}", f"w{number}"))
            await socket.send(subscribe(f"replay {number}", f"w{number}", after=BEGINNING))
        await socket.send(publish(workspace="w0"))
        await socket.next()
        socket.abort()
    await eventually(lambda: not server.channels._channels)
    (await api.append("w1")).expect(201)


# ---- arbitrary messages

_SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
_WORDS = st.sampled_from(
    [
        "subscribe",
        "unsubscribe",
        "publish",
        "ping",
        "sub",
        WS,
        "other",
        "default",
        BEGINNING,
        "abc.1",
        "once",
        "activity",
    ]
)
_EVENTS = st.fixed_dictionaries(
    {"action": st.text(max_size=10) | _VALUES},
    optional={
        "id": _WORDS | _VALUES,
        "actor": st.fixed_dictionaries({"type": st.just("user"), "id": st.just("ann")}) | _VALUES,
        "details": _VALUES,
        "changes": _VALUES,
        "occurred_at": _WORDS | _VALUES,
    },
)
_FIELDS = st.sampled_from(
    ["sub", "workspace", "after", "ref", "event", "events", "idempotency_key", *FILTER_FIELDS, "bogus"]
)
_MESSAGES = (
    _VALUES
    | st.builds(
        dict.__or__,
        st.dictionaries(_FIELDS, _WORDS | _EVENTS | st.lists(_EVENTS, max_size=3) | _VALUES, max_size=5),
        st.fixed_dictionaries({"type": st.sampled_from(["subscribe", "unsubscribe", "publish", "ping"]) | _VALUES}),
    )
    | st.fixed_dictionaries(
        {"type": st.just("publish"), "workspace": st.just(WS), "event": _EVENTS}, optional={"ref": _WORDS}
    )
    | st.fixed_dictionaries(
        {"type": st.just("publish"), "workspace": st.just(WS), "events": st.just([make_event(), make_event()])},
        optional={"ref": _WORDS, "idempotency_key": st.text(min_size=1, max_size=3)},
    )
    | st.fixed_dictionaries(
        {"type": st.just("subscribe"), "workspace": st.just(WS), "sub": st.text(min_size=1, max_size=5)},
        optional={"after": _WORDS | st.text(max_size=10), "action": _WORDS | _VALUES},
    )
)


@on_sqlite
async def test_no_message_breaks_the_socket(api: Api) -> None:
    """Any JSON leaves the socket open and causes no server error."""
    (await api.append(WS)).expect(201)
    loop = asyncio.get_running_loop()
    socket = await open_socket(api)
    count = 0
    answered = set()

    async def exchange(messages: list[Any]) -> None:
        nonlocal count
        for message in messages:
            await socket.send(message)
        count += 1
        await socket.send({"type": "ping", "ref": f"done {count}"})
        while (answer := await socket.next()) != {"type": "pong", "ref": f"done {count}"}:
            answered.add(answer["type"])
            if answer["type"] == "error":
                assert set(answer) <= {"type", "error", "sub", "ref"}
                assert answer["error"]["code"] != "internal_error", messages

    @settings(suppress_health_check=[HealthCheck.too_slow])
    @given(messages=st.lists(_MESSAGES, min_size=1, max_size=5))
    def check(messages: list[Any]) -> None:
        asyncio.run_coroutine_threadsafe(exchange(messages), loop).result()

    await asyncio.to_thread(check)
    assert {"error", "published"} <= answered, "the examples cover all types"
    await socket.send_frame(CLOSE, b"\x03\xe8")
    assert (await socket.closed())[0] == 1000


FLOOD = """
import os, socket, sys, threading
host, port, frame = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
connection = socket.create_connection((host, port))
key = os.environ["KEY"]
connection.sendall(
    f"GET /v1/ws HTTP/1.1\\r\\nHost: x\\r\\nAuthorization: Bearer {key}\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
    "Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\\r\\n\\r\\n".encode()
)
assert b"101" in connection.recv(4096)
def drop():
    while connection.recv(2**20):
        pass
threading.Thread(target=drop, daemon=True).start()
print("open", flush=True)
while True:
    connection.sendall(frame * 5000)
"""


@on_sqlite
@pytest.mark.parametrize("frame", ["898000000000", "8a8000000000", "81810000000078"], ids=["pings", "pongs", "garbage"])
async def test_a_flood_does_not_keep_the_others_waiting(
    make_process: MakeProcess, http: aiohttp.ClientSession, frame: str
) -> None:
    """While one client sends tiny messages as fast as it can, other clients' appends are stored and delivered."""
    process = make_process()
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append(WS)).expect(201)
    host, port = process.url.removeprefix("http://").split(":")
    flood = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FLOOD, host, port, frame, env={"KEY": ADMIN_KEY}, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert flood.stdout is not None
        assert await flood.stdout.readline() == b"open\n"
        async with asyncio.timeout(SECONDS), await open_socket(api, WS) as socket:
            await socket.next("synced")
            for seq in range(2, 12):
                assert (await api.append(WS)).expect(201)["seq"] == seq
                assert [event["seq"] for event in await socket.events(1)] == [seq]
        assert flood.returncode is None, "the flood lasts throughout"
    finally:
        flood.kill()
        await flood.wait()
