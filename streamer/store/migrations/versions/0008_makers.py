"""Who made a workspace on purpose. Of older workspaces that is not known: an append may have made them."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

# Bytewise on both databases; see store/schema.py.
_Word = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the column."""
    op.add_column("workspaces", sa.Column("maker", _Word))
