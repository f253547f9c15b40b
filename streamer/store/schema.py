"""The tables. Migrations create them (`store/migrations`); a test checks that the two agree.

Times are microseconds since 1970 in UTC. Text compares bytewise on both databases (PostgreSQL: collation "C"), so that
SQL and memory agree on equality and order.
"""

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.types import TypeEngine

metadata = MetaData()

_Word: TypeEngine[str] = Text().with_variant(Text(collation="C"), "postgresql")
_Key: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")  # SQLite generates only INTEGER keys

workspaces = Table(
    "workspaces",
    metadata,
    # Events refer to this number: it is short, and a workspace that is created again after its deletion gets another one.
    Column("key", _Key, primary_key=True, autoincrement=True),
    Column("id", _Word, nullable=False, unique=True),
    Column("epoch", _Word, nullable=False),
    Column("head", BigInteger, nullable=False),
    Column("earliest", BigInteger, nullable=False),
    Column("last_timestamp", BigInteger, nullable=False),
    Column("name", Text),
    Column("org_id", _Word, nullable=False),
    Column("settings", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", _Word, nullable=False),
    # `created_by` if it was created with `PUT`; null if an append created it, which gives no right to its contents.
    Column("maker", _Word),
    # PostgreSQL's timeline at the last write; null before the first one, and on SQLite. Each failover begins a new timeline.
    Column("timeline", _Word),
    # The epoch before the last failover, and the last seq of it that survived: positions up to there are still valid.
    Column("previous_epoch", _Word),
    Column("fork", BigInteger),
    # A deleted workspace's number must never be reused: its events may still exist.
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("workspace", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("timestamp", BigInteger, nullable=False),
    # Bytes of `body` in UTF-8. It precedes the body, because SQLite reads through a long value to reach the columns after
    # it.
    Column("size", Integer, nullable=False),
    Column("id", _Word, nullable=False),
    Column("category", _Word, nullable=False),
    Column("action", _Word, nullable=False),
    Column("actor_type", _Word, nullable=False),
    Column("actor_id", _Word, nullable=False),
    Column("entity_type", _Word),
    Column("entity_id", _Word),
    Column("agent_id", _Word),
    Column("run_id", _Word),
    Column("task_id", _Word),
    Column("on_behalf_of", _Word),
    Column("issue_id", _Word),
    # The fingerprint of an event with a client's own id, as it was sent (`core.event.fingerprint`); older events have none.
    Column("fingerprint", Text),
    Column("search", _Word, nullable=False),
    Column("body", Text, nullable=False),
    PrimaryKeyConstraint("workspace", "seq"),
    Index("events_by_id", "workspace", "id", unique=True),
    Index("events_by_timestamp", "workspace", "timestamp"),
    Index("events_by_action", "workspace", "action", "seq"),
    Index("events_by_actor", "workspace", "actor_id", "seq"),
    Index("events_by_actor_type", "workspace", "actor_type", "seq"),
    # Nearly all events are activity and need no index.
    Index(
        "events_of_audit",
        "workspace",
        "seq",
        sqlite_where=text("category = 'audit'"),
        postgresql_where=text("category = 'audit'"),
    ),
    # Partial: most events lack some of these, and a row that is absent from an index costs nothing.
    *(
        Index(
            f"events_by_{name}",
            "workspace",
            f"{name}_id",
            "seq",
            sqlite_where=text(f"{name}_id IS NOT NULL"),
            postgresql_where=text(f"{name}_id IS NOT NULL"),
        )
        for name in ("entity", "agent", "run", "task", "issue")
    ),
    Index(
        "events_on_behalf_of",
        "workspace",
        "on_behalf_of",
        "seq",
        sqlite_where=text("on_behalf_of IS NOT NULL"),
        postgresql_where=text("on_behalf_of IS NOT NULL"),
    ),
)

entities = Table(
    "entities",
    metadata,
    # A workspace's key; its negative while its entities are rebuilt (`store/records/entities.py`).
    Column("workspace", BigInteger, nullable=False),
    Column("id", _Word, nullable=False),
    Column("type", _Word, nullable=False),
    Column("identifier", _Word),
    Column("name", _Word),
    Column("status", _Word),
    Column("attributes", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("deleted_at", BigInteger),
    Column("last_seq", BigInteger, nullable=False),
    PrimaryKeyConstraint("workspace", "id", "type"),
    Index("entities_by_id", "id"),
    Index(
        "entities_by_identifier",
        "identifier",
        sqlite_where=text("identifier IS NOT NULL"),
        postgresql_where=text("identifier IS NOT NULL"),
    ),
)

run_issues = Table(
    "run_issues",
    metadata,
    Column("workspace", BigInteger, nullable=False),
    Column("issue_id", _Word, nullable=False),
    Column("run_id", _Word, nullable=False),
    PrimaryKeyConstraint("workspace", "issue_id", "run_id"),
    Index("run_issues_by_run", "workspace", "run_id"),
)

# The number of audit events by block of seqs and action (`store.log.ranges`).
audit_counts = Table(
    "audit_counts",
    metadata,
    Column("workspace", BigInteger, nullable=False),
    Column("block", BigInteger, nullable=False),
    Column("action", _Word, nullable=False),
    Column("events", BigInteger, nullable=False),
    PrimaryKeyConstraint("workspace", "block", "action"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("workspace", BigInteger, nullable=False),
    Column("key", _Word, nullable=False),
    Column("fingerprint", _Word, nullable=False),
    Column("seqs", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("workspace", "key"),
    Index("idempotency_by_expiry", "expires_at"),
)

credentials = Table(
    "credentials",
    metadata,
    Column("id", _Word, primary_key=True),
    Column("kind", _Word, nullable=False),
    Column("secret_hash", _Word, nullable=False, unique=True),
    Column("workspace", _Word),
    Column("name", Text, nullable=False),
    Column("grants", Text, nullable=False),
    Column("actor_type", _Word),
    Column("actor_id", _Word),
    # A session ends with the key that created it.
    Column("parent", _Word),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", _Word, nullable=False),
    Column("expires_at", BigInteger),
    Index("credentials_by_workspace", "workspace", "id"),
    Index("credentials_by_parent", "parent"),
)

members = Table(
    "members",
    metadata,
    Column("workspace", _Word, nullable=False),
    # The `sub` of the person's tokens.
    Column("user_id", _Word, nullable=False),
    Column("role", _Word, nullable=False),
    Column("added_at", BigInteger, nullable=False),
    Column("added_by", _Word, nullable=False),
    PrimaryKeyConstraint("workspace", "user_id"),
    Index("members_by_user", "user_id", "workspace"),
)

tickets = Table(
    "tickets",
    metadata,
    Column("id", _Word, primary_key=True),
    Column("secret_hash", _Word, nullable=False, unique=True),
    # The credential that created it: its grants apply, in their state when the ticket is used.
    Column("credential", _Word, nullable=False),
    Column("workspace", _Word, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    # Until the first opening, the deadline for that.
    Column("expires_at", BigInteger, nullable=False),
    Column("ends_at", BigInteger, nullable=False),
    Column("openings", Integer, nullable=False),
    # A token's claims, if the ticket was created with a token: tokens are not stored.
    Column("claims", Text),
    # The log's epoch at the last opening: only its stream received it, with its positions.
    Column("epoch", _Word),
    # The account for limits; null for tickets from before this column.
    Column("account", _Word),
    Index("tickets_by_expiry", "expires_at"),
    Index("tickets_by_account", "account", "expires_at"),
)

# One row: the name by which the nodes of this installation find each other on a shared bus.
installation = Table("installation", metadata, Column("id", _Word, primary_key=True))
