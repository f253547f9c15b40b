"""The tables. Migrations make them (`store/migrations`); a test holds the two together.

Times are microseconds since 1970 in UTC. Text compares byte by byte on both databases (PostgreSQL: collation "C"), so that SQL
and memory agree on equality and order.
"""

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.types import TypeEngine

metadata = MetaData()

_Word: TypeEngine[str] = Text().with_variant(Text(collation="C"), "postgresql")
_Key: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")  # SQLite makes only INTEGER keys by itself

workspaces = Table(
    "workspaces",
    metadata,
    # Events refer to this number: it is short, and a workspace that is made again after its deletion gets another.
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
    # `created_by` if that made it on purpose (`PUT`); null if an append did, which gives no right to what is in it.
    Column("maker", _Word),
    # A deleted workspace's number must never come back: its events may still be there.
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("workspace", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("timestamp", BigInteger, nullable=False),
    # Bytes of `body` in UTF-8. It stands before the body: SQLite finds what stands behind a long value by reading through it.
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
    # Of an event with a client's own id, as it was sent (`core.event.fingerprint`); older events have none.
    Column("fingerprint", Text),
    Column("search", _Word, nullable=False),
    Column("body", Text, nullable=False),
    PrimaryKeyConstraint("workspace", "seq"),
    Index("events_by_id", "workspace", "id", unique=True),
    Index("events_by_timestamp", "workspace", "timestamp"),
    Index("events_by_action", "workspace", "action", "seq"),
    Index("events_by_actor", "workspace", "actor_id", "seq"),
    Index("events_by_actor_type", "workspace", "actor_type", "seq"),
    # Nearly all events are activity: those are found without an index.
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
    # A workspace's key; the negative one while its entities are made anew (`store/entities.py`).
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

# How many audit events a block of seqs has of each action (`store.ranges`).
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
    # A session ends with the key that it was made from.
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
    # The credential that it was made with: its grants count, as they are when the ticket is used.
    Column("credential", _Word, nullable=False),
    Column("workspace", _Word, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    # Until it is opened for the first time this is the end of the time for that.
    Column("expires_at", BigInteger, nullable=False),
    Column("ends_at", BigInteger, nullable=False),
    Column("openings", Integer, nullable=False),
    # What a token said, if the ticket was made with one: tokens are not kept.
    Column("claims", Text),
    # Of the log, when it was opened last: only its stream was told it, with its positions.
    Column("epoch", _Word),
    # Whose limit it counts for; of tickets from before the column, nobody's.
    Column("account", _Word),
    Index("tickets_by_expiry", "expires_at"),
    Index("tickets_by_account", "account", "expires_at"),
)
