"""Secrets are never stored, and text that merely resembles a secret is kept."""

import re
import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import streamer.app
from streamer.bus.local import LocalBus
from streamer.core.ports import Committed
from streamer.ingest.redact import Redactor
from streamer.ingest.secret_names import NAME_HINTS, SHORT_NAME
from streamer.ingest.texts import HINT_PATTERNS, MAX_SHAPE
from streamer.ingest.texts import HINTS as TEXT_HINTS
from streamer.settings import Settings, SettingsError, load
from tests.conftest import ADMIN_KEY, MakeProcess, MakeServer
from tests.ingest.redaction_cases import (
    GITHUB,
    GONE,
    HARMLESS_KEYS,
    HARMLESS_TEXTS,
    JWT,
    KEPT,
    OURS,
    PEMS,
    SECRET_KEYS,
    TOKENS,
    Case,
    R,
)
from tests.support.api import Api, events, make_event
from tests.support.websocket import open_socket

HINTS = (*NAME_HINTS, *TEXT_HINTS)
BUILT_IN = Redactor()
OWN = Redactor(
    names=["pin", "accessCode", "door_code"],
    keep=["session token", "auth"],
    shapes=[r"^acme_[0-9a-f]{8}", r"EMP\d{6}\b", "(z+)+y"],
)
NAMES_ONLY = Redactor(names=["pin", "accessCode"], keep=["ring token"])


def redacted(redactor: Redactor, event: dict[str, Any]) -> dict[str, Any]:
    """Redact an event's fields as the intake does."""
    clean: dict[str, Any] = redactor.redact_texts(
        {name: event[name] for name in event if name not in {"details", "changes"}}
    )
    if "details" in event:
        clean["details"] = redactor.redact(event["details"])
    if "changes" in event:
        clean["changes"] = redactor.redact_changes(event["changes"])
    return clean


@pytest.mark.parametrize("case", GONE + KEPT, ids=lambda case: case.name)
def test_the_corpus(case: Case) -> None:
    """Each case loses its secrets and nothing else, and the fast search finds every case with a secret."""
    clean = redacted(BUILT_IN, case.given)
    assert {name: value for name, value in clean.items() if name in case.stored} == {
        name: value for name, value in case.stored.items() if name in case.given
    }
    text = orjson.dumps(clean).decode()
    assert not [secret for secret in case.secrets if secret in text]
    assert BUILT_IN.may_hold_secret(orjson.dumps(case.given)) or not case.secrets
    # Rules of operators do not affect other values.
    assert redacted(NAMES_ONLY, case.given) == clean


def test_the_corpus_is_large() -> None:
    """The corpus has hundreds of distinct cases, half of them with text to keep."""
    assert len(GONE) >= 200
    assert len(KEPT) >= 200
    assert len({case.name for case in GONE + KEPT}) == len(GONE + KEPT)


@pytest.mark.parametrize("around", ["KEY={}", '{{"k":"{}"}}', "({})", "a\n{}\nb", "https://x/?k={}&b=1", "“{}”", "é{}"])
def test_known_tokens_are_replaced_whole(around: str) -> None:
    """A known token is replaced completely at any place in a text, and the rest of the text is kept."""
    for token in TOKENS.values():
        text = around.format(token)
        assert BUILT_IN.redact_text(text) == around.format(R)
        assert BUILT_IN.may_hold_secret(orjson.dumps(text))


@pytest.mark.parametrize("name", SECRET_KEYS)
def test_names_of_secrets(name: str) -> None:
    """If the last words of a key name a secret, its value is replaced completely, whatever it is."""
    for value in ("hunter2", 123456, ["a", "b"], {"a": {"b": 1}}, " "):
        assert BUILT_IN.redact({name: value}) == {name: R}
        assert BUILT_IN.may_hold_secret(orjson.dumps({name: value}))
    for nothing in (None, True, False, ""):
        assert BUILT_IN.redact({name: nothing}) == {name: nothing}


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ({"a": "x"}, 0),
        ({"a": f"{GITHUB} and {OURS}"}, 2),
        ({"a": f"Authorization: Bearer {GITHUB}"}, 1),
        ({"password": [1, 2, 3]}, 1),
        ({f"k {GITHUB}": "x"}, 1),
        (["--token", "x", "DB_PASSWORD=y", "deploy --token z --password w"], 4),
        ({"a": R, "password": R, "b": f"token={R}", "c": f"Authorization: {R}"}, 0),
    ],
)
def test_each_secret_is_counted(value: Any, count: int) -> None:
    """The counter counts secrets, not texts or events, and does not count replaced ones again."""
    found: list[None] = []
    clean = BUILT_IN.redact(value, found=lambda: found.append(None))
    assert len(found) == count
    BUILT_IN.redact(clean, found=lambda: found.append(None))
    assert len(found) == count


