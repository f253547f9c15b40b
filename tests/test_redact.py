"""Secrets never reach the log, and what only looks a little like one is left alone."""

import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.app import Server
from streamer.ingest.redact import HINTS, REDACTED, is_secret_name, may_hold_secret, redact, redact_text
from tests.conftest import ADMIN_KEY, MakeProcess
from tests.support.api import Api, events, make_event

OURS = "sk_Zk3-9vQh_Lw7TtYc2RrXbN8mPqA1sDfGhJkL0zXcVb4"
GITHUB = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7bq\nzXcV+/bN8mPqA1==\n-----END RSA PRIVATE KEY-----"

TOKENS = [
    pytest.param(OURS, id="ours, with a hyphen early on"),
    pytest.param("sk_live_4eC39HqLyjWDarjtT1zdp7dc", id="Stripe"),
    pytest.param("sk_test_4eC39HqLyjWDarjtT1zdp7dc", id="Stripe test"),
    pytest.param("rk_live_4eC39HqLyjWDarjtT1zdp7dc", id="Stripe restricted"),
    pytest.param("sk-proj-abcDEF123456_abcDEF123456-abcDEF", id="OpenAI"),
    pytest.param("sk-ant-api03-abcDEF123456_abcDEF123456-AA", id="Anthropic"),
    pytest.param(GITHUB, id="GitHub personal"),
    pytest.param("gho_16C7e42F292c6912E7710c838347Ae178B4a", id="GitHub OAuth"),
    pytest.param("ghs_16C7e42F292c6912E7710c838347Ae178B4a", id="GitHub server"),
    pytest.param("github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz", id="GitHub fine-grained"),
    pytest.param("glpat-abcDEF123456abcDEF12", id="GitLab"),
    pytest.param("pcp_agent_0123456789abcdef0123456789abcdef", id="Paperclip"),
    pytest.param("xoxb-123456789012-abcdefghijkl", id="Slack bot"),
    pytest.param("xoxp-123456789012-abcdefghijkl", id="Slack user"),
    pytest.param("xapp-1-A012345-6789012345-abcdef", id="Slack app"),
    pytest.param("AKIAIOSFODNN7EXAMPLE", id="AWS access key id"),
    pytest.param("ASIAIOSFODNN7EXAMPLE", id="AWS temporary access key id"),
    pytest.param("AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY", id="Google API key"),
    pytest.param("npm_abcdefghijklmnopqrstuvwxyz0123456789", id="npm"),
    pytest.param("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", id="webhook secret"),
    pytest.param(JWT, id="JWT"),
    pytest.param(PEM, id="PEM"),
]

SECRET_NAMES = [
    *("password", "Password", "PASSWORD", "db_password", "dbPassword", "user.passwd", "pwd", "passphrase"),
    *("secret", "client_secret", "clientSecret", "CLIENT-SECRET", "jwt_secret", "secrets"),
    *("api_key", "apiKey", "APIKey", "APIKEY", "X-Api-Key", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "privateKey"),
    *("token", "access_token", "accessToken", "refreshToken", "GH_TOKEN", "csrfToken", "session_token", "id_token"),
    *("authorization", "Authorization", "Proxy-Authorization", "basic_auth", "auth", "bearer", "jwt"),
    *("credential", "credentials", "cookie", "Set-Cookie", "signing_key", "ssh-key", "encryptionKey"),
]

HARMLESS_NAMES = [
    *("author", "authors", "authored_by", "authority", "authorId", "co_author"),
    *("maxTokens", "max_tokens", "output_tokens", "inputTokens", "token_count", "tokens", "tokenizer", "totalTokens"),
    *("next_page_token", "nextPageToken", "continuationToken", "syncToken", "resume_token"),
    *("key", "issueKey", "issue_key", "primaryKey", "foreign_key", "publicKey", "keyboard", "keywords", "monkey"),
    *("passed", "passive", "compass", "bypass", "passengers", "secretary", "secretId", "cookies_enabled", "authType"),
    *("model", "version", "status", "host", "sha", "id", "", "ключ"),
]

