"""What a failover of PostgreSQL left of a log: the timeline of its last write, and the epoch before with the last seq of it that survived."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

# Bytewise on both databases; see store/schema.py.
_Word = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the columns; they are null until a log is written to."""
    op.add_column("workspaces", sa.Column("timeline", _Word))
    op.add_column("workspaces", sa.Column("previous_epoch", _Word))
    op.add_column("workspaces", sa.Column("fork", sa.BigInteger()))
