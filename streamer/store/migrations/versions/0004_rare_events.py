"""Indexes for what is rare among many: audit events, and those of one type of actor."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the indexes."""
    audit = sa.text("category = 'audit'")
    op.create_index("events_of_audit", "events", ["workspace", "seq"], sqlite_where=audit, postgresql_where=audit)
    op.create_index("events_by_actor_type", "events", ["workspace", "actor_type", "seq"])
