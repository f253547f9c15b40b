"""The size of an event, so that reading can be bounded in bytes."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ROWS = 5000
"""Rows that one statement fills on PostgreSQL, where a statement has its time limit (`store/engine/database.py`)."""


def upgrade() -> None:
    """Add the column and fill it for the events that are there."""
    if op.get_bind().dialect.name == "sqlite":
        _rebuild()
    else:
        _fill()


def _rebuild() -> None:
    """Copy the table: SQLite adds a column only at the end, after the long body, which every read of the column would go through.

    An UPDATE would rewrite every row as well.
    """
    indexes = sa.text("SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'events' AND sql IS NOT NULL")
    remade = op.get_bind().scalars(indexes).all()
    sized = op.create_table(
        "sized_events",
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
        sa.Column("search", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("workspace", "seq"),
    )
    names = ", ".join(column.name for column in sized.c if column.name != "size")
    op.execute(
        f"INSERT INTO sized_events ({names}, size) "  # noqa: S608 - our own column names
        f"SELECT {names}, length(CAST(body AS BLOB)) FROM events ORDER BY rowid"
    )
    op.drop_table("events")
    op.rename_table("sized_events", "events")
    for index in remade:
        op.execute(index)


def _fill() -> None:
    """Add the column at once, whatever the table's size, and fill it by parts."""
    op.add_column("events", sa.Column("size", sa.Integer, nullable=False, server_default="0"))
    fill = sa.text(
        "UPDATE events SET size = octet_length(body) WHERE workspace = :key AND seq BETWEEN :first AND :last"
    )
    connection = op.get_bind()
    # Events of deleted workspaces wait to be removed and are not read again: they may keep their zero.
    logs = connection.execute(sa.text("SELECT key, earliest, head FROM workspaces")).all()
    for key, earliest, head in logs:
        for first in range(earliest, head + 1, ROWS):
            connection.execute(fill, {"key": key, "first": first, "last": min(first + ROWS - 1, head)})
    op.alter_column("events", "size", server_default=None)
