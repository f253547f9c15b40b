"""How many audit events there are, by block of seqs and action: an offset passes over them without counting each."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

# Bytewise on both databases; see store/schema.py.
_Word = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the table, and count what is there; 1024 is `store.ranges.BLOCK`."""
    op.create_table(
        "audit_counts",
        sa.Column("workspace", sa.BigInteger, nullable=False),
        sa.Column("block", sa.BigInteger, nullable=False),
        sa.Column("action", _Word, nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("workspace", "block", "action"),
    )
    op.execute(
        "INSERT INTO audit_counts (workspace, block, action, events)"
        " SELECT workspace, seq / 1024, action, count(*) FROM events WHERE category = 'audit'"
        " GROUP BY workspace, seq / 1024, action"
    )