# ---- operators' rules


def test_operators_add_names() -> None:
    """Additional names match the end of a key like built-in ones, in any spelling."""
    given_ = {
        "pin": "1",
        "doorPin": 2,
        "ACCESS_CODE": "3",
        "access-code": "4",
        "door.code": "5",
        "spin": "6",
        "pinned": "7",
        "code": "8",
    }
    clean = OWN.redact(given_)
    assert clean == given_ | dict.fromkeys(["pin", "doorPin", "ACCESS_CODE", "access-code", "door.code"], R)
    assert BUILT_IN.redact(given_) == given_
    assert NAMES_ONLY.may_hold_secret(b'{"details":{"doorPin":2}}')
    assert (
        OWN.redact_text("door --pin 1234 and PIN=abc, accessCode: 1234567")
        == f"door --pin {R} and PIN={R}, accessCode: {R}"
    )


def test_operators_keep_names() -> None:
    """An exempted name is not a secret under any naming rule. The shapes of tokens still apply."""
    assert OWN.redact({"auth": "oauth2", "sessionToken": "x", "token": "y"}) == {
        "auth": "oauth2",
        "sessionToken": "x",
        "token": R,
    }
    assert OWN.redact({"auth": f"x {GITHUB}"}) == {"auth": f"x {R}"}
    assert Redactor(names=["code"], keep=["zip code"]).redact({"code": "1", "zipCode": "2"}) == {
        "code": R,
        "zipCode": "2",
    }


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("acme_0123abcd", R),
        ("see acme_0123abcd/x, or https://x/?k=acme_0123abcd&b=1", f"see {R}, or https://x/?k={R}&b=1"),
        ("not xacme_0123abcd nor acme_0123", "not xacme_0123abcd nor acme_0123"),
        ("badge EMP123456.", f"badge {R}"),
        ("TEMP1234567", "TEMP1234567"),
        ("\nacme_0123abcd\n", f"\n{R}\n"),
    ],
)
def test_operators_add_shapes(text: str, clean: str) -> None:
    """A word that matches an additional shape is replaced completely. `^` and `$` are its start and end."""
    assert OWN.redact_text(text) == clean
    assert OWN.redact({text: [text]}) == {clean: [clean]}
    assert OWN.may_hold_secret(orjson.dumps(text))
    assert OWN.holds_token(text) == (text != clean)


def test_settings_hold_operators_rules(tmp_path: Path) -> None:
    """The rules come from variables, with names separated by commas and shapes by lines, or from a TOML file."""
    variables = {
        "STREAMER_REDACT_NAMES": "pin, accessCode,",
        "STREAMER_REDACT_SHAPES": "a{1,3}b\n\n  EMP[0-9]+\n",
        "STREAMER_KEEP_NAMES": "auth",
    }
    settings = load({}, variables)
    assert (settings.redact_names, settings.redact_shapes, settings.keep_names) == (
        ("pin", "access code"),
        ("a{1,3}b", "EMP[0-9]+"),
        ("auth",),
    )
    file = tmp_path / "streamer.toml"
    file.write_text('redact_names = ["pin"]\nredact_shapes = ["a,b", "c+"]\n')
    settings = load({}, {"STREAMER_CONFIG": str(file)})
    assert (settings.redact_names, settings.redact_shapes) == (("pin",), ("a,b", "c+"))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("REDACT_SHAPES", "good\n(", "not a regular expression"),
        ("REDACT_SHAPES", "(?=x)y", "not a regular expression"),
        ("REDACT_SHAPES", "(?x) a # b", "not a regular expression"),
        ("REDACT_SHAPES", "a*", "matches the empty text"),
        ("REDACT_SHAPES", "x" * (MAX_SHAPE + 1), "at most 200"),
        ("REDACT_NAMES", "pin,***", "no words"),
        ("KEEP_NAMES", "пин", "no words"),
    ],
)
def test_wrong_rules_stop_the_start(name: str, value: str, said: str) -> None:
    """An invalid rule stops the start with the setting's name."""
    with pytest.raises(SettingsError, match=f"STREAMER_{name}.*{said}"):
        load({}, {f"STREAMER_{name}": value})
    assert Settings().redact_shapes == ()


