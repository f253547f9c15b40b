"""JSON Web Tokens as a credential (RFC 7519, with the advice of RFC 8725): the signature is verified first, then the claims; algorithms are pinned to keys."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from streamer.access.jwks import HS256, PUBLISHED_ALGORITHMS, SECOND, Jwks, VerifyingKey, read_object
from streamer.access.principal import EVERYWHERE, SCOPES
from streamer.core.clock import LAST, now_us
from streamer.core.errors import Unauthenticated
from streamer.core.ids import is_id
from streamer.observe.loops import Loops

MAX_TOKEN = 8 * 1024
MAX_SUBJECT = 512
MAX_NAME = 256
MAX_GRANTS = 1000

_FORM = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")
_TYPES = frozenset({"jwt", "at+jwt"})
"""Accepted values of `typ`: tokens for other purposes, such as logging out, are rejected (RFC 8725, section 3.11)."""


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of a verified token."""

    subject: str
    name: str | None
    grants: Mapping[str, frozenset[str]]
    """Scopes by workspace id or `*`."""
    expires_at: int
    """Microseconds since 1970: `exp` if it is in the future, else the end of the leeway."""
    signer: str
    """The identity of the key that verified it: `secret-` and a tag, or the thumbprint of a published key (RFC 7638)."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Requirements for a token's claims. `leeway` is the allowed clock difference in seconds."""

    issuer: str | None = None
    audience: str | None = None
    leeway: int = 5


def looks_like_jwt(secret: str) -> bool:
    """Return whether a credential has a token's format; the server's own keys never have."""
    return secret.startswith("eyJ") and _FORM.fullmatch(secret) is not None


class Tokens:
    """Verifies tokens: HS256 with the secret, RS256, ES256 and EdDSA with the issuer's published keys."""

    def __init__(
        self, secret: VerifyingKey | None, jwks: Jwks | None, rules: Rules, clock: Callable[[], int] = now_us
    ) -> None:
        self._secret = secret
        self._jwks = jwks
        self._rules = rules
        self._clock = clock

    async def verify(self, token: str) -> Claims:
        """Return a token's claims.

        Raises:
            Unauthenticated: it is not valid. Until the signature is verified, the message is the same for every problem.
            IssuerUnavailable: the issuer's keys have never been fetched, and cannot be fetched now.
        """
        if len(token) > MAX_TOKEN:
            raise Unauthenticated(f"the token is longer than {MAX_TOKEN} characters")
        try:
            alg, kid, payload, signed, signature = _parse(token)
        except ValueError:
            raise _refused() from None
        key = await self._key(alg, kid)
        if key is None or not key.verifies(signed, signature):
            raise _refused()
        try:
            claims = read_object(payload)
        except ValueError:
            raise Unauthenticated(
                "the token's payload must be a JSON object in UTF-8 without duplicate members"
            ) from None
        return check_claims(claims, self._clock(), self._rules, key.identity)

    async def _key(self, alg: str, kid: str | None) -> VerifyingKey | None:
        """Return the only key that can verify a token with this header. Raises IssuerUnavailable."""
        if alg == HS256:
            return self._secret
        if self._jwks is None or alg not in PUBLISHED_ALGORITHMS:
            return None
        return await self._jwks.find(alg, kid)

    def stands(self, signer: str) -> bool:
        """Return whether a key is still in use, as far as this node knows.

        Another node may have fetched later, so call `refresh` before giving up.
        """
        if self._secret is not None and signer == self._secret.identity:
            return True
        return self._jwks is not None and self._jwks.has(signer)

    async def refresh(self) -> None:
        """Fetch the issuer's keys at once, unless the last such request was less than ten seconds ago."""
        if self._jwks is not None:
            await self._jwks.refresh()

    def start(self, loops: Loops) -> None:
        """Keep the issuer's keys up to date; without an issuer this does nothing."""
        if self._jwks is not None:
            loops.start("jwks", self._jwks.turn)

    def close(self) -> None:
        """Cancel a running fetch."""
        if self._jwks is not None:
            self._jwks.close()


