"""Tokens: which are accepted, which are refused, and where the keys come from."""

import asyncio
import datetime as dt
import gzip
import itertools
import json
import os
import re
import ssl
import subprocess
import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
from click import Context
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import example, given
from hypothesis import strategies as st
from jwt import get_algorithm_by_name
from structlog.testing import capture_logs

from streamer.access.jwks import (
    MAX_SET_BYTES,
    MAX_SET_KEYS,
    PAUSE_SECONDS,
    SECOND,
    Jwks,
    read_key,
    read_object,
    read_set,
    secret_key,
)
from streamer.access.jwt import MAX_GRANTS, MAX_TOKEN, Claims, Rules, Tokens, check_claims, looks_like_jwt
from streamer.access.principal import SCOPES
from streamer.cli import main
from streamer.core.clock import LAST
from streamer.core.errors import IssuerUnavailable, Unauthenticated
from streamer.observe.loops import Loops
from streamer.observe.metrics import Metrics
from streamer.settings import Settings, SettingsError, load
from tests.support.issuer import Issuer, IssuerKey, hangs, issuer_key, private_key, says
from tests.support.tools import ROOT, require
from tests.support.waiting import SECONDS, eventually

SECRET = "the secret of the tests, which is long enough"
PUBLISHED = ("RS256", "ES256", "EdDSA")
SECONDS_NOW = 1_795_242_124
REFUSED = "the token is malformed, or no key of this server verifies it with a supported algorithm"
"""The text of every error that is found before the signature is verified."""


class Clock:
    """A wall clock that the test moves."""

    def __init__(self, seconds: float = SECONDS_NOW) -> None:
        self.seconds = seconds

    def __call__(self) -> int:
        return int(self.seconds * SECOND)


@pytest.fixture
def clock() -> Clock:
    """Create the test's clock."""
    return Clock()


@pytest.fixture
def metrics() -> Metrics:
    """Create the test's metrics."""
    return Metrics()


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """Start an issuer with a key for each algorithm."""
    async with Issuer(*(issuer_key(alg, alg.lower()) for alg in PUBLISHED)) as issuer:
        yield issuer


MakeTokens = Callable[..., Tokens]


@pytest.fixture
def make_tokens(issuer: Issuer, metrics: Metrics, clock: Clock) -> MakeTokens:
    """Create verifiers of the secret's and the issuer's tokens. Keywords are options of the fetching."""

    def make(rules: Rules | None = None, **options: float) -> Tokens:
        jwks = Jwks(issuer.url, metrics, clock=clock, **{"refresh_seconds": 300, **options})
        return Tokens(secret_key(SECRET), jwks, rules or Rules(), clock)

    return make


@pytest.fixture
def tokens(make_tokens: MakeTokens) -> Tokens:
    """Create a verifier of the secret's and the issuer's tokens."""
    return make_tokens()


def claims(**changes: Any) -> dict[str, Any]:
    """Return the claims of a token; None removes a claim."""
    said = {"sub": "user-123", "exp": SECONDS_NOW + 60, **changes}
    return {name: value for name, value in said.items() if value is not None}


def by_secret(payload: dict[str, Any], secret: str | bytes = SECRET, **headers: Any) -> str:
    """Sign with HS256."""
    return jwt.encode(payload, secret, "HS256", headers=headers)


def encode(raw: bytes | object) -> str:
    """Encode bytes, or a value as JSON, in base64url."""
    data = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(header: bytes | object, payload: bytes | object, secret: str | bytes = SECRET) -> str:
    """Sign any header and payload with HS256, without a library that would refuse."""
    signed = f"{encode(header)}.{encode(payload)}"
    key = secret.encode() if isinstance(secret, str) else secret
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    return f"{signed}.{encode(algorithm.sign(signed.encode(), key))}"


def only_by_secret(now: int = SECONDS_NOW * SECOND, **rules: Any) -> Tokens:
    """Return a verifier of the secret's tokens alone."""
    return Tokens(secret_key(SECRET), None, Rules(**rules), lambda: now)


def text_of(tokens: Tokens, token: str) -> str | None:
    """Return the error's text for a token of the secret, or None if the token is valid."""
    try:
        asyncio.run(tokens.verify(token))
    except Unauthenticated as error:
        return error.message
    return None


async def refusal(tokens: Tokens, token: str) -> str:
    """Return the text with which a token is refused."""
    with pytest.raises(Unauthenticated) as caught:
        await tokens.verify(token)
    assert SECRET not in caught.value.message
    return caught.value.message


# ---- valid tokens


async def test_a_secret_verifies(tokens: Tokens) -> None:
    """An HS256 token identifies the caller, the grants and the expiry; its `kid` is ignored."""
    found = await tokens.verify(by_secret(claims(name="Ada", grants={"ws_1": [SCOPES[0]], "*": []}), kid="any"))
    assert found == Claims(
        subject="user-123",
        name="Ada",
        grants={"ws_1": frozenset({SCOPES[0]}), "*": frozenset()},
        expires_at=(SECONDS_NOW + 60) * SECOND,
        signer=secret_key(SECRET).identity,
    )
    assert tokens.stands(found.signer)
    assert not Tokens(secret_key(SECRET + "!"), None, Rules()).stands(found.signer)
    assert not Tokens(None, None, Rules()).stands(found.signer)


@pytest.mark.parametrize("alg", PUBLISHED)
async def test_a_published_key_verifies(tokens: Tokens, issuer: Issuer, alg: str) -> None:
    """An RS256, ES256 or EdDSA token is verified with the published key that it names."""
    found = await tokens.verify(issuer_key(alg, alg.lower()).sign(claims()))
    assert (found.subject, found.name, found.grants) == ("user-123", None, {})
    assert tokens.stands(found.signer)
    assert not tokens.stands(alg.lower())
    assert len(issuer.requests) == 1


async def test_nothing_is_fetched_for_known_keys(tokens: Tokens, issuer: Issuer, clock: Clock) -> None:
    """Tokens with a known key are verified without fetching, at any time, whether they are valid or not."""
    key = issuer_key("RS256", "rs256")
    await tokens.verify(key.sign(claims()))
    clock.seconds += 1000
    await tokens.verify(key.sign(claims(exp=SECONDS_NOW + 2000)))
    assert await refusal(tokens, key.sign(claims())[:-4]) == REFUSED
    assert await refusal(tokens, issuer_key("RS256", "es256").sign(claims())) == REFUSED
    assert await refusal(tokens, jwt.encode(claims(), SECRET * 2, "HS512", headers={"kid": "?"})) == REFUSED
    assert len(issuer.requests) == 1


