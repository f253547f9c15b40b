"""Keys, tokens, sign-in codes and sessions: from credential to principal, depending on how it was sent.

Secrets are stored as hashes.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any, TypeVar

from streamer.access.jwt import Claims, Tokens, looks_like_jwt
from streamer.access.principal import ADMIN, EVERYWHERE, PERSON, SIGNER, UNTIL, Principal
from streamer.core.clock import now_us
from streamer.core.errors import Unauthenticated
from streamer.observe.tasks import detached
from streamer.store.records.credentials import Credential, Credentials
from streamer.store.records.members import Members

T = TypeVar("T")

SECOND = 1_000_000
CACHE_SECONDS = 1
"""How long a credential is cached: a key revoked on another node works here at most this much longer."""
CACHE_ENTRIES = 10_000
SIGN_IN_SECONDS = 600
SESSION_SECONDS = 12 * 3600
MIN_ADMIN_KEY = 20
"""Minimum length of an operator's own admin key."""

ADMIN_ID = "admin"


def hash_secret(secret: str) -> str:
    """Return the hash of a secret, which is stored. Secrets are long and random, so a fast hash without salt is enough.

    A client's secret may contain lone surrogates: bytes of a header that are not UTF-8.
    """
    return sha256(secret.encode(errors="surrogatepass")).hexdigest()