HARMLESS_TEXTS = [
    *("1.2.3", "v1.2.3-rc.1+build.5", "10.0.0.1", "2001:db8::1", "0.0.0.0:8080"),
    *("api.example.com", "db-primary.eu-west-1.internal", "https://example.com/a/b?c=d#e", "http://localhost:8080/x@y"),
    *("us.anthropic.claude-sonnet-4-20250514-v1:0", "claude-x", "gpt-4o-mini-2024-07-18"),
    *("01937f0e-7b1c-7a33-8b5e-3f1d2c4b5a69", "d41d8cd98f00b204e9800998ecf8427e", "sha256:" + "0af" * 21 + "b"),
    *("PAP-42", "issue_abc123", "agent_eng1", "run_9", "ws_1", "company_xyz", "user-123"),
    *("author", "authorization was refused", "bearer of bad news", "the bearer certificate", "a basic test"),
    *("task-force", "risk-adjusted-return-on-capital", "desk_1234567890abcdefgh", "disk-0123456789abcdefghijkl"),
    *("eyJust a word", "-----BEGIN CERTIFICATE-----", "ghp_short", "AKIA", "xoxo-love", "git@example.com:org/repo.git"),
    *("2026-11-21T06:22:04.123456Z", "3.14", "", " ", "\0", "naïve café", "密码", "🔑"),
]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("around", ["{}", "see {}, please", "KEY={}", '{{"k":"{}"}}', "({})", "a\n{}\nb", "“{}”"])
def test_known_tokens_are_replaced_whole(token: str, around: str) -> None:
    """A known token goes, wherever in a text it stands, and nothing else of the text does."""
    assert redact_text(around.format(token)) == around.format(REDACTED)
    assert may_hold_secret(orjson.dumps(around.format(token)))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Authorization: Bearer abc.def", f"Authorization: {REDACTED}"),
        ("authorization=Basic dXNlcjpwYXNz", f"authorization={REDACTED}"),
        (
            "curl -H 'Authorization: token abc' https://example.com",
            f"curl -H 'Authorization: {REDACTED}' https://example.com",
        ),
        ("AUTHORIZATION:abc; more", f"AUTHORIZATION:{REDACTED}; more"),
        ("it sent Bearer abcdefgh12345678, then left", f"it sent Bearer {REDACTED}, then left"),
        ("postgresql://ann:hunter2@db.example.com/app", f"postgresql://ann:{REDACTED}@db.example.com/app"),
        ("redis://:hunter2@cache:6379/0", f"redis://:{REDACTED}@cache:6379/0"),
        ("postgresql://ann:p@ss@db/app", f"postgresql://ann:{REDACTED}@db/app"),
        ("https://ann@example.com/", "https://ann@example.com/"),
    ],
)
def test_headers_and_urls_lose_their_secret_only(text: str, clean: str) -> None:
    """Of an `Authorization` header, a bearer or a URL with a password, the rest stays readable."""
    assert redact_text(text) == clean
    assert may_hold_secret(orjson.dumps(text)) or text == clean


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_names_of_secrets(name: str) -> None:
    """The value of a key that names a secret by its last words is replaced as a whole, whatever it is."""
    assert is_secret_name(name)
    for value in ("hunter2", 1234, ["a", "b"], {"a": {"b": 1}}, " "):
        assert redact({name: value}) == {name: REDACTED}
        assert may_hold_secret(orjson.dumps({name: value}))
    for nothing in (None, True, False, ""):
        assert redact({name: nothing}) == {name: nothing}


@pytest.mark.parametrize("name", HARMLESS_NAMES)
def test_names_that_only_look_like_it(name: str) -> None:
    """A key that merely contains such a word keeps its value."""
    assert not is_secret_name(name)
    assert redact({name: "hunter2"}) == {name: "hunter2"}


@pytest.mark.parametrize("text", HARMLESS_TEXTS)
def test_vague_shapes_stay(text: str) -> None:
    """Versions, hosts, models, hashes and ids are no secrets."""
    assert redact_text(text) == text
    assert redact({"value": [text, {"value": text}]}) == {"value": [text, {"value": text}]}


