"""The keys that verify tokens: a secret, or an issuer's published set (JWKS, RFC 7517), fetched and cached."""

import asyncio
import hmac
import json
import random
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import orjson
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509 import load_der_x509_certificate
from jwt import PyJWTError, get_algorithm_by_name

from streamer.core.clock import now_us
from streamer.core.errors import IssuerUnavailable
from streamer.observe.metrics import Metrics
from streamer.observe.tasks import detached

SECOND = 1_000_000
MIN_SECRET = 32
"""Minimum length of a secret in bytes: the size of the hash (RFC 7518, section 3.2)."""
RSA_BITS = range(2048, 8192 + 1)
"""Accepted sizes of RSA keys: shorter ones are weak (RFC 7518, section 3.3), longer ones slow."""
MAX_SET_BYTES = 1024 * 1024
MAX_SET_KEYS = 100
FETCH_SECONDS = 5
PAUSE_SECONDS = 10
"""Time between two fetches caused by tokens, and between attempts while the issuer is unavailable."""

_KINDS: dict[tuple[object, object], tuple[str, tuple[str, ...]]] = {
    ("RSA", None): ("RS256", ("e", "kty", "n")),
    ("EC", "P-256"): ("ES256", ("crv", "kty", "x", "y")),
    ("OKP", "Ed25519"): ("EdDSA", ("crv", "kty", "x")),
}
"""The only algorithm of each key type and curve, and the members of its thumbprint (RFC 7638, 3.2; RFC 8037, 2)."""

PUBLISHED_ALGORITHMS = frozenset(alg for alg, _ in _KINDS.values())
HS256 = "HS256"


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A key, ready to verify with its one algorithm."""

    alg: str
    kid: str | None
    identity: str
    """Unique per key; reveals nothing about a secret."""
    material: Any
    """The key in the form that PyJWT's algorithm needs."""

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        """Return whether the signature was made with this key."""
        return get_algorithm_by_name(self.alg).verify(signed, self.material, signature)