# ---- properties

PIECES: st.SearchStrategy[str] = st.sampled_from(
    [*HINTS, *TOKENS.values(), *PEMS, *SECRET_KEYS, *HARMLESS_KEYS, *HARMLESS_TEXTS]
    + [secret for case in GONE for secret in case.secrets]
    + [case.given["description"] for case in GONE if "description" in case.given]
    + ["Bearer ", "Authorization: ", "://", ":p@", " ", "-", "_", ".", '"', "'", "\\", '\\"', "\n", "=", ": ", " = ", "--", "&", ";", "=$(",
       "]=", "curl ", "-u ", "--user", "PWD=/", "pin", "acme_0123abcd", "EMP123456", "REDACTED", "*", "x" * 20,
       "\u0130", "\u0131", "\u017f", "\u212a"]  # letters whose lower case is ASCII
)  # fmt: skip
TEXTS = st.one_of(st.lists(PIECES | st.text(max_size=3), max_size=6).map("".join), st.text())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
REDACTORS = st.sampled_from([BUILT_IN, NAMES_ONLY, OWN])


@given(VALUES, REDACTORS)
@example({"task_id": "t"}, BUILT_IN)
@example({"a": 'x"task_id":sk_0123456789abcdef'}, BUILT_IN)
@example({"PIN": 5}, NAMES_ONLY)
@example({"GH_PAT_": "x"}, BUILT_IN)
def test_the_quick_search_hides_nothing(value: Any, redactor: Redactor) -> None:
    """If the fast search of the encoded bytes finds nothing, the full redaction changes nothing."""
    if not redactor.may_hold_secret(orjson.dumps(value)):
        assert redactor.redact(value) == value
        assert redactor.redact_texts(value) == value


@given(VALUES, st.booleans())
@example("\u017fk_", False)
@example("\u212aey", False)
def test_the_quick_search_finds_every_hint(value: Any, upper: bool) -> None:
    """The fast search finds exactly the hints that separate searches find, in upper case, too."""
    encoded = orjson.dumps(value)
    encoded = encoded.upper() if upper else encoded
    plain = encoded.replace(b'"task_id":', b"").lower()
    hinted = any(hint.encode() in plain for hint in HINTS) or any(
        re.search(pattern.encode(), plain) for pattern in (SHORT_NAME, *HINT_PATTERNS)
    )
    assert BUILT_IN.may_hold_secret(encoded) == hinted


@given(VALUES, REDACTORS)
def test_redaction_is_stable(value: Any, redactor: Redactor) -> None:
    """Redacting a redacted value changes nothing, so an event read from the log can be appended again."""
    once = redactor.redact(value)
    assert redactor.redact(once) == once
    texts = redactor.redact_texts(value)
    assert redactor.redact_texts(texts) == texts


def same_structure(before: Any, after: Any) -> bool:
    """Check that two values differ only in texts, names and completely replaced values."""
    if after == R or type(before) is not type(after):
        return bool(after == R)
    if isinstance(before, dict):
        return len(before) == len(after) and all(map(same_structure, before.values(), after.values()))
    if isinstance(before, list):
        return len(before) == len(after) and all(map(same_structure, before, after))
    return isinstance(before, str) or bool(before == after)


@given(VALUES, REDACTORS)
@example({GITHUB: 1, R: 2, f"{R} 2": 3, OURS: 4}, BUILT_IN)
def test_the_structure_stays(value: Any, redactor: Redactor) -> None:
    """A redacted value is JSON with the same objects, arrays and numbers. No entry is lost, even if two keys were secrets."""
    clean = redactor.redact(value)
    assert same_structure(value, clean)
    assert orjson.loads(orjson.dumps(clean)) == clean


@given(st.text(max_size=30), st.sampled_from(list(TOKENS.values())), st.text(max_size=30))
def test_a_token_between_words_never_stays(before: str, token: str, after: str) -> None:
    """A token surrounded by spaces is always replaced, whatever the other text."""
    assert token not in BUILT_IN.redact_text(f"{before} {token} {after}")


