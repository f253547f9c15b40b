"""The log: workspaces, events, idempotency keys, credentials."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# Bytewise on both databases; see store/schema.py.
_Word = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "workspaces",
        sa.Column("key", _Key, primary_key=True, autoincrement=True),
        sa.Column("id", _Word, nullable=False, unique=True),
        sa.Column("epoch", _Word, nullable=False),
        sa.Column("head", sa.BigInteger, nullable=False),
        sa.Column("earliest", sa.BigInteger, nullable=False),
        sa.Column("last_timestamp", sa.BigInteger, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("org_id", _Word, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", _Word, nullable=False),
        # A deleted workspace's number must never be reused: its events may still exist.
        sqlite_autoincrement=True,
    )
    op.create_table(
        "events",
        sa.Column("workspace", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sa.Column("id", _Word, nullable=False),
        sa.Column("category", _Word, nullable=False),
        sa.Column("action", _Word, nullable=False),
        sa.Column("actor_type", _Word, nullable=False),
        sa.Column("actor_id", _Word, nullable=False),
        sa.Column("entity_type", _Word),
        sa.Column("entity_id", _Word),
        sa.Column("agent_id", _Word),
        sa.Column("run_id", _Word),
        sa.Column("task_id", _Word),
        sa.Column("search", _Word, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("workspace", "seq"),
    )
    op.create_index("events_by_id", "events", ["workspace", "id"], unique=True)
    op.create_index("events_by_timestamp", "events", ["workspace", "timestamp"])
    op.create_index("events_by_action", "events", ["workspace", "action", "seq"])
    op.create_index("events_by_actor", "events", ["workspace", "actor_id", "seq"])
    for name in ("entity", "agent", "run", "task"):
        present = sa.text(f"{name}_id IS NOT NULL")
        op.create_index(
            f"events_by_{name}",
            "events",
            ["workspace", f"{name}_id", "seq"],
            sqlite_where=present,
            postgresql_where=present,
        )
    op.create_table(
        "idempotency",
        sa.Column("workspace", sa.BigInteger, nullable=False),
        sa.Column("key", _Word, nullable=False),
        sa.Column("fingerprint", _Word, nullable=False),
        sa.Column("seqs", sa.Text, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("workspace", "key"),
    )
    op.create_index("idempotency_by_expiry", "idempotency", ["expires_at"])
    op.create_table(
        "credentials",
        sa.Column("id", _Word, primary_key=True),
        sa.Column("kind", _Word, nullable=False),
        sa.Column("secret_hash", _Word, nullable=False, unique=True),
        sa.Column("workspace", _Word),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("grants", sa.Text, nullable=False),
        sa.Column("actor_type", _Word),
        sa.Column("actor_id", _Word),
        sa.Column("parent", _Word),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", _Word, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
    )
    op.create_index("credentials_by_workspace", "credentials", ["workspace", "id"])
    op.create_index("credentials_by_parent", "credentials", ["parent"])
