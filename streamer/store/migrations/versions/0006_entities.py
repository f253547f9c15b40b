"""Entities derived from the log; the issue that an event belongs to.

Both are empty for what was stored before: `streamer rebuild` fills them, while the server runs.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

# Bytewise on both databases; see store/schema.py.
_Word = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the tables and the column."""
    op.create_table(
        "entities",
        sa.Column("workspace", sa.BigInteger, nullable=False),
        sa.Column("id", _Word, nullable=False),
        sa.Column("type", _Word, nullable=False),
        sa.Column("identifier", _Word),
        sa.Column("name", _Word),
        sa.Column("status", _Word),
        sa.Column("attributes", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("deleted_at", sa.BigInteger),
        sa.Column("last_seq", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("workspace", "id", "type"),
    )
    op.create_index("entities_by_id", "entities", ["id"])
    named = sa.text("identifier IS NOT NULL")
    op.create_index("entities_by_identifier", "entities", ["identifier"], sqlite_where=named, postgresql_where=named)
    op.create_table(
        "run_issues",
        sa.Column("workspace", sa.BigInteger, nullable=False),
        sa.Column("issue_id", _Word, nullable=False),
        sa.Column("run_id", _Word, nullable=False),
        sa.PrimaryKeyConstraint("workspace", "issue_id", "run_id"),
    )
    op.create_index("run_issues_by_run", "run_issues", ["workspace", "run_id"])
    if op.get_bind().dialect.name == "sqlite":
        _copy()
    else:
        op.add_column("events", sa.Column("issue_id", _Word))
    given = sa.text("issue_id IS NOT NULL")
    op.create_index(
        "events_by_issue", "events", ["workspace", "issue_id", "seq"], sqlite_where=given, postgresql_where=given
    )


def _copy() -> None:
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
        sa.Column("issue_id", sa.Text),
        sa.Column("search", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("workspace", "seq"),
    )
    names = ", ".join(column.name for column in copied.c if column.name != "issue_id")
    op.execute(f"INSERT INTO copied_events ({names}) SELECT {names} FROM events ORDER BY rowid")  # noqa: S608 - our own column names
    op.drop_table("events")
    op.rename_table("copied_events", "events")
    for index in remade:
        op.execute(index)