def test_time_is_in_proportion_to_the_quotes_and_keys() -> None:
    """Repeatedly escaped quotes, and thousands of keys that are tokens, take little time."""
    started = time.process_time()
    OWN.redact_text("".join(f'token: {chr(92) * count}"' for count in range(700)))
    assert len(OWN.redact({f"ghp_{number:020}": number for number in range(10_000)})) == 10_000
    assert time.process_time() - started < 10


# ---- through the server


async def test_the_corpus_through_the_server(
    make_server: MakeServer, http: aiohttp.ClientSession, database_url: str, tmp_path: Path
) -> None:
    """For each case, responses, reads and the database file match the corpus and contain no secret."""
    server = await make_server()
    api = Api(http, server.url, ADMIN_KEY)
    cases = GONE + KEPT
    answers = []
    for start in range(0, len(cases), 100):
        answer = await api.post(events("w"), [make_event(**case.given) for case in cases[start : start + 100]])
        answers.append(answer.expect(201)["events"])
    stored = [event for batch in answers for event in batch]
    history = await api.history("w", order="asc", limit=1000)
    assert history == stored
    for case, event in zip(cases, stored, strict=True):
        for name, value in case.stored.items():
            if isinstance(value, dict) and name in {"actor", "entity"}:
                assert {key: event[name][key] for key in value} == value, case.name
            else:
                assert event[name] == value, case.name
        # Generated values may contain three letters of a secret by chance.
        text = orjson.dumps(
            {name: event[name] for name in event.keys() - {"id", "seq", "timestamp", "occurred_at"}}
        ).decode()
        assert not [secret for secret in case.secrets if secret in text], case.name
    if database_url.startswith("sqlite"):
        raw = b"".join(file.read_bytes() for file in tmp_path.rglob("*.db*"))  # noqa: ASYNC240
        assert raw.count(R.encode()) >= len(GONE)
        kept = "".join(orjson.dumps(case.given).decode() for case in KEPT)
        secrets = {secret for case in GONE for secret in case.secrets if len(secret) > 8 and secret not in kept}
        assert len(secrets) > 100
        assert not [secret for secret in secrets if secret.encode() in raw or orjson.dumps(secret)[1:-1] in raw]