async def test_without_a_kid(tokens: Tokens, issuer: Issuer, clock: Clock) -> None:
    """A token without `kid` is verified if exactly one key fits its algorithm."""
    nameless = issuer_key("ES256", None)
    assert (await tokens.verify(nameless.sign(claims()))).subject == "user-123"
    issuer.keys.append(issuer_key("ES256", None, 1))
    clock.seconds += PAUSE_SECONDS
    await tokens.refresh()
    assert await refusal(tokens, nameless.sign(claims())) == REFUSED
    assert (await tokens.verify(issuer_key("RS256", None).sign(claims()))).subject == "user-123"


async def test_a_kid_that_two_keys_have(tokens: Tokens, issuer: Issuer) -> None:
    """Two keys with one `kid` are distinguished by algorithm. Two with the same algorithm are ambiguous and unused."""
    issuer.keys = [issuer_key(alg) for alg in PUBLISHED] + [issuer_key("EdDSA", number=1)]
    await tokens.verify(issuer_key("RS256").sign(claims()))
    await tokens.verify(issuer_key("ES256").sign(claims()))
    assert await refusal(tokens, issuer_key("EdDSA").sign(claims())) == REFUSED


async def test_neither_is_the_others(issuer: Issuer, metrics: Metrics) -> None:
    """Without the secret, HS256 is refused; without the issuer, the other algorithms are. Neither causes a fetch."""
    jwks = Jwks(issuer.url, metrics, refresh_seconds=300)
    only_jwks, only_secret = Tokens(None, jwks, Rules()), only_by_secret()
    assert await refusal(only_jwks, by_secret(claims())) == REFUSED
    assert await refusal(only_secret, issuer_key("RS256", "rs256").sign(claims())) == REFUSED
    assert not issuer.requests
    await only_secret.refresh()
    only_secret.start(Loops(metrics))
    only_secret.close()


