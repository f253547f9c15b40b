"""Whose limit a ticket counts for. Older tickets count for nobody; they end within twelve hours."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

# Bytewise on both databases; see store/schema.py.
_Word = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the column and the index that counts by it."""
    op.add_column("tickets", sa.Column("account", _Word))
    op.create_index("tickets_by_account", "tickets", ["account", "expires_at"])