class Keyring:
    """Finds the principal of a credential; creates the credentials that only the server's own page uses."""

    def __init__(
        self,
        credentials: Credentials,
        members: Members,
        tokens: Tokens | None = None,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self._credentials = credentials
        self._members = members
        self._tokens = tokens
        self._clock = clock
        self._cache: dict[tuple[str, str], tuple[int, asyncio.Task[Any]]] = {}
        """By kind and request (for a secret, its hash): until when a look-up is trusted, and the look-up, which may still be running."""

    async def principal(self, secret: str, kind: str) -> Principal:
        """Return the principal of a secret.

        `kind` is how it was sent: `key` (header; also a token) or `session` (cookie).

        Raises:
            Unauthenticated: there is no such credential, it was sent in the wrong place, or it has expired.
            IssuerUnavailable: it is a token, and the keys to verify it have never been fetched.
        """
        # Looking up by hash leaks nothing through timing, because an attacker cannot control the hash.
        hashed = hash_secret(secret)
        if kind == "key" and self._tokens is not None and looks_like_jwt(secret):
            return await self._by_token(self._tokens, secret, hashed)
        principal = await self._remembered((kind, hashed), lambda: self._find(kind, hashed))
        if principal.expires_at is not None and principal.expires_at <= self._clock():
            raise Unauthenticated("the credential has expired")
        return principal

    async def _by_token(self, tokens: Tokens, token: str, hashed: str) -> Principal:
        asked = ("token", hashed)
        principal = await self._remembered(asked, lambda: self._bearer(tokens, token))
        is_over = principal.expires_at is not None and principal.expires_at <= self._clock()
        if is_over or not tokens.stands(signer_of(principal)):
            # The token expired, or its key was withdrawn, after the look-up. Only a new look-up has the current state.
            self._cache.pop(asked, None)
            principal = await self._remembered(asked, lambda: self._bearer(tokens, token))
        return principal

    async def _remembered(self, asked: tuple[str, str], find: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the result of `find`, at most a second old; its exceptions go only to the current callers."""
        now = self._clock()
        known = self._cache.get(asked)
        if known is None or known[0] <= now:
            if len(self._cache) >= CACHE_ENTRIES:
                self._cache.clear()
            # Cached before the look-up ends, so that many requests with one key share it.
            task = detached(find())
            known = self._cache[asked] = now + CACHE_SECONDS * SECOND, task
            task.add_done_callback(partial(self._drop_failure, asked))
        found: T = await asyncio.shield(known[1])
        return found

    def _drop_failure(self, asked: tuple[str, str], task: asyncio.Task[Any]) -> None:
        known = self._cache.get(asked)
        if known is not None and known[1] is task and (task.cancelled() or task.exception() is not None):
            del self._cache[asked]

    async def _find(self, kind: str, secret_hash: str) -> Principal:
        found = await self._credentials.find(secret_hash)
        if found is None or found.kind not in ({"session"} if kind == "session" else {"key", "admin"}):
            raise Unauthenticated("the credential is not valid")
        return principal_of(found)

    async def _bearer(self, tokens: Tokens, token: str) -> Principal:
        claims = await tokens.verify(token)
        return person(claims, await self._members.roles(claims.subject))

    async def current(self, principal: Principal) -> Principal:
        """Return the current principal, for long-running work: a person's roles may have changed."""
        if not principal.is_person:
            return principal
        user = principal.own_id
        roles = await self._remembered(("roles", user), lambda: self._members.roles(user))
        return principal if roles == principal.roles else replace(principal, roles=roles)

    async def holder(self, link: str, claims: Mapping[str, Any] | None) -> Principal | None:
        """Return the principal that created a ticket, None if its credential is no longer valid.

        Args:
            link: the credential's link in a chain.
            claims: a token's claims, as written by `claims_of`.
        """
        if claims is not None:
            return await self._bearer_of(claims_from(claims))
        found = await self._credentials.get(link.partition(".")[0])
        if found is None or (found.expires_at is not None and found.expires_at <= self._clock()):
            return None
        principal = principal_of(found)
        return principal if principal.chain[0] == link else None

    async def _bearer_of(self, claims: Claims) -> Principal | None:
        if self._tokens is None or claims.expires_at <= self._clock():
            return None
        if not self._tokens.stands(claims.signer):
            await self._tokens.refresh()  # this node may not know the key yet
        stands = self._tokens.stands(claims.signer)
        return person(claims, await self._members.roles(claims.subject)) if stands else None

    async def keys(self, workspace: str, *, after: str, limit: int) -> list[Credential]:
        """Return a workspace's keys, ordered by id, without their secrets."""
        return await self._credentials.listing(workspace, after=after, limit=limit)

    def forget(self) -> None:
        """Clear the cache."""
        self._cache.clear()

    async def create_sign_in(self) -> str:
        """Create a one-time code that signs a browser in as the admin."""
        return await self._derive("sign_in", "sign-in link", ADMIN_ID, {EVERYWHERE: [ADMIN]}, SIGN_IN_SECONDS)

    async def sign_in(self, code: str) -> str:
        """Use a one-time code and return the secret of a new session. Raises Unauthenticated."""
        hashed = hash_secret(code)
        # Anybody can try: only an existing code justifies a transaction that is queued for the disk.
        known = await self._credentials.find(hashed)
        found = await self._credentials.take(hashed, "sign_in") if known is not None else None
        if found is None or found.parent is None or found.expires_at is None or found.expires_at <= self._clock():
            raise Unauthenticated("the sign-in code is unknown, was used, or has expired")
        await self._credentials.sweep(self._clock())
        return await self._derive("session", "browser session", found.parent, found.grants, SESSION_SECONDS)

    async def sign_out(self, principal: Principal) -> None:
        """Delete a session."""
        await self._credentials.remove(principal.id)
        self.forget()

    async def _derive(
        self, kind: str, name: str, parent: str, grants: Mapping[str, Sequence[str]], seconds: int
    ) -> str:
        secret = secrets.token_urlsafe(32)
        now = self._clock()
        await self._credentials.add(
            Credential(
                id=f"{'session' if kind == 'session' else 'signin'}_{secrets.token_hex(8)}",
                kind="session" if kind == "session" else "sign_in",
                secret_hash=hash_secret(secret),
                workspace=None,
                name=name,
                grants=grants,
                actor=None,
                parent=parent,
                created_at=now,
                created_by=parent,
                expires_at=now + seconds * SECOND,
            )
        )
        return secret


def admin_credential(secret: str, now: int) -> Credential:
    """Return the record of the admin key."""
    return Credential(
        id=ADMIN_ID,
        kind="admin",
        secret_hash=hash_secret(secret),
        workspace=None,
        name="admin",
        grants={EVERYWHERE: [ADMIN]},
        actor=None,
        parent=None,
        created_at=now,
        created_by="system",
        expires_at=None,
    )


def principal_of(credential: Credential) -> Principal:
    """Return the principal of a stored credential."""
    return Principal(
        id=credential.id,
        parents=(credential.parent,) if credential.parent else (),
        derived_from=credential.parent or "",
        # There is one admin, whatever the key: connections opened with an old key must be closed.
        version=str(credential.created_at) if credential.kind == "admin" else "",
        name=credential.name,
        grants={workspace: frozenset(scopes) for workspace, scopes in credential.grants.items()},
        actor=credential.actor,
        expires_at=credential.expires_at,
    )


def person(claims: Claims, roles: Mapping[str, str]) -> Principal:
    """Return the principal of a verified token: a person, who acts as themselves, with their roles and the token's grants."""
    return Principal(
        id=PERSON + claims.subject,
        name=claims.name or claims.subject,
        grants=claims.grants,
        roles=roles,
        actor=("user", claims.subject),
        actor_name=claims.name,
        may_claim=frozenset(workspace for workspace, scopes in claims.grants.items() if ADMIN in scopes),
        expires_at=claims.expires_at,
        parents=(f"{UNTIL}{claims.expires_at}", f"{SIGNER}{claims.signer}"),
    )


def signer_of(principal: Principal) -> str:
    """Return the identity of the key that verified a token's principal."""
    return principal.parents[1].removeprefix(SIGNER)


def claims_of(principal: Principal) -> dict[str, Any] | None:
    """Return the claims that `Keyring.holder` needs to restore a token's principal; None if it is not a token's."""
    if not principal.is_person:
        return None
    until, _ = principal.parents
    return {
        "subject": principal.own_id,
        "name": principal.actor_name,
        "grants": {workspace: sorted(scopes) for workspace, scopes in principal.grants.items()},
        "expires_at": int(until.removeprefix(UNTIL)),
        "signer": signer_of(principal),
    }


def claims_from(kept: Mapping[str, Any]) -> Claims:
    """Parse the result of `claims_of`."""
    return Claims(**{**kept, "grants": {ws: frozenset(scopes) for ws, scopes in kept["grants"].items()}})