def test_thumbprints() -> None:
    """A key's identity is its thumbprint, as in the examples of RFC 7638, section 3.1, and RFC 8037, appendix A.3."""
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs"
        "tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91"
        "CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    rsa = read_key({"kty": "RSA", "n": modulus, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"})
    assert rsa
    assert rsa.identity == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    okp = read_key({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
    assert okp
    assert okp.identity == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


# ---- forged tokens


def _pem(key: IssuerKey) -> bytes:
    return key.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _der_signed(key: IssuerKey) -> str:
    """Sign with ES256 and encode the signature as ASN.1, which JWS does not allow."""
    signed, _, signature = key.sign(claims()).rpartition(".")
    raw = urlsafe_b64decode(signature + "==")
    der = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    return f"{signed}.{encode(der)}"


def _with_header(token: str, **changes: Any) -> str:
    """Change a token's header and keep its signature."""
    header, payload, signature = token.split(".")
    said = json.loads(urlsafe_b64decode(header + "==")) | changes
    return f"{encode(said)}.{payload}.{signature}"


def _foreign(alg: str, kind: str, curve: str) -> str:
    """Sign under an algorithm's name with a key of another curve."""
    private = private_key(kind)
    signed = f"{encode({'alg': alg, 'kid': alg.lower()})}.{encode(claims())}"
    algorithm: Any = get_algorithm_by_name(curve)
    return f"{signed}.{encode(algorithm.sign(signed.encode(), private))}"


def _unsigned(alg: object) -> str:
    return f"{encode({'alg': alg, 'kid': 'rs256'})}.{encode(claims())}."


NO_ALGORITHMS: tuple[object, ...] = ("none", "None", "NONE", "nOnE", "", None, 0, ["none"], ["HS256"], {}, True)
RSA, EC, OKP = (issuer_key(alg, alg.lower()) for alg in PUBLISHED)
MINE = issuer_key("RS256", "rs256", 99)
"""A key that the issuer does not publish, under the name of one that it does."""

FORGED: dict[str, Callable[[], str]] = {
    **{f"alg {alg!r}": partial(_unsigned, alg) for alg in NO_ALGORITHMS},
    "no alg": lambda: f"{encode({'kid': 'rs256'})}.{encode(claims())}.",
    "alg none, signed": lambda: sign({"alg": "none"}, claims()),
    "alg hs256": lambda: sign({"alg": "hs256"}, claims()),
    "alg HS256 with a space": lambda: sign({"alg": "HS256 "}, claims()),
    "alg HS384": lambda: jwt.encode(claims(), SECRET + SECRET, "HS384"),
    "the signature left out": lambda: by_secret(claims()).rpartition(".")[0] + ".",
    "another secret": lambda: by_secret(claims(), SECRET + "!"),
    "no secret": lambda: sign({"alg": "HS256"}, claims(), b""),
    "HS256 by the PEM": lambda: sign({"alg": "HS256", "kid": "rs256"}, claims(), _pem(RSA)),
    "HS256 by the PEM, stripped": lambda: sign({"alg": "HS256", "kid": "rs256"}, claims(), _pem(RSA).strip()),
    "HS256 by the JWK": lambda: sign({"alg": "HS256", "kid": "rs256"}, claims(), json.dumps(RSA.jwk)),
    "HS256 by the modulus": lambda: sign({"alg": "HS256"}, claims(), urlsafe_b64decode(RSA.jwk["n"] + "==")),
    "HS256 by a thumbprint": lambda: sign({"alg": "HS256"}, claims(), read_key(RSA.jwk).identity),  # type: ignore[union-attr]
    "a published alg by the secret": lambda: sign({"alg": "RS256", "kid": "rs256"}, claims()),
    "another key": lambda: MINE.sign(claims()),
    "another kid": lambda: RSA.sign(claims(), kid="es256"),
    "a kid that is no text": lambda: _with_header(RSA.sign(claims()), kid=1),
    "RS256 as RS512": lambda: jwt.encode(claims(), RSA.private, "RS512", headers={"kid": "rs256"}),
    "RS256 as PS256": lambda: jwt.encode(claims(), RSA.private, "PS256", headers={"kid": "rs256"}),
    "the wrong curve": lambda: _foreign("ES256", "P-384", "ES384"),
    "Ed448": lambda: _foreign("EdDSA", "Ed448", "EdDSA"),
    "ES256 with a signature of ASN.1": lambda: _der_signed(EC),
    "ES256 with zeros": lambda: EC.sign(claims()).rpartition(".")[0] + "." + encode(bytes(64)),
    "EdDSA with zeros": lambda: OKP.sign(claims()).rpartition(".")[0] + "." + encode(bytes(64)),
    "its own jwk": lambda: MINE.sign(claims(), jwk=MINE.jwk),
    "its own jwk, no kid": lambda: issuer_key("RS256", None, 99).sign(claims(), jwk=MINE.jwk),
    "its own x5c": lambda: MINE.sign(claims(), x5c=[encode(_pem(MINE))]),
    "crit": lambda: by_secret(claims(), crit=["exp"], exp=1),
    "crit that is empty": lambda: sign({"alg": "HS256", "crit": []}, claims()),
    "crit that is null": lambda: sign({"alg": "HS256", "crit": None}, claims()),
    "an unencoded payload": lambda: sign({"alg": "HS256", "crit": ["b64"], "b64": False}, claims()),
    "for logging out": lambda: by_secret(claims(), typ="logout+jwt"),
    "typ that is no text": lambda: sign({"alg": "HS256", "typ": ["JWT"]}, claims()),
    "alg twice": lambda: sign(b'{"alg":"none","alg":"HS256"}', claims()),
    "a header that is a list": lambda: sign(["HS256"], claims()),
    "a header in UTF-16": lambda: sign('{"alg":"HS256"}'.encode("utf-16"), claims()),
    "a header that is a bomb": lambda: sign(b'{"alg":"HS256","x":' + b"[" * 3000 + b"]" * 3000 + b"}", {}),
    "five parts": lambda: by_secret(claims()) + ".a.b",
    "two parts": lambda: by_secret(claims()).rpartition(".")[0],
    "padding": lambda: by_secret(claims()) + "=",
    "an empty text": lambda: "",
    "a key": lambda: "sk_" + "a" * 40,
}


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_token(tokens: Tokens, name: str) -> None:
    """A token that is not signed with a trusted key and its algorithm gets 401, always with the same text."""
    await tokens.verify(RSA.sign(claims()))  # the keys are known
    assert await refusal(tokens, FORGED[name]()) == REFUSED


async def test_keys_that_a_token_brings_along(tokens: Tokens, issuer: Issuer) -> None:
    """A key or key URL in the header is ignored: nothing is fetched, and a valid token stays valid."""
    async with Issuer(MINE) as other:
        pointing = {"jku": other.url, "x5u": other.url}
        assert await refusal(tokens, MINE.sign(claims(), **pointing)) == REFUSED
        await tokens.verify(RSA.sign(claims(), **pointing, jwk=MINE.jwk))
        assert not other.requests
    assert len(issuer.requests) == 1


@pytest.mark.parametrize("key", [None, RSA, EC, OKP], ids=["HS256", *PUBLISHED])
async def test_a_damaged_token(tokens: Tokens, key: IssuerKey | None) -> None:
    """A truncated token or one with any changed bit is refused, so no two texts are the same token."""
    token = by_secret(claims()) if key is None else key.sign(claims())
    await tokens.verify(token)
    for end in range(len(token)):
        assert await refusal(tokens, token[:end]) == REFUSED
    for place, character in enumerate(token):
        for bit in (1, 2, 4, 32):
            damaged = token[:place] + chr(ord(character) ^ bit) + token[place + 1 :]
            assert await refusal(tokens, damaged) == REFUSED


async def test_an_endless_token(tokens: Tokens) -> None:
    """A token above 8 KiB is refused, whoever signed it."""
    (fits, too_long) = (by_secret(claims(x="a" * length)) for length in (MAX_TOKEN * 3 // 4 - 150, MAX_TOKEN))
    assert len(fits) <= MAX_TOKEN < len(too_long)
    await tokens.verify(fits)
    assert "longer than 8192" in await refusal(tokens, too_long)


@pytest.mark.parametrize("typ", [None, "JWT", "jwt", "at+jwt", "application/at+jwt"])
async def test_types_of_tokens(tokens: Tokens, typ: str | None) -> None:
    """The `typ` of a token may be JWT, access token or absent."""
    await tokens.verify(sign({"alg": "HS256", **({"typ": typ} if typ else {})}, claims()))


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (by_secret(claims()), True),
        (RSA.sign(claims()), True),
        (f"{encode({'alg': 'none'})}.{encode(claims())}.", True),
        ("sk_" + "a" * 43, False),
        ("eyJ", False),
        ("eyJ.a", False),
        ("eyJ.a.b.c", False),
        ("eyJ.a.b.c.d", False),
        ("eyJ.ä.b", False),
        ("eyJ.a.b\n", False),
        ("eyJ.a+b.c", False),
        ("abc.a.b", False),
        ("", False),
    ],
    ids=itertools.count(),
)
def test_what_looks_like_a_token(text: str, is_one: bool) -> None:
    """Tokens and keys are distinguished by their form."""
    assert looks_like_jwt(text) is is_one


# ---- claims


NO_TIMES: tuple[object, ...] = (True, -1, 1.0, SECONDS_NOW + 0.5, "1", "9999999999", [1], {}, 10**12, 10**40)
NO_GRANTS: tuple[object, ...] = (
    [],
    "admin",
    True,
    {"ws": "admin"},
    {"ws": ["root"]},
    {"ws": [1]},
    {"ws": [["admin"]]},
    {"ws": {"admin": 1}},
    {"": []},
    {"a b": []},
    {"..": []},
    {"**": []},
)
WRONG_CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({"sub": None}, "`sub`"),
    ({"sub": ""}, "`sub`"),
    ({"sub": 1}, "`sub`"),
    ({"sub": ["user-123"]}, "`sub`"),
    ({"sub": "a" * 513}, "`sub`"),
    ({"sub": "a\0b"}, "`sub`"),
    ({"exp": None}, "`exp`"),
    *(({name: value}, f"`{name}`") for name in ("exp", "nbf", "iat") for value in NO_TIMES),
    ({"exp": SECONDS_NOW - 5}, "expired"),
    ({"exp": 0}, "expired"),
    ({"nbf": SECONDS_NOW + 6}, "`nbf`"),
    ({"iat": SECONDS_NOW + 6}, "`iat`"),
    ({"aud": "another"}, "`aud`"),
    ({"aud": ["another"]}, "`aud`"),
    ({"aud": []}, "`aud`"),
    ({"aud": ""}, "`aud`"),
    *(({"grants": value}, "`grants`") for value in NO_GRANTS),
]


@pytest.mark.parametrize(("changes", "said"), WRONG_CLAIMS)
async def test_a_wrong_claim(tokens: Tokens, changes: dict[str, Any], said: str) -> None:
    """A signed token with a missing, malformed or invalid claim gets 401, and the error names the claim."""
    token = sign({"alg": "HS256"}, claims(**changes))
    assert said in await refusal(tokens, token)
    header, payload, _ = token.split(".")
    assert await refusal(tokens, f"{header}.{payload}.{encode(bytes(32))}") == REFUSED


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat", "sub", "aud", "grants"])
async def test_null_is_not_absence(tokens: Tokens, claim: str) -> None:
    """A claim that is null is malformed."""
    assert f"`{claim}`" in await refusal(tokens, sign({"alg": "HS256"}, claims() | {claim: None}))


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({"aud": "us", "iss": "them"}, True),
        ({"aud": ["x", "us"], "iss": "them"}, True),
        ({"aud": "us"}, False),
        ({"iss": "them"}, False),
        ({"aud": "u", "iss": "them"}, False),
        ({"aud": "us2", "iss": "them"}, False),
        ({"aud": {"us": 1}, "iss": "them"}, False),
        ({"aud": ["x", ["us"]], "iss": "them"}, False),
        ({"aud": "us", "iss": "them/"}, False),
        ({"aud": "us", "iss": ["them"]}, False),
    ],
)
async def test_issuer_and_audience(make_tokens: MakeTokens, changes: dict[str, Any], taken: bool) -> None:
    """If configured, the issuer must match and the audience must contain this server."""
    tokens = make_tokens(Rules(issuer="them", audience="us"))
    if taken:
        await tokens.verify(by_secret(claims(**changes)))
    else:
        text = await refusal(tokens, sign({"alg": "HS256"}, claims(**changes)))
        assert "`aud`" in text or "`iss`" in text


