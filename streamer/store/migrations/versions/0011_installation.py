"""The name of the installation, by which its nodes find each other on a shared bus."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

# Bytewise on both databases; see store/schema.py.
_Word = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the table with its only row."""
    table = op.create_table("installation", sa.Column("id", _Word, primary_key=True))
    op.bulk_insert(table, [{"id": secrets.token_hex(6)}])