async def test_the_counter_counts_secrets(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """The metric counts each secret once, wherever it is in the event."""
    server = await make_server(metrics_public=True)
    api = Api(http, server.url, ADMIN_KEY)
    for event, total in (
        ({"description": "no key"}, 0),
        ({"description": f"{GITHUB} {OURS}", "details": {"password": [1, 2]}}, 3),
    ):
        (await api.append("w", **event)).expect(201)
        metrics = (await api.get("/metrics")).body.decode()
        assert re.findall(r"^streamer_redactions_total (\S+)$", metrics, re.MULTILINE) == [f"{total:.1f}"]


async def test_operators_rules_reach_the_server(make_server: MakeServer, http: aiohttp.ClientSession) -> None:
    """Operators' rules apply to stored events, ids and errors. The names of the event's own fields are exempt."""
    server = await make_server(
        redact_names=("pin", "name", "details"), keep_names=("auth",), redact_shapes=("acme_[0-9]{4}",)
    )
    api = Api(http, server.url, ADMIN_KEY)
    actor = {"type": "user", "id": "ann", "name": "Ann"}
    event = (await api.append("w", actor=actor, details={"pin": 1, "auth": "x", "t": "acme_1234"})).expect(201)
    assert event["details"] == {"pin": R, "auth": "x", "t": R}
    assert event["actor"]["name"] == "Ann"
    refused = await api.append("w", acme_12345=1)
    assert refused.json["error"]["details"]["fields"] == {R: "unknown field; free data goes into `details`"}
    assert list((await api.append("w", id="acme_1234")).json["error"]["details"]["fields"]) == ["id"]


async def test_an_id_is_no_token(api: Api) -> None:
    """An event or workspace id that is a token is refused, because an id cannot be replaced."""
    said = "has the format of a token, which is never stored"
    answer = await api.append("w", id=GITHUB)
    assert (answer.status, answer.json["error"]["details"]["fields"]) == (400, {"id": said})
    answer = await api.append_all("w", [{}, {"id": f"x-{OURS}"}])
    assert (answer.status, answer.json["error"]["details"]["fields"]) == (400, {"events[1].id": said})
    for answer in (await api.append(GITHUB), await api.put(f"/v1/workspaces/{GITHUB}")):
        assert (answer.status, answer.json["error"]["details"]["fields"]) == (400, {"workspace": said})
    (await api.append("token:w", id="auth:12345678")).expect(201)
    assert (await api.get("/v1/workspaces")).json["workspaces"][0]["id"] == "token:w"


def leaky(**event: Any) -> dict[str, Any]:
    """Return an event with a secret in every place that accepts text."""
    return make_event(
        **{
            "actor": {"type": "agent", "id": f"a {GITHUB}", "name": f"n {GITHUB}", "role": GITHUB, "ip": GITHUB},
            "entity": {"type": "auth", "id": f"i {GITHUB}", "identifier": GITHUB, "name": f"https://u:{GITHUB}@x"},
            "run_id": f"r {GITHUB}",
            "description": f"used {JWT} and {OURS}",
            "details": {
                "env": {"API_KEY": "hunter2"},
                "log": [f"Authorization: Bearer {OURS}"],
                f"k {GITHUB}": PEMS[1],
            },
            "changes": {
                "password": {"from": "hunter2", "to": "hunter3"},
                "url": {"to": "redis://:hunter2@x"},
                f"n {GITHUB}": {"from": None, "to": 5},
            },
            **event,
        }
    )


SECRETS = [GITHUB, JWT, OURS, "hunter2", "hunter3", "MIIEpAIBAAKCAQEA7bq"]


async def test_nothing_secret_is_searched_or_streamed(api: Api) -> None:
    """Search, live streams and replays show only that there was a secret."""
    (await api.append("w")).expect(201)
    async with await api.stream("w") as live:
        await live.next("synced")
        stored = (await api.post(events("w"), leaky(id="e"))).expect(201)
        assert (await live.events(1)) == [stored]
    async with await api.stream("w", after="2001-01-01T00:00:00Z") as replay:
        assert (await replay.events(2))[1] == stored
    assert (await api.get(events("w"), run_id=f"r {R}")).json["events"] == [stored]
    for secret in SECRETS:
        assert (await api.get(events("w"), q=secret)).json["events"] == []
        assert not [text for text in (live.raw, replay.raw) if secret.encode() in text]


async def test_a_redacted_event_is_still_the_same_event(api: Api) -> None:
    """An event that is sent again, with its secret or in its stored form, counts as the same event."""
    key = {"Idempotency-Key": "k"}
    first = await api.post(events("w"), leaky(id="e"), headers=key)
    first.expect(201)
    for headers in (key, {}):
        again = await api.post(events("w"), leaky(id="e"), headers=headers)
        assert (again.status, again.body) == (200, first.body)
    sent = {name: value for name, value in first.json.items() if name not in {"seq", "timestamp", "workspace_id"}}
    again = await api.post(events("w"), sent)
    assert (again.status, again.body) == (200, first.body)


async def send_secrets_everywhere(api: Api) -> list[tuple[int, bytes]]:
    """Send secrets in every part of valid and invalid requests. Return the responses."""
    deep: Any = GITHUB
    for _ in range(40):
        deep = {GITHUB: [deep]}
    key = {"Idempotency-Key": GITHUB}
    answers = [
        await api.post(events("w"), leaky(id="e"), headers=key),
        await api.post(events("w"), leaky(id="e"), headers=key),
        await api.post(events("w"), leaky(), headers=key),
        await api.post(events("w"), leaky(id="e", action="x.y")),
        await api.post(events("w"), leaky(), headers={"Idempotency-Key": f"{GITHUB} {OURS}"}),
        await api.post(events("w"), leaky(id=GITHUB)),
        await api.post(events("w"), leaky(id=f"{OURS}!")),
        await api.post(events("w"), leaky(category=GITHUB)),
        await api.post(events("w"), leaky(occurred_at=GITHUB)),
        await api.post(events("w"), leaky(traceparent=JWT)),
        await api.post(events("w"), leaky(**{GITHUB: 1, f"password={GITHUB}": 2})),
        await api.post(events("w"), leaky(actor={"type": "user", "id": "a", OURS: 1})),
        await api.post(events("w"), leaky(changes={GITHUB: {JWT: 1}, "a": OURS})),
        await api.post(events("w"), leaky(details={"a": deep})),
        await api.post(events("w"), leaky(details={"a": "x" * 300_000, "password": "hunter2"})),
        await api.post(events("w"), [leaky(), leaky(actor=GITHUB), GITHUB, {JWT: OURS}]),
        await api.post(events("w"), [leaky(id="e2"), leaky(id="e2")]),
        await api.post(events("w"), data=b'{"action":"' + GITHUB.encode() + b'",}'),
        await api.post(events("w"), data=GITHUB.encode(), headers={"Content-Type": OURS}),
        await api.post(events("w"), leaky(), params={GITHUB: OURS}),
        await api.post(events(GITHUB), leaky()),
        await api.put(f"/v1/workspaces/{GITHUB}"),
        await api.put("/v1/workspaces/w", {GITHUB: 1}),
        await api.get(events("w"), **{GITHUB: JWT}),
        await api.get(events("w"), limit=GITHUB, after=JWT, order=OURS),
        await api.get(events("w"), cursor=GITHUB),
        await api.get(f"{events('w')}/{GITHUB}"),
        await api.get(f"{events('w')}/stream", after=GITHUB),
        await api.get(f"{events('w')}/stream", ticket=GITHUB),
        await api.get(f"{events('w')}/stream", headers={"Last-Event-ID": GITHUB}),
        await api.get(f"/{GITHUB}/x"),
        await api.get("/v1/workspaces", headers={"Authorization": f"Bearer {OURS}"}),
        await api.request("DELETE", f"/livez/{JWT}"),
    ]
    return [(answer.status, answer.body) for answer in answers]


async def converse(api: Api) -> list[Any]:
    """Send secrets over a WebSocket that reads the workspace. Return its messages."""
    async with await open_socket(api, "w") as socket:
        await socket.next("synced")
        for message in (
            {"type": GITHUB},
            {"type": "publish", "event": leaky(**{GITHUB: 1})},
            {"type": "publish", "event": leaky(), "idempotency_key": f"{GITHUB} x"},
            {"type": "publish", "event": leaky(), "workspace": GITHUB},
            {"type": "subscribe", "sub": "s", "after": GITHUB, OURS: 1},
            {"type": "publish", "event": leaky(id="from-a-socket"), "idempotency_key": OURS},
        ):
            await socket.send(message)
        while {"published", "events"} - {message["type"] for message in socket.messages}:
            await socket.next()
        return socket.messages


async def test_nothing_secret_is_in_errors_logs_metrics_and_streams(
    make_process: MakeProcess, http: aiohttp.ClientSession
) -> None:
    """No response, message, log line or metric contains a secret from a request, valid or not."""
    process = make_process(log_level="debug", metrics_public=True)
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.append("w")).expect(201)
    async with await api.stream("w") as live:
        await live.next("synced")
        answers = await send_secrets_everywhere(api)
        messages = await converse(api)
        await live.events(2)
    statuses = [status for status, _ in answers]
    assert statuses[:2] == [201, 200]
    assert all(400 <= status < 500 for status in statuses[2:]), statuses
    metrics = (await api.get("/metrics")).body
    assert await process.stop() == 0
    assert [line["event"] for line in process.log_lines].count("request") >= len(answers)
    told = [*(body for _, body in answers), orjson.dumps(messages), metrics, live.raw, process.log.encode()]
    for secret in SECRETS:
        assert not [text for text in told if secret.encode() in text], secret


async def test_the_bus_hears_no_secret(
    make_server: MakeServer, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """News of a commit to other nodes contains no secret."""
    heard: list[str] = []

    class Recorder(LocalBus):
        """A bus that also records its messages."""

        def publish(self, news: Committed) -> None:
            heard.extend(frame.body.decode() for frame in news.frames)
            super().publish(news)

    monkeypatch.setattr(streamer.app, "LocalBus", Recorder)
    server = await make_server()
    api = Api(http, server.url, ADMIN_KEY)
    (await api.append("w")).expect(201)
    await send_secrets_everywhere(api)
    assert [text for text in heard if R in text]
    assert not [secret for secret in SECRETS if [text for text in heard if secret in text]]