def test_everything_is_searched() -> None:
    """Values are found at any depth, in lists and in the names of keys; `env` and `adapterConfig` value by value."""
    details = {
        "env": {"OPENAI_API_KEY": "abc", "LANG": "C", "URL": f"https://x/?k={GITHUB}"},
        "adapterConfig": {
            "model": "us.anthropic.claude-x",
            "headers": [{"Authorization": "Bearer x"}],
            "maxTokens": 4096,
        },
        "deep": [[{"a": [f"x {GITHUB} y"]}]],
        f"key {GITHUB}": 1,
        f"{GITHUB} token": 2,
    }
    found: list[None] = []
    assert redact(details, found=lambda: found.append(None)) == {
        "env": {"OPENAI_API_KEY": REDACTED, "LANG": "C", "URL": f"https://x/?k={REDACTED}"},
        "adapterConfig": {
            "model": "us.anthropic.claude-x",
            "headers": [{"Authorization": REDACTED}],
            "maxTokens": 4096,
        },
        "deep": [[{"a": [f"x {REDACTED} y"]}]],
        f"key {REDACTED}": 1,
        f"{REDACTED} token": REDACTED,
    }
    assert len(found) == 5  # each value once


PIECES: st.SearchStrategy[str] = st.sampled_from(
    [hint.decode() for hint in HINTS]
    + [str(param.values[0]) for param in TOKENS]
    + [*SECRET_NAMES, *HARMLESS_NAMES, *HARMLESS_TEXTS, REDACTED]
    + [
        "Bearer ",
        "Authorization: ",
        "://",
        ":p@",
        " ",
        "-",
        "_",
        ".",
        '"',
        "\\",
        "\n",
        "\u0130",
        "\u0131",
        "\u017f",
        "\u212a",
        "x" * 20,
    ]  # letters whose lower case is ASCII
)
TEXTS = st.one_of(st.lists(PIECES | st.text(max_size=3), max_size=6).map("".join), st.text())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
@example({"task_id": "t"})
@example({"a": 'x"task_id":sk_0123456789abcdef'})
def test_the_quick_search_hides_nothing(value: Any) -> None:
    """What the first look at the encoded bytes calls clean is what the full walk leaves untouched."""
    if not may_hold_secret(orjson.dumps(value)):
        assert redact(value) == value


@given(VALUES, st.booleans())
@example("\u017fk_", False)
@example("\u212aey", False)
def test_the_quick_search_finds_every_hint(value: Any, upper: bool) -> None:
    """The first look finds what a search for one hint after the other finds, in capitals too, and no more."""
    encoded = orjson.dumps(value)
    encoded = encoded.upper() if upper else encoded
    plain = encoded.replace(b'"task_id":', b"").lower()
    assert may_hold_secret(encoded) == any(hint in plain for hint in HINTS)


@given(VALUES)
def test_redaction_is_stable(value: Any) -> None:
    """What was redacted once stays as it is: appending an event again that was read from the log changes nothing."""
    once = redact(value)
    assert redact(once) == once


@given(st.text(max_size=30), st.sampled_from([param.values[0] for param in TOKENS]), st.text(max_size=30))
def test_a_token_between_words_never_stays(before: str, token: str, after: str) -> None:
    """Whatever surrounds a token at a distance of a space, it is gone."""
    assert token not in redact_text(f"{before} {token} {after}")