def _parse(token: str) -> tuple[str, str | None, bytes, bytes, bytes]:
    """Split a signed token (RFC 7515, section 3.1) into algorithm, key id, payload, signed bytes, and signature.

    Of the header only `alg`, `kid` and `typ` are used: keys inside a token (`jwk`, `jku`, `x5c`, `x5u`) are not
    trusted.

    Raises:
        ValueError: it is not a token, or uses an extension that we do not support (`crit`, RFC 7515, 4.1.11).
    """
    parts = _FORM.fullmatch(token)
    if parts is None:
        raise ValueError("not three parts")
    header = read_object(_decode(parts[1]))
    alg, kid, typ = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not (isinstance(alg, str) and isinstance(kid, str | None) and isinstance(typ, str)) or "crit" in header:
        raise ValueError("not a header")
    if typ.lower().removeprefix("application/") not in _TYPES:
        raise ValueError("a token for another use")
    return alg, kid, _decode(parts[2]), token.rpartition(".")[0].encode(), _decode(parts[3])


def _decode(part: str) -> bytes:
    """Decode base64url without padding.

    Only the canonical encoding of the bytes is accepted (RFC 4648, section 3.5).
    """
    raw = urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if urlsafe_b64encode(raw).rstrip(b"=") != part.encode():
        raise ValueError("not canonical")
    return raw


def check_claims(payload: Mapping[str, Any], now: int, rules: Rules, signer: str) -> Claims:
    """Return the claims of a token with a valid signature, if they hold at `now` (microseconds since 1970).

    Raises:
        Unauthenticated: a claim is missing, malformed or does not hold; the message names it.
    """
    leeway = rules.leeway * SECOND
    subject, name = payload.get("sub"), payload.get("name")
    if not _is_text(subject, MAX_SUBJECT):
        raise _wrong("sub", f"must be a text of 1 to {MAX_SUBJECT} characters without NUL")
    expires_at = _time(payload, "exp")
    if expires_at is None:
        raise _wrong("exp", "is missing")
    if expires_at + leeway <= now:
        raise Unauthenticated("the token has expired")
    for claim in ("nbf", "iat"):
        if (_time(payload, claim) or 0) > now + leeway:
            raise _wrong(claim, "is in the future")
    if rules.issuer is not None and payload.get("iss") != rules.issuer:
        raise _wrong("iss", "does not name the issuer that this server trusts")
    if not _is_for(payload, rules.audience):
        raise _wrong("aud", "does not name this server, or names an audience although none is configured")
    return Claims(
        subject=subject,
        name=name if _is_text(name, MAX_NAME) else None,
        grants=_grants(payload.get("grants", {})),
        expires_at=expires_at if expires_at > now else expires_at + leeway,
        signer=signer,
    )


def _is_text(value: object, most: int) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= most and "\0" not in value


def _time(payload: Mapping[str, Any], claim: str) -> int | None:
    """Return a time in microseconds, None if the claim is absent."""
    if claim not in payload:
        return None
    seconds = payload[claim]
    if type(seconds) is not int or not 0 <= seconds <= LAST // SECOND:  # True is an int, too
        raise _wrong(claim, "must be whole seconds since 1970, up to the year 9999")
    return seconds * SECOND


def _is_for(payload: Mapping[str, Any], audience: str | None) -> bool:
    """Return whether a token is meant for this server: a token with an audience is for nobody else (RFC 7519, section 4.1.3)."""
    if audience is None:
        return "aud" not in payload
    named = payload.get("aud")
    return named == audience or (isinstance(named, list) and audience in named)


def _grants(value: object) -> dict[str, frozenset[str]]:
    """Parse the claim `grants`: an object of lists of scopes."""
    if not isinstance(value, dict) or len(value) > MAX_GRANTS:
        raise _wrong("grants", f"must be an object of at most {MAX_GRANTS} workspaces")
    if not all(workspace == EVERYWHERE or is_id(workspace) for workspace in value):
        raise _wrong("grants", f"must have workspace ids, or {EVERYWHERE}, as its names")
    if not all(isinstance(scopes, list) and all(scope in SCOPES for scope in scopes) for scopes in value.values()):
        raise _wrong("grants", f"must have lists of scopes: {', '.join(SCOPES)}")
    return {workspace: frozenset(scopes) for workspace, scopes in value.items()}


def _wrong(claim: str, what: str) -> Unauthenticated:
    return Unauthenticated(f"the token's claim `{claim}` {what}")


def _refused() -> Unauthenticated:
    return Unauthenticated("the token is malformed, or no key of this server verifies it with a supported algorithm")
