"""Tickets."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

# Bytewise on both databases; see store/schema.py.
_Word = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the table of tickets."""
    op.create_table(
        "tickets",
        sa.Column("id", _Word, primary_key=True),
        sa.Column("secret_hash", _Word, nullable=False, unique=True),
        sa.Column("credential", _Word, nullable=False),
        sa.Column("workspace", _Word, nullable=False),
        sa.Column("parameters", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("ends_at", sa.BigInteger, nullable=False),
        sa.Column("openings", sa.Integer, nullable=False),
    )
    op.create_index("tickets_by_expiry", "tickets", ["expires_at"])
