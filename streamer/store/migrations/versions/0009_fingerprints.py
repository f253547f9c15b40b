"""What an event with a client's own id was when it was sent. Of older events that is not known: their bodies are compared."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the column."""
    if op.get_bind().dialect.name == "sqlite":
        _copy()
    else:
        op.add_column("events", sa.Column("fingerprint", sa.Text))


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
        sa.Column("fingerprint", sa.Text),
        sa.Column("search", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("workspace", "seq"),
    )
    names = ", ".join(column.name for column in copied.c if column.name != "fingerprint")
    op.execute(f"INSERT INTO copied_events ({names}) SELECT {names} FROM events ORDER BY rowid")  # noqa: S608 - our own column names
    op.drop_table("events")
    op.rename_table("copied_events", "events")
    for index in remade:
        op.execute(index)