@pytest.mark.parametrize(
    "unit",
    ["a", "A", "-eyJ", "eyJaaaaaaaa.", "://", "a://:", "://a:@", ":", "@", "sk-", "sk_-", "xox", "bearer ", "Bearer  a",
     "authorization:", "authorization ", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "-----END ", " ", "\n", "é", "a1-."],
)  # fmt: skip
def test_time_is_in_proportion_to_the_text(unit: str) -> None:
    """No text of the size of an event keeps the server busy: a pattern that is tried anew at each character would, for minutes."""
    started = time.process_time()
    for lead in ("", "authorization: ", "bearer ", "://a:", "-----BEGIN ", "eyJ"):
        redact_text(lead + unit * (256 * 1024 // len(unit)))
    is_secret_name(unit * (256 * 1024 // len(unit)))
    assert time.process_time() - started < 10  # about 1 s here, 60 s a text for a quadratic pattern


# ---- through the server


def leaky(**event: Any) -> dict[str, Any]:
    """Return an event with a secret wherever a text can be."""
    return make_event(
        **{
            "actor": {"type": "agent", "id": f"a {GITHUB}", "name": f"n {GITHUB}", "role": GITHUB, "ip": GITHUB},
            "entity": {"type": "auth", "id": f"i {GITHUB}", "identifier": GITHUB, "name": f"https://u:{GITHUB}@x"},
            "run_id": f"r {GITHUB}",
            "description": f"used {JWT} and {OURS}",
            "details": {"env": {"API_KEY": "hunter2"}, "log": [f"Authorization: Bearer {OURS}"], f"k {GITHUB}": PEM},
            "changes": {
                "password": {"from": "hunter2", "to": "hunter3"},
                "url": {"to": "redis://:hunter2@x"},
                f"n {GITHUB}": {"from": None, "to": 5},
            },
            **event,
        }
    )


SECRETS = [GITHUB, JWT, OURS, "hunter2", "hunter3", "MIIEpAIBAAKCAQEA7bq"]


async def test_nothing_secret_is_stored_or_served(server: Server, api: Api, tmp_path: Path) -> None:
    """What the answer, history, search, the live stream and the database's file hold of a secret is that there was one."""
    (await api.append("w")).expect(201)
    async with await api.stream("w") as live:
        await live.next("synced")
        answer = await api.post(events("w"), leaky(id="e"))
        stored = answer.expect(201)
        assert (await live.events(1)) == [stored]
    assert stored["actor"] == {"type": "agent", "id": f"a {REDACTED}", "name": f"n {REDACTED}", "role": REDACTED,
                               "on_behalf_of": None, "ip": REDACTED}  # fmt: skip
    assert stored["entity"] == {
        "type": "auth",
        "id": f"i {REDACTED}",
        "identifier": REDACTED,
        "name": f"https://u:{REDACTED}@x",
    }
    assert stored["run_id"] == f"r {REDACTED}"
    assert stored["description"] == f"used {REDACTED} and {REDACTED}"
    assert stored["details"] == {
        "env": {"API_KEY": REDACTED},
        "log": [f"Authorization: {REDACTED}"],
        f"k {REDACTED}": REDACTED,
    }
    assert stored["changes"] == {
        "password": {"from": REDACTED, "to": REDACTED},
        "url": {"to": f"redis://:{REDACTED}@x"},
        f"n {REDACTED}": {"from": None, "to": 5},
    }
    async with await api.stream("w", after="2001-01-01T00:00:00Z") as replay:
        assert (await replay.events(2))[1] == stored
    assert (await api.get(events("w"), run_id=f"r {REDACTED}")).json["events"] == [stored]
    seen = [answer.body, (await api.get(f"{events('w')}/e")).body, live.raw, replay.raw]
    seen += [file.read_bytes() for file in tmp_path.glob("streamer.db*")]  # noqa: ASYNC240
    for secret in SECRETS:
        assert (await api.get(events("w"), q=secret)).json["events"] == []
        assert not [text for text in seen if secret.encode() in text], secret
    assert server.url


async def test_a_redacted_event_is_still_the_same_event(api: Api) -> None:
    """Sending the same secret again is the same event, by its id and by Idempotency-Key; so is sending what was stored."""
    key = {"Idempotency-Key": "k"}
    first = await api.post(events("w"), leaky(id="e"), headers=key)
    first.expect(201)
    for headers in (key, {}):
        again = await api.post(events("w"), leaky(id="e"), headers=headers)
        assert (again.status, again.body) == (200, first.body)
    sent = {name: value for name, value in first.json.items() if name not in {"seq", "timestamp", "workspace_id"}}
    again = await api.post(events("w"), sent)
    assert (again.status, again.body) == (200, first.body)


async def test_nothing_secret_is_in_errors_and_logs(make_process: MakeProcess, http: aiohttp.ClientSession) -> None:
    """Errors name fields, not their values, and the log has no line with a secret that an event brought."""
    process = make_process(log_level="debug")
    await process.start()
    api = Api(http, process.url, ADMIN_KEY)
    (await api.post(events("w"), leaky(id="e"))).expect(201)
    answers = [
        await api.post(events("w"), leaky(category=GITHUB)),
        await api.post(events("w"), leaky(occurred_at=GITHUB)),
        await api.post(events("w"), leaky(traceparent=JWT)),
        await api.post(events("w"), leaky(id="e", action="x.y")),
        await api.post(events("w"), leaky(details={"a": "x" * 300_000, "password": "hunter2"})),
        await api.post(events("w"), [leaky(), leaky(actor=GITHUB)]),
        await api.post(events("w"), data=b'{"action":"' + GITHUB.encode() + b'",}'),
    ]
    assert [answer.status for answer in answers] == [400, 400, 400, 409, 413, 400, 400]
    assert await process.stop() == 0
    for secret in SECRETS:
        assert not [answer.body for answer in answers if secret.encode() in answer.body]
        assert secret not in process.log