@pytest.mark.parametrize("name", [1, "", "a" * 257, "a\0", ["Ada"], None])
async def test_a_name_that_is_none(tokens: Tokens, name: object) -> None:
    """An invalid name is ignored, because nothing depends on it."""
    assert (await tokens.verify(sign({"alg": "HS256"}, claims() | {"name": name}))).name is None


def test_many_grants() -> None:
    """A token may grant at most 1,000 workspaces."""
    for count, is_taken in ((MAX_GRANTS, True), (MAX_GRANTS + 1, False)):
        payload = claims(grants={f"ws{number}": list(SCOPES) for number in range(count)})
        if is_taken:
            assert len(check_claims(payload, 0, Rules(), "key").grants) == count
        else:
            with pytest.raises(Unauthenticated, match="`grants`"):
                check_claims(payload, 0, Rules(), "key")


@given(
    now=st.integers(0, 100 * SECOND),
    exp=st.integers(0, 100),
    nbf=st.none() | st.integers(0, 100),
    iat=st.none() | st.integers(0, 100),
    leeway=st.integers(0, 60),
)
@example(now=10 * SECOND, exp=10, nbf=None, iat=None, leeway=0)
@example(now=10 * SECOND, exp=10, nbf=None, iat=None, leeway=1)
@example(now=10 * SECOND, exp=11, nbf=11, iat=None, leeway=1)
@example(now=10 * SECOND, exp=11, nbf=None, iat=11, leeway=0)
def test_times(now: int, exp: int, nbf: int | None, iat: int | None, leeway: int) -> None:
    """A token is valid from its `nbf` and `iat` until its `exp`, with the leeway. Its expiry is always in the future."""
    holds = now < (exp + leeway) * SECOND and all(
        at is None or at * SECOND <= now + leeway * SECOND for at in (nbf, iat)
    )
    payload = claims(exp=exp, nbf=nbf, iat=iat)
    if not holds:
        with pytest.raises(Unauthenticated):
            check_claims(payload, now, Rules(leeway=leeway), "key")
        return
    ends = check_claims(payload, now, Rules(leeway=leeway), "key").expires_at
    assert ends > now
    assert ends == (exp if exp * SECOND > now else exp + leeway) * SECOND