def read_object(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object that all parsers read alike: UTF-8, no member twice (RFC 7519, section 4).

    Raises:
        ValueError: it is not one; or it has NaN, lone surrogates, unlimited numbers, or too many levels.
    """
    orjson.loads(raw)  # stricter than `json`, which is the only one to detect duplicate members
    try:
        found = json.loads(raw, object_pairs_hook=_members)
    except RecursionError:
        raise ValueError("too many levels") from None
    if not isinstance(found, dict):
        raise ValueError("not an object")  # noqa: TRY004 - of what was read, not of an argument
    return found


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member appears twice")
    return members


def secret_key(secret: str) -> VerifyingKey:
    """Create the key of HS256.

    Raises:
        ValueError: it is too short, or is not a secret: a public key or a JWK. The message does not show it.
    """
    try:
        material = get_algorithm_by_name(HS256).prepare_key(secret.encode())
    except UnicodeEncodeError:
        raise ValueError("must be UTF-8") from None
    except PyJWTError:
        raise ValueError("must be a secret; this is a public key, a certificate, a JWK, or empty") from None
    if _is_public(secret):
        raise ValueError("must be a secret; this is a public key or a certificate")
    if len(material) < MIN_SECRET:
        raise ValueError(f"must have at least {MIN_SECRET} bytes (RFC 7518, 3.2)")
    # Changes with the secret, so that streams opened with the old secret's tokens are closed.
    tag = hmac.new(material, b"identity", sha256).hexdigest()[:16]
    return VerifyingKey(HS256, None, f"secret-{tag}", material)


def _is_public(text: str) -> bool:
    """Return whether a text is a public key or a certificate: in PEM, complete or not, or without its first and last line."""
    if "BEGIN " in text:
        return True
    try:
        bare = "".join(text.split()).rstrip("=").translate({ord("-"): "+", ord("_"): "/"})
        der = b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except ValueError:
        return False
    for load in (load_der_public_key, load_der_x509_certificate):
        try:
            load(der)
        except (ValueError, UnsupportedAlgorithm):
            continue
        return True
    return False


def read_key(jwk: object) -> VerifyingKey | None:
    """Create the key for one member of a set, None if it cannot verify RS256, ES256 or EdDSA (Ed25519) signatures."""
    if not isinstance(jwk, dict) or "d" in jwk:  # a published private key can be used by anybody
        return None
    try:
        alg, members = _KINDS[jwk.get("kty"), jwk.get("crv")]
        if jwk.get("alg", alg) != alg or not _may_verify(jwk):
            return None
        algorithm = get_algorithm_by_name(alg)
        material: Any = algorithm.from_jwk(jwk)
        written = algorithm.to_jwk(material, as_dict=True)
    except (PyJWTError, KeyError, TypeError, ValueError):
        return None
    kid = jwk.get("kid")
    if not (kid is None or isinstance(kid, str)) or (alg == "RS256" and material.key_size not in RSA_BITS):
        return None
    required = json.dumps({name: written[name] for name in members}, separators=(",", ":")).encode()
    thumbprint = urlsafe_b64encode(sha256(required).digest()).rstrip(b"=").decode()
    return VerifyingKey(alg, kid, thumbprint, material)


def _may_verify(jwk: Mapping[str, Any]) -> bool:
    """Return whether a key is meant for signatures (RFC 7517, sections 4.2 and 4.3)."""
    operations = jwk.get("key_ops", ["verify"])
    return jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


def read_set(raw: bytes) -> tuple[VerifyingKey, ...]:
    """Parse the usable keys of a set, each once. Raises ValueError if there is none, or if it is not a set."""
    listed = read_object(raw).get("keys")
    if not isinstance(listed, list) or len(listed) > MAX_SET_KEYS:
        raise ValueError(f"not a set of at most {MAX_SET_KEYS} keys")
    keys = {(key.kid, key.identity): key for key in map(read_key, listed) if key is not None}
    if not keys:
        raise ValueError("no usable key")
    return tuple(keys.values())


class _Failed(Exception):
    """A fetch returned no keys; `outcome` is its label in the metrics."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


class Jwks:
    """An issuer's keys. Known keys stay in use while the issuer is unavailable, or returns no usable key."""

    def __init__(  # noqa: PLR0913 - an address, and four times
        self,
        url: str,
        metrics: Metrics,
        *,
        refresh_seconds: float,
        fetch_seconds: float = FETCH_SECONDS,
        pause_seconds: float = PAUSE_SECONDS,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self._url = url
        self._metrics = metrics
        self._refresh_seconds = refresh_seconds
        self._pause_seconds = pause_seconds
        self._timeout = aiohttp.ClientTimeout(total=fetch_seconds)
        self._clock = clock
        self._keys: tuple[VerifyingKey, ...] = ()
        """Empty only before the first successful fetch."""
        self._fetching: asyncio.Task[None] | None = None
        self._asked: int | None = None
        """When a token last caused a fetch."""
        self._is_away = False

    async def find(self, alg: str, kid: str | None) -> VerifyingKey | None:
        """Return the one key that fits a token's header, None if there is none, or more than one.

        Raises:
            IssuerUnavailable: no key has ever been fetched, and none can be fetched now.
        """
        if not self._keys or (kid is not None and all(key.kid != kid for key in self._keys)):
            await self.refresh()
        if not self._keys:
            raise IssuerUnavailable
        fitting = [key for key in self._keys if key.alg == alg and kid in {None, key.kid}]
        return fitting[0] if len(fitting) == 1 else None

    def has(self, identity: str) -> bool:
        """Return whether a key is in the set, as it was last fetched."""
        return any(key.identity == identity for key in self._keys)

    async def refresh(self) -> None:
        """Fetch the set at once, unless the last such request was less than ten seconds ago.

        Concurrent callers share one fetch.
        """
        if self._fetching is None:
            now = self._clock()
            if self._asked is not None and 0 <= now - self._asked < self._pause_seconds * SECOND:
                return
            self._asked = now
        await self._fetch_once()

    async def turn(self) -> float:
        """Fetch the set. Returns the seconds until the next fetch."""
        await self._fetch_once()
        seconds = self._pause_seconds if self._is_away else self._refresh_seconds
        return seconds * random.uniform(0.8, 1)  # noqa: S311 - nodes that began together spread

    def close(self) -> None:
        """Cancel a running fetch."""
        if self._fetching is not None:
            self._fetching.cancel()

    async def _fetch_once(self) -> None:
        if self._fetching is None:
            self._fetching = detached(self._fetch())
        await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        """Take over the issuer's published keys; log once when it becomes unavailable, and when it is back."""
        logger = structlog.get_logger("jwks")
        outcome = "ok"
        try:
            self._keys = await self._download()
            if self._is_away:
                logger.info("jwks_back", url=_public(self._url), keys=len(self._keys))
            self._is_away = False
        except _Failed as error:
            outcome = error.outcome
            if not self._is_away:
                logger.warning("jwks_away", url=_public(self._url), reason=str(error), keys=len(self._keys))
            self._is_away = True
        finally:
            self._fetching = None
        self._metrics.jwks_fetches.labels(outcome).inc()
        self._metrics.jwks_keys.set(len(self._keys))

    async def _download(self) -> tuple[VerifyingKey, ...]:
        body = bytearray()
        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        try:
            async with (
                # Not decompressed, so that a small response cannot become a large one.
                aiohttp.ClientSession(timeout=self._timeout, auto_decompress=False) as session,
                session.get(self._url, headers=headers, allow_redirects=False) as response,
            ):
                if response.status != 200:  # noqa: PLR2004
                    raise _Failed("refused", f"status {response.status}")
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MAX_SET_BYTES:
                        raise _Failed("unusable", f"more than {MAX_SET_BYTES} bytes")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _Failed("unreachable", type(error).__name__) from None  # its message may contain the URL
        try:
            return read_set(bytes(body))
        except ValueError as error:
            raise _Failed("unusable", str(error)) from None


def _public(url: str) -> str:
    """Return a URL without possible credentials: its user and its query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
