"""Members; whose event an event is; what a ticket was made with, and its log."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

ROWS = 5000
"""Rows that one statement fills on PostgreSQL, where a statement has its time limit (`store/engine/database.py`)."""

# Bytewise on both databases; see store/schema.py.
_Word = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the table and the columns; fill the column that is derived from the events."""
    op.create_table(
        "members",
        sa.Column("workspace", _Word, nullable=False),
        sa.Column("user_id", _Word, nullable=False),
        sa.Column("role", _Word, nullable=False),
        sa.Column("added_at", sa.BigInteger, nullable=False),
        sa.Column("added_by", _Word, nullable=False),
        sa.PrimaryKeyConstraint("workspace", "user_id"),
    )
    op.create_index("members_by_user", "members", ["user_id", "workspace"])
    op.add_column("tickets", sa.Column("claims", sa.Text))
    op.add_column("tickets", sa.Column("epoch", _Word))
    if op.get_bind().dialect.name == "sqlite":
        _rebuild()
    else:
        _fill()
    given = sa.text("on_behalf_of IS NOT NULL")
    op.create_index(
        "events_on_behalf_of",
        "events",
        ["workspace", "on_behalf_of", "seq"],
        sqlite_where=given,
        postgresql_where=given,
    )


def _rebuild() -> None:
    """Copy the table: SQLite adds a column only at the end, behind the long body, where reading it means to read through that."""
    indexes = sa.text("SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'events' AND sql IS NOT NULL")
    remade = op.get_bind().scalars(indexes).all()
    copied = op.create_table(
        "copied_events",
        sa.Column("workspace", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("actor_type", sa.Text, nullable=False),
        sa.Column("actor_id", sa.Text, nullable=False),
        sa.Column("entity_type", sa.Text),
        sa.Column("entity_id", sa.Text),
        sa.Column("agent_id", sa.Text),
        sa.Column("run_id", sa.Text),
        sa.Column("task_id", sa.Text),
        sa.Column("on_behalf_of", sa.Text),
        sa.Column("search", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("workspace", "seq"),
    )
    names = ", ".join(column.name for column in copied.c if column.name != "on_behalf_of")
    op.execute(
        f"INSERT INTO copied_events ({names}, on_behalf_of) "  # noqa: S608 - our own column names
        f"SELECT {names}, json_extract(body, '$.actor.on_behalf_of') FROM events ORDER BY rowid"
    )
    op.drop_table("events")
    op.rename_table("copied_events", "events")
    for index in remade:
        op.execute(index)


def _fill() -> None:
    """Add the column at once, whatever the table's size, and fill it by parts."""
    op.add_column("events", sa.Column("on_behalf_of", _Word))
    # Quotes within a value stand behind a backslash: what is found is the key. The whole body is not read as JSON, because PostgreSQL refuses
    # that if a text anywhere in it holds U+0000; `on_behalf_of` never does.
    fill = sa.text(
        "UPDATE events SET on_behalf_of = (substring(body FROM :value)::json #>> '{}') "
        "WHERE workspace = :key AND seq BETWEEN :first AND :last AND body LIKE :mark"
    )
    value = r'"on_behalf_of":("(?:[^"\\]|\\.)*"),"ip"'
    connection = op.get_bind()
    # Events of deleted workspaces wait to be removed and are not read again.
    logs = connection.execute(sa.text("SELECT key, earliest, head FROM workspaces")).all()
    for key, earliest, head in logs:
        for first in range(earliest, head + 1, ROWS):
            bounds = {"key": key, "first": first, "last": min(first + ROWS - 1, head)}
            connection.execute(fill, {**bounds, "value": value, "mark": '%"on_behalf_of":"%'})