def test_the_last_second() -> None:
    """The last second of the year 9999 is accepted as an expiry; the next second is not."""
    assert check_claims(claims(exp=LAST // SECOND), 0, Rules(), "key").expires_at <= LAST
    with pytest.raises(Unauthenticated):
        check_claims(claims(exp=LAST // SECOND + 1), 0, Rules(), "key")


# ---- arbitrary tokens


PAYLOAD_TEXT = "the token's payload must be a JSON object in UTF-8 without duplicate members"


@pytest.mark.parametrize(
    "payload",
    [
        b"[]",
        b"null",
        b'"text"',
        b'{"sub":"a","sub":"b","exp":9999999999}',
        b'{"sub":"a","exp":9999999999,"x":{"y":1,"y":1}}',
        b'{"sub":"a","exp":NaN}',
        b'{"sub":"a","exp":9999999999,"x":Infinity}',
        b'{"sub":"a","exp":9999999999,"x":-Infinity}',
        b'{"sub":"a","exp":9999999999,"x":1e999}',
        b'{"sub":"a","exp":1' + b"0" * 5000 + b"}",
        b'{"sub":"\\ud800","exp":9999999999}',
        b'{"sub":"a","exp":9999999999,"name":"\\udc00"}',
        b'{"sub":"\xed\xa0\x80","exp":9999999999}',
        b'{"sub":"\xff","exp":9999999999}',
        b'\xef\xbb\xbf{"sub":"a","exp":9999999999}',
        '{"sub":"a","exp":9999999999}'.encode("utf-16"),
        b'{"sub":"a","exp":9999999999,}',
        b'{"sub":"a","exp":9999999999}x',
        b'{"x":' + b"[" * 1000 + b"]" * 1000 + b"}",
        b'{"x":' + b"[" * 2900 + b"]" * 2900 + b"}",
        b'{"x":' * 1000 + b"1" + b"}" * 1000,
        b"[" * 5000,
    ],
)
async def test_a_payload_that_two_readers_may_understand_differently(tokens: Tokens, payload: bytes) -> None:
    """A signed payload that is not a JSON object, or that parsers may read differently, gets 401."""
    assert await refusal(tokens, sign({"alg": "HS256"}, payload)) == PAYLOAD_TEXT


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(SCOPES),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
CLAIMS = ("sub", "exp", "nbf", "iat", "iss", "aud", "name", "grants")


@given(st.text() | st.from_regex(r"eyJ[\w-]*\.[\w-]*\.[\w-]*") | st.text(st.characters(categories=["Cs"])))
@example("\ud800.\ud800.\ud800")
@example("eyJ.e.A")
def test_any_text(text: str) -> None:
    """Any text as a token gets 401 and nothing else happens."""
    assert text_of(only_by_secret(), text) == REFUSED


@given(st.binary() | anything, st.binary(min_size=1) | anything)
def test_any_header_and_payload(header: bytes | object, payload: bytes | object) -> None:
    """Any payload signed correctly, under any header, is a token or gets 401."""
    assert text_of(only_by_secret(), sign(header, payload)) == REFUSED
    assert text_of(only_by_secret(), sign({"alg": "HS256"}, payload)) not in {None, REFUSED}


@given(st.dictionaries(st.sampled_from(CLAIMS), anything), st.booleans())
def test_any_claims(changes: dict[str, Any], with_names: bool) -> None:
    """Any claims result in valid `Claims` or a 401."""
    tokens = only_by_secret(issuer="them", audience="us") if with_names else only_by_secret()
    token = sign({"alg": "HS256"}, claims() | ({"iss": "them", "aud": "us"} if with_names else {}) | changes)
    try:
        found = asyncio.run(tokens.verify(token))
    except Unauthenticated:
        assert text_of(tokens, token) != REFUSED
        return
    assert 0 < len(found.subject) <= 512
    assert found.expires_at > SECONDS_NOW * SECOND
    assert all(scopes <= set(SCOPES) for scopes in found.grants.values())


@given(st.binary() | st.text().map(str.encode) | anything.map(lambda value: json.dumps(value).encode()))
def test_any_json(raw: bytes) -> None:
    """A strictly parsed document has the same value in every JSON parser."""
    try:
        found = read_object(raw)
    except ValueError:
        return
    assert found == json.loads(raw)


# ---- the key set


def _without(key: IssuerKey, *names: str) -> dict[str, Any]:
    return {name: value for name, value in key.jwk.items() if name not in names}


UNUSABLE: dict[str, object] = {
    "a secret": {"kty": "oct", "k": encode(b"a" * 32), "alg": "HS256", "kid": "x"},
    "a secret that says RS256": {"kty": "oct", "k": encode(b"a" * 32), "alg": "RS256"},
    "a short RSA key": replace(RSA, private=private_key("RSA-1024")).jwk,
    "P-384": IssuerKey("ES384", private_key("P-384"), "x").jwk,
    "P-384 as ES256": IssuerKey("ES384", private_key("P-384"), "x").jwk | {"alg": "ES256"},
    "P-384 as P-256": IssuerKey("ES384", private_key("P-384"), "x").jwk | {"alg": "ES256", "crv": "P-256"},
    "Ed448": IssuerKey("EdDSA", private_key("Ed448"), "x").jwk,
    "Ed448 as Ed25519": IssuerKey("EdDSA", private_key("Ed448"), "x").jwk | {"crv": "Ed25519"},
    "for encryption": RSA.jwk | {"use": "enc"},
    "for signing only": RSA.jwk | {"key_ops": ["sign"]},
    "for nothing": RSA.jwk | {"key_ops": []},
    "operations that are a text": RSA.jwk | {"key_ops": "verify"},
    "another alg": RSA.jwk | {"alg": "PS256"},
    "alg HS256": RSA.jwk | {"alg": "HS256"},
    "alg none": RSA.jwk | {"alg": "none"},
    "alg null": RSA.jwk | {"alg": None},
    "an alg of another type": EC.jwk | {"alg": "RS256"},
    "another type": RSA.jwk | {"kty": "EC"},
    "a type that is a list": RSA.jwk | {"kty": ["RSA"]},
    "no type": _without(RSA, "kty"),
    "no curve": _without(EC, "crv"),
    "no modulus": _without(RSA, "n"),
    "an exponent of 1": RSA.jwk | {"e": "AQ"},
    "an even exponent": RSA.jwk | {"e": "AQAA"},
    "a modulus that is a number": RSA.jwk | {"n": 1},
    "a modulus that is endless": RSA.jwk | {"n": "_" * 4000},
    "a point beside the curve": EC.jwk | {"x": encode(bytes(32))},
    "a point that is too short": EC.jwk | {"x": encode(bytes(31))},
    "no point": OKP.jwk | {"x": None},
    "a kid that is a number": RSA.jwk | {"kid": 1},
    "a private key": {
        **RSA.jwk,
        **get_algorithm_by_name("RS256").to_jwk(RSA.private, as_dict=True),
        "key_ops": ["verify"],
    },
    "a private key of OKP": {**OKP.jwk, **get_algorithm_by_name("EdDSA").to_jwk(OKP.private, as_dict=True)},
    "a text": "key",
    "null": None,
    "a list": [],
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_keys_that_are_passed_over(name: str) -> None:
    """A key that does not fit RS256, ES256 or EdDSA in every respect is skipped; the others are used."""
    assert read_key(UNUSABLE[name]) is None
    beside = EC.jwk | {"kid": "beside"}
    assert [key.kid for key in read_set(json.dumps({"keys": [UNUSABLE[name], beside]}).encode())] == ["beside"]


@pytest.mark.parametrize("key", [RSA, EC, OKP], ids=PUBLISHED)
def test_keys_that_say_little(key: IssuerKey) -> None:
    """A key need not have `alg`, `use`, `key_ops` or `kid`; unknown members are ignored."""
    full = read_key(key.jwk | {"x5t": "?", "key_ops": ["verify"]})
    bare = read_key(_without(key, "alg", "use", "kid", "key_ops"))
    assert full
    assert bare
    assert (bare.alg, bare.kid, bare.identity) == (key.alg, None, full.identity)


async def test_a_secret_that_is_published(tokens: Tokens, issuer: Issuer) -> None:
    """A symmetric key in the set verifies nothing, because everybody knows it."""
    shared = b"a secret that is published to all"
    issuer.answer = says(
        body=json.dumps({"keys": [{"kty": "oct", "k": encode(shared), "kid": "x", "alg": "HS256"}, RSA.jwk]})
    )
    assert await refusal(tokens, sign({"alg": "HS256", "kid": "x"}, claims(), shared)) == REFUSED
    await tokens.verify(RSA.sign(claims()))
    assert await refusal(tokens, sign({"alg": "HS256", "kid": "x"}, claims(), shared)) == REFUSED


def _set_of(count: int) -> str:
    return json.dumps({"keys": [OKP.jwk | {"kid": str(number)} for number in range(count)]})


def test_a_long_set() -> None:
    """At most 100 keys of a set are used."""
    assert len(read_set(_set_of(MAX_SET_KEYS).encode())) == MAX_SET_KEYS
    with pytest.raises(ValueError, match="100"):
        read_set(_set_of(MAX_SET_KEYS + 1).encode())


@given(
    st.sampled_from([RSA.jwk, EC.jwk, OKP.jwk]),
    st.dictionaries(st.sampled_from(["kty", "crv", "n", "e", "x", "y", "d", "kid", "alg", "use", "key_ops"]), anything),
)
def test_any_set(jwk: dict[str, Any], changes: dict[str, Any]) -> None:
    """Any member of a set is a key or is skipped."""
    try:
        keys = read_set(json.dumps({"keys": [jwk | changes]}).encode())
    except ValueError:
        return
    assert all(key.alg in PUBLISHED for key in keys)


# ---- rotation and outages


def fetches(metrics: Metrics) -> dict[str, int]:
    """Return the number of fetches by outcome."""
    found = re.findall(r'streamer_jwks_fetches_total\{outcome="(\w+)"\} (\d+)', metrics.render().decode())
    return {outcome: int(count) for outcome, count in found}


def keys_in_use(metrics: Metrics) -> int:
    """Return the gauge of keys."""
    (value,) = re.findall(r"streamer_jwks_keys (\d+)", metrics.render().decode())
    return int(value)


async def test_rotation(tokens: Tokens, issuer: Issuer, clock: Clock, metrics: Metrics) -> None:
    """A new key is used at once by the first token that names it. A removed key verifies nothing, and its tokens become invalid."""
    old, new = issuer_key("ES256", "old"), issuer_key("ES256", "new", 1)
    issuer.keys = [old]
    await tokens.refresh()
    clock.seconds += PAUSE_SECONDS
    first = await tokens.verify(old.sign(claims()))
    assert keys_in_use(metrics) == 1
    issuer.keys = [old, new]
    second = await tokens.verify(new.sign(claims()))
    assert (len(issuer.requests), keys_in_use(metrics)) == (2, 2)
    assert tokens.stands(first.signer)
    assert tokens.stands(second.signer)
    issuer.keys = [new]
    clock.seconds += PAUSE_SECONDS
    await tokens.refresh()
    assert not tokens.stands(first.signer)
    assert tokens.stands(second.signer)
    assert await refusal(tokens, old.sign(claims())) == REFUSED
    assert keys_in_use(metrics) == 1
    assert fetches(metrics) == {"ok": 3}


async def test_a_kid_that_is_used_again(tokens: Tokens, issuer: Issuer, clock: Clock) -> None:
    """A different key under the same `kid` is another signer, and tokens of the old key become invalid."""
    old, new = issuer_key("ES256"), issuer_key("ES256", number=1)
    issuer.keys = [old]
    first = await tokens.verify(old.sign(claims()))
    issuer.keys = [new]
    clock.seconds += PAUSE_SECONDS
    await tokens.refresh()
    second = await tokens.verify(new.sign(claims()))
    assert await refusal(tokens, old.sign(claims())) == REFUSED
    assert (tokens.stands(first.signer), tokens.stands(second.signer)) == (False, True)


async def _redirects(request: Any) -> Any:
    return await says(302, headers={"Location": f"http://{request.host}/elsewhere"})(request)


OUTAGES: dict[str, tuple[Any, str]] = {
    "an error": (says(500, _set_of(1)), "refused"),
    "nothing there": (says(404), "refused"),
    "a redirect": (_redirects, "refused"),
    "not modified": (says(304), "refused"),
    "another 2xx": (says(203, _set_of(1)), "refused"),
    "silence": (hangs, "unreachable"),
    "garbage": (says(body="<html>"), "unusable"),
    "nothing": (says(), "unusable"),
    "no set": (says(body="[]"), "unusable"),
    "a set that is no list": (says(body='{"keys": {}}'), "unusable"),
    "no keys": (says(body='{"keys": []}'), "unusable"),
    "no usable key": (says(body=json.dumps({"keys": [UNUSABLE["a secret"]]})), "unusable"),
    "keys said twice": (says(body='{"keys": [], "keys": []}'), "unusable"),
    "too many keys": (says(body=_set_of(MAX_SET_KEYS + 1)), "unusable"),
    "too many bytes": (says(body=_set_of(1) + " " * MAX_SET_BYTES), "unusable"),
    "a bomb": (says(body="[" * 100_000), "unusable"),
    "something packed": (
        says(body=gzip.compress(_set_of(1).encode()), headers={"Content-Encoding": "gzip"}),
        "unusable",
    ),
    "nobody": (None, "unreachable"),
}


@pytest.mark.parametrize("name", OUTAGES)
async def test_an_outage(make_tokens: MakeTokens, issuer: Issuer, clock: Clock, metrics: Metrics, name: str) -> None:
    """During an outage or after invalid responses, known keys stay in use. The log reports it once, and again when it is over."""
    tokens = make_tokens(fetch_seconds=0.3 if name == "silence" else 5)
    found = await tokens.verify(RSA.sign(claims()))
    issuer.answer, outcome = OUTAGES[name]
    if name == "nobody":
        await issuer.vanish()
    with capture_logs() as entries:
        for _ in range(2):
            clock.seconds += PAUSE_SECONDS
            await tokens.refresh()
        await tokens.verify(RSA.sign(claims()))
    assert tokens.stands(found.signer)
    assert (fetches(metrics), keys_in_use(metrics)) == ({"ok": 1, outcome: 2}, 3)
    (entry,) = entries
    assert (entry["event"], entry["log_level"], entry["keys"]) == ("jwks_away", "warning", 3)
    issuer.answer = None
    if name == "nobody":
        await issuer.listen()
    with capture_logs() as more:
        for _ in range(2):
            clock.seconds += PAUSE_SECONDS
            await tokens.refresh()
    (back,) = more
    assert (back["event"], back["log_level"]) == ("jwks_back", "info")
    assert fetches(metrics) == {"ok": 3, outcome: 2}
    assert back["url"] == entry["url"] == f"http://127.0.0.1:{issuer.port}/keys.json"
    assert not re.search("password|hidden", str(entries + more))


async def test_redirects_are_not_followed(tokens: Tokens, issuer: Issuer) -> None:
    """Redirects of the issuer are not followed, not even to its own host."""
    async with Issuer(MINE) as other:
        for target in (other.url, "/elsewhere"):
            issuer.answer = says(302, headers={"Location": target})
            with pytest.raises(IssuerUnavailable):
                await tokens.verify(MINE.sign(claims()))
        assert not other.requests
    assert [request.path for request in issuer.requests] == ["/keys.json"]


async def test_how_the_keys_are_asked_for(tokens: Tokens, issuer: Issuer, clock: Clock) -> None:
    """The issuer's URL is requested as configured, without cookies and compression."""

    async def answer(request: Any) -> Any:
        return await says(body=_set_of(1), headers={"Set-Cookie": "a=b"})(request)

    issuer.answer = answer
    for _ in range(2):
        await tokens.refresh()
        clock.seconds += PAUSE_SECONDS
    assert len(issuer.requests) == 2
    for request in issuer.requests:
        assert request.query_string == "token=hidden"
        assert request.headers["Authorization"].startswith("Basic ")
        assert request.headers["Accept-Encoding"] == "identity"
        assert "Cookie" not in request.headers


async def test_keys_that_were_never_fetched(tokens: Tokens, issuer: Issuer, clock: Clock, metrics: Metrics) -> None:
    """Until the first successful fetch, the issuer's tokens get 503. The secret's are verified, other algorithms get 401."""
    issuer.answer = says(500)
    for key in (RSA, EC, issuer_key("EdDSA", None)):
        with pytest.raises(IssuerUnavailable) as caught:
            await tokens.verify(key.sign(claims()))
        assert (caught.value.code, caught.value.status, caught.value.retry_after) == ("issuer_unavailable", 503, 5)
    assert len(issuer.requests) == 1
    await tokens.verify(by_secret(claims()))
    assert await refusal(tokens, FORGED["alg 'none'"]()) == REFUSED
    assert await refusal(tokens, FORGED["RS256 as PS256"]()) == REFUSED
    assert keys_in_use(metrics) == 0
    issuer.answer = None
    clock.seconds += PAUSE_SECONDS
    await tokens.verify(RSA.sign(claims()))
    assert len(issuer.requests) == 2


async def test_a_flood_of_unknown_kids(tokens: Tokens, issuer: Issuer, clock: Clock) -> None:
    """Tokens with unknown keys cause one fetch in ten seconds, whatever their number. Known keys work meanwhile."""
    await tokens.refresh()
    header, _, rest = MINE.sign(claims()).partition(".")
    del header

    async def flood(wave: int) -> None:
        flooding = [f"{encode({'alg': 'RS256', 'kid': f'{wave}-{number}'})}.{rest}" for number in range(1000)]
        asked = await asyncio.gather(*(refusal(tokens, token) for token in flooding))
        assert set(asked) == {REFUSED}

    for wave, fetched in enumerate((1, 2, 2, 3), start=0):
        await flood(wave)
        await tokens.verify(RSA.sign(claims()))
        assert len(issuer.requests) == fetched
        clock.seconds += PAUSE_SECONDS if wave % 2 == 0 else 0
    clock.seconds -= 24 * 3600  # a clock set back does not block it
    await flood(9)
    assert len(issuer.requests) == 4


async def test_a_crowd_waits_for_one_fetch(tokens: Tokens, issuer: Issuer) -> None:
    """All tokens that arrive before the keys share one fetch, and a cancelled one does not affect the others."""
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def answer(_: Any) -> Any:
        arrived.set()
        await go_on.wait()
        return await says(body=json.dumps({"keys": [RSA.jwk]}))(_)

    issuer.answer = answer
    token = RSA.sign(claims())
    crowd = [asyncio.create_task(tokens.verify(token)) for _ in range(1000)]
    await arrived.wait()
    crowd[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await crowd[0]
    go_on.set()
    assert {found.subject for found in await asyncio.gather(*crowd[1:])} == {"user-123"}
    assert len(issuer.requests) == 1


async def test_refreshing_in_the_background(make_tokens: MakeTokens, issuer: Issuer, metrics: Metrics) -> None:
    """Keys are refreshed in the background, so a removed key disappears without a request."""
    tokens = make_tokens(refresh_seconds=0.01)
    loops = Loops(metrics)
    tokens.start(loops)
    found = await tokens.verify(RSA.sign(claims()))
    issuer.keys = [EC]
    await eventually(lambda: not tokens.stands(found.signer), timeout=PAUSE_SECONDS / 2)
    tokens.close()
    await loops.stop()


async def test_trying_again_in_the_background(make_tokens: MakeTokens, issuer: Issuer, metrics: Metrics) -> None:
    """During an outage, the background fetch runs more often, so keys arrive soon after it."""
    tokens = make_tokens(refresh_seconds=3600, pause_seconds=0.01)
    issuer.answer = says(500)
    loops = Loops(metrics)
    tokens.start(loops)
    await eventually(lambda: len(issuer.requests) > 2)
    issuer.answer = None
    await eventually(lambda: keys_in_use(metrics) == 3)
    tokens.close()
    await loops.stop()


async def test_background_fetches_leave_the_next_one_to_tokens(
    tokens: Tokens, issuer: Issuer, metrics: Metrics
) -> None:
    """A key that appears right after a background fetch is fetched at once, not ten seconds later."""
    issuer.keys = [RSA]
    known = read_key(RSA.jwk)
    assert known
    loops = Loops(metrics)
    tokens.start(loops)
    await eventually(lambda: tokens.stands(known.identity))
    issuer.keys = [RSA, EC]
    await tokens.verify(EC.sign(claims()))
    assert len(issuer.requests) == 2
    tokens.close()
    await loops.stop()


async def test_stopping_amid_a_fetch(make_tokens: MakeTokens, issuer: Issuer, metrics: Metrics) -> None:
    """Stopping the server cancels a pending fetch."""
    tokens = make_tokens(fetch_seconds=600)
    before = asyncio.all_tasks()
    issuer.answer = hangs
    loops = Loops(metrics)
    tokens.start(loops)
    await eventually(lambda: issuer.requests)
    tokens.close()
    await loops.stop()
    await eventually(lambda: not [task for task in asyncio.all_tasks() - before if "_fetch" in str(task.get_coro())])


async def test_an_issuer_that_nobody_vouches_for(metrics: Metrics, tmp_path: Path) -> None:
    """Keys from a TLS server with an untrusted certificate are refused."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    today = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(today - dt.timedelta(1))
        .not_valid_after(today + dt.timedelta(1))
        .sign(private, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    file = tmp_path / "server.pem"
    file.write_bytes(
        certificate.public_bytes(pem)
        + private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    issuer = Issuer(RSA)
    issuer.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issuer.tls.load_cert_chain(file)
    async with issuer:
        with capture_logs() as entries, pytest.raises(IssuerUnavailable):
            await Tokens(None, Jwks(issuer.url, metrics, refresh_seconds=300), Rules()).verify(RSA.sign(claims()))
        assert "Certificate" in entries[0]["reason"]
        assert not issuer.requests


# ---- settings


PEM = _pem(RSA).decode()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("JWT_SECRET", "short-and-so-easily-guessed-0123", None),
        ("JWT_SECRET", "short-and-so-easily-guessed-012", "32 bytes"),
        ("JWT_SECRET", "ä" * 16, None),
        ("JWT_SECRET", "\udcff" * 40, "UTF-8"),
        ("JWT_SECRET", PEM, "public key"),
        ("JWT_SECRET", json.dumps(RSA.jwk), "JWK"),
        ("JWKS_URL", "https://issuer.example/keys.json", None),
        ("JWKS_URL", "https://user:pass@issuer.example:8443/keys.json?a=b", None),
        ("JWKS_URL", "http://localhost:9000/keys.json", None),
        ("JWKS_URL", "http://127.0.0.2/keys.json", None),
        ("JWKS_URL", "http://[::1]:9000/keys.json", None),
        ("JWKS_URL", "http://issuer.example/keys.json", "https://"),
        ("JWKS_URL", "http://10.0.0.1/keys.json", "https://"),
        ("JWKS_URL", "http://localhost.example/keys.json", "https://"),
        ("JWKS_URL", "http://localhost@issuer.example/keys.json", "https://"),
        ("JWKS_URL", "http://127.0.0.1.issuer.example/", "https://"),
        ("JWKS_URL", "file:///etc/keys.json", "https://"),
        ("JWKS_URL", "ftp://localhost/keys.json", "https://"),
        ("JWKS_URL", "https:///keys.json", "https://"),
        ("JWKS_URL", "https://sec:ret@issuer.example:99999/", "https://"),
        ("JWKS_URL", "https://sec:ret@issuer\u2100.example/", "https://"),
        ("JWKS_URL", "issuer.example", "https://"),
        ("JWT_LEEWAY", "0", None),
        ("JWT_LEEWAY", "60", None),
        ("JWT_LEEWAY", "61", "60"),
        ("JWT_LEEWAY", "-1", "0"),
        ("JWT_LEEWAY", "1.5", "integer"),
        ("JWKS_REFRESH_SECONDS", "9", "10"),
        ("JWKS_REFRESH_SECONDS", "86401", "86400"),
        ("JWT_ISSUER", "them", None),
        ("JWT_AUDIENCE", "us", None),
    ],
    ids=itertools.count(),
)
def test_settings(name: str, value: str, said: str | None) -> None:
    """A setting that would make tokens unsafe or unusable stops the start. The error names it and hides the secret."""
    environment = {f"STREAMER_{name}": value}
    if said is None:
        settings = load({}, environment)
        assert value not in repr(settings) or name != "JWT_SECRET"
        return
    with pytest.raises(SettingsError) as caught:
        load({}, environment)
    text = str(caught.value)
    assert text.startswith(f"STREAMER_{name}: ")
    assert said in text
    assert value not in text
    assert "sec:ret" not in text


def test_the_secret_is_no_flag() -> None:
    """The secret cannot be a command-line flag, because the process list shows flags; the other settings can."""
    serve = main.get_command(Context(main), "serve")
    assert serve
    flags = {option for parameter in serve.params for option in parameter.opts}
    wanted = {name for name in Settings.model_fields if name.startswith(("jwt_", "jwks_"))} - {"jwt_secret"}
    assert {"--" + name.replace("_", "-") for name in wanted} <= flags
    assert "--jwt-secret" not in flags


# ---- the documentation's examples


def _program(name: str) -> str:
    (found,) = re.findall(rf"^```\w+\n(?://|#) {re.escape(name)}\n(.*?)^```$", _page(), re.DOTALL | re.MULTILINE)
    assert isinstance(found, str)
    return found


def _page() -> str:
    return (ROOT / "docs" / "tokens.md").read_text()


def _run(*command: str) -> list[str]:
    environment = {"PATH": os.environ["PATH"], "STREAMER_JWT_SECRET": SECRET}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_program_is_run() -> None:
    """The next two tests run every program of the page."""
    assert re.findall(r"^```(?!json)\w+\n(?://|#) (.*)$", _page(), re.MULTILINE) == ["mint.py", "mint.mjs"]


async def test_the_documented_python() -> None:
    """The token that docs/tokens.md creates in Python is valid for an hour."""
    (token,) = _run(sys.executable, "-c", _program("mint.py"))
    tokens = Tokens(secret_key(SECRET), None, Rules())
    found = await tokens.verify(token)
    assert (found.subject, found.name, found.grants) == ("user-123", "Ada", {"ws_1": frozenset({"workspace:read"})})


async def test_the_documented_node(issuer: Issuer, metrics: Metrics) -> None:
    """The token that docs/tokens.md creates in Node is valid with its published key set, without any code of ours."""
    published, token = _run(str(require("node")), "--input-type=module", "--eval", _program("mint.mjs"))
    issuer.answer = says(body=published)
    tokens = Tokens(None, Jwks(issuer.url, metrics, refresh_seconds=300), Rules())
    found = await tokens.verify(token)
    assert (found.subject, found.name, found.grants) == ("user-123", "Ada", {})


def test_the_documented_claims() -> None:
    """The claims in docs/tokens.md are valid."""
    (shown,) = re.findall(r"```json\n(.*?)```", _page(), re.DOTALL)
    assert check_claims(json.loads(shown), 0, Rules(), "key").name == "Ada"


def _public_texts() -> list[str]:
    rsa_key, ec_key = private_key("RS256").public_key(), private_key("ES256").public_key()
    texts = []
    for key in (rsa_key, ec_key):
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        pem = key.public_bytes(serialization.Encoding.PEM, spki).decode()
        bare = "".join(pem.split("\n")[1:-2])
        texts += [pem, pem.replace("\n", "\\n"), pem.partition("-----END")[0], bare, bare.rstrip("=")]
        texts += [bare.replace("+", "-").replace("/", "_"), "\n".join(pem.split("\n")[1:-2])]
    return texts


@pytest.mark.parametrize("number", range(14))
def test_a_public_key_is_no_secret(number: int) -> None:
    """A public key in any notation is refused as the secret, because everybody could sign with it."""
    with pytest.raises(SettingsError, match="STREAMER_JWT_SECRET") as refused:
        load({}, {"STREAMER_JWT_SECRET": _public_texts()[number]})
    assert _public_texts()[number][:40] not in str(refused.value)
    assert load({}, {"STREAMER_JWT_SECRET": "aGVsbG8sIHRoaXMgaXMgYSBnb29kIHNlY3JldCBpbiBiYXNlNjQ="}).jwt_secret
