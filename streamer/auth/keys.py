"""Keys, sign-in codes and sessions: made here, told apart by what they are for, kept as hashes."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

from streamer.auth.principal import ADMIN, EVERYWHERE, Principal
from streamer.core.clock import now_us
from streamer.core.errors import NotFound, Unauthenticated
from streamer.feed.reasons import Reason
from streamer.observe.tasks import outlasting
from streamer.store.credentials import Credential, Credentials

SECOND = 1_000_000
CACHE_SECONDS = 2
"""How long a looked-up credential is trusted: a key revoked on another node works there no longer than this."""
CACHE_ENTRIES = 10_000
SIGN_IN_SECONDS = 600
SESSION_SECONDS = 12 * 3600
MIN_ADMIN_KEY = 20
"""Characters of the shortest admin key that an operator may choose."""

ADMIN_ID = "admin"


def hash_secret(secret: str) -> str:
    """Return what is stored of a secret. It is long and random, so a fast hash without salt is enough.

    What a client sends as a secret may hold lone surrogates: bytes of a header that are not UTF-8.
    """
    return sha256(secret.encode(errors="surrogatepass")).hexdigest()


class Keyring:
    """Makes credentials and finds the principal behind one."""

    def __init__(self, credentials: Credentials, clock: Callable[[], int] = now_us) -> None:
        self._credentials = credentials
        self._clock = clock
        self._cache: dict[tuple[str, str], tuple[int, asyncio.Task[Principal]]] = {}
        """By kind and hash: until when a look-up is trusted, and the look-up, which may still be under way."""

    async def principal(self, secret: str, kind: str) -> Principal:
        """Return the principal of a secret. `kind` is how it was sent: `key` (header) or `session` (cookie).

        Raises:
            Unauthenticated: there is no such credential, it was sent in another's place, or it has expired.
        """
        # Looking up by hash leaks nothing by its timing: who guesses cannot steer the hash.
        asked = kind, hash_secret(secret)
        now = self._clock()
        known = self._cache.get(asked)
        if known is None or known[0] <= now:
            if len(self._cache) >= CACHE_ENTRIES:
                self._cache.clear()
            # Kept before it is found: the many requests of one key are not to look it up at once.
            known = self._cache[asked] = now + CACHE_SECONDS * SECOND, outlasting(self._find(*asked))
        principal = await asyncio.shield(known[1])
        if principal.expires_at is not None and principal.expires_at <= now:
            raise Unauthenticated("the credential has expired")
        return principal

    async def _find(self, kind: str, secret_hash: str) -> Principal:
        found = None
        try:
            found = await self._credentials.find(secret_hash)
        finally:
            if found is None:  # this holds for those who asked meanwhile, not for longer
                self._cache.pop((kind, secret_hash), None)
        if found is None or found.kind not in ({"session"} if kind == "session" else {"key", "admin"}):
            raise Unauthenticated("the credential is not valid")
        return principal_of(found)

    async def holder(self, link: str) -> Principal | None:
        """Return the principal of a credential by its link in a chain, None if it has ended."""
        found = await self._credentials.get(link.partition(".")[0])
        if found is None or (found.expires_at is not None and found.expires_at <= self._clock()):
            return None
        principal = principal_of(found)
        return principal if principal.chain[0] == link else None

    async def ended(self, chain: Sequence[str]) -> dict[str, Reason]:
        """Tell which of these credentials (as in `Principal.chain`, tickets aside) have ended, and why."""
        now = self._clock()
        ended = dict.fromkeys(chain, Reason.CREDENTIAL_REVOKED)
        for credential in await self._credentials.standing([link.partition(".")[0] for link in chain]):
            if credential.expires_at is not None and credential.expires_at <= now:
                ended[credential.id] = Reason.CREDENTIAL_EXPIRED
            else:
                ended.pop(credential.id, None)
                ended.pop(f"{credential.id}.{credential.created_at}", None)
        return ended

    async def create_key(  # noqa: PLR0913 - what a key is made of
        self,
        *,
        workspace: str,
        name: str,
        scopes: Sequence[str],
        actor: tuple[str, str] | None,
        expires_at: int | None,
        creator: Principal,
    ) -> tuple[Credential, str]:
        """Make a key for one workspace. Returns its record and the secret, which is not kept."""
        secret = "sk_" + secrets.token_urlsafe(32)
        credential = Credential(
            id="key_" + secrets.token_hex(8),
            kind="key",
            secret_hash=hash_secret(secret),
            workspace=workspace,
            name=name,
            grants={workspace: sorted(set(scopes))},
            actor=actor,
            parent=None,
            created_at=self._clock(),
            created_by=creator.id,
            expires_at=expires_at,
        )
        await self._credentials.add(credential)
        return credential, secret

    async def keys(self, workspace: str) -> list[Credential]:
        """Return a workspace's keys, without their secrets."""
        return await self._credentials.of_workspace(workspace)

    async def revoke(self, key_id: str, workspace: str) -> None:
        """End a key and what was made from it, here at once. Raises NotFound."""
        await self._credentials.remove(key_id, workspace=workspace)
        self.forget()

    def forget(self) -> None:
        """Look up every credential anew."""
        self._cache.clear()

    async def set_admin_key(self, chosen: str | None) -> str | None:
        """See to it that there is an admin key.

        Args:
            chosen: the operator's own, which replaces any other; None: make one if there is none.

        Returns:
            the key that was made, to be shown once; None if there was one or the operator chose it.
        """
        known = await self._credentials.get(ADMIN_ID)
        if chosen is None and known is not None:
            return None
        secret = chosen or "sk_" + secrets.token_urlsafe(32)
        if known is None or known.secret_hash != hash_secret(secret):
            with contextlib.suppress(NotFound):  # another node may be at the same
                await self._credentials.remove(ADMIN_ID)  # and the sessions that were made from it
            await self._credentials.add(self._admin(secret), replace=True)
        return secret if chosen is None else None

    def _admin(self, secret: str) -> Credential:
        return Credential(
            id=ADMIN_ID,
            kind="admin",
            secret_hash=hash_secret(secret),
            workspace=None,
            name="admin",
            grants={EVERYWHERE: [ADMIN]},
            actor=None,
            parent=None,
            created_at=self._clock(),
            created_by="system",
            expires_at=None,
        )

    async def create_sign_in(self) -> str:
        """Make a one-time code that signs a browser in as the admin."""
        return await self._derive("sign_in", "sign-in link", ADMIN_ID, {EVERYWHERE: [ADMIN]}, SIGN_IN_SECONDS)

    async def sign_in(self, code: str) -> str:
        """Take a one-time code and return the secret of a new session. Raises Unauthenticated."""
        found = await self._credentials.take(hash_secret(code), "sign_in")
        if found is None or found.parent is None or found.expires_at is None or found.expires_at <= self._clock():
            raise Unauthenticated("the sign-in code is unknown, was used, or has expired")
        await self._credentials.sweep(self._clock())
        return await self._derive("session", "browser session", found.parent, found.grants, SESSION_SECONDS)

    async def sign_out(self, principal: Principal) -> None:
        """End a session."""
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


def principal_of(credential: Credential) -> Principal:
    """Return the principal that a credential stands for."""
    return Principal(
        id=credential.id,
        parents=(credential.parent,) if credential.parent else (),
        # There is one admin, whatever the key: what was opened with one key is not to outlive it.
        version=str(credential.created_at) if credential.kind == "admin" else "",
        name=credential.name,
        grants={workspace: frozenset(scopes) for workspace, scopes in credential.grants.items()},
        actor=credential.actor,
        expires_at=credential.expires_at,
    )
