"""Keys that the server's API cannot create: expired ones, and those of deleted workspaces."""

import secrets
from collections.abc import Sequence

from streamer.access.keys import Keyring, admin_credential, hash_secret
from streamer.core.clock import now_us
from streamer.store.engine.database import Database
from streamer.store.records.credentials import Credential, Credentials
from streamer.store.records.members import Members
from tests.conftest import ADMIN_KEY


async def store_key(
    database: Database, workspace: str, scopes: Sequence[str], *, expires_at: int | None = None
) -> tuple[str, str]:
    """Store a key in the database; return its id and its secret."""
    secret = "sk_" + secrets.token_urlsafe(32)
    key_id = "key_" + secrets.token_hex(8)
    await Credentials(database).add(
        Credential(
            id=key_id,
            kind="key",
            secret_hash=hash_secret(secret),
            workspace=workspace,
            name="stored",
            grants={workspace: list(scopes)},
            actor=None,
            parent=None,
            created_at=now_us(),
            created_by="admin",
            expires_at=expires_at,
        )
    )
    return key_id, secret


async def keyring_with_admin(database: Database) -> Keyring:
    """Return a keyring that contains the tests' admin key."""
    await Credentials(database).add_first(admin_credential(ADMIN_KEY, now_us()))
    return Keyring(Credentials(database), Members(database))
