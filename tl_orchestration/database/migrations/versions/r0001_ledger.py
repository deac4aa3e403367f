"""
The ledger: entries and their trail.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "tl_ledger_entries",
        sa.Column("namespace", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("execution_id", sa.Text),
        sa.Column("generation", sa.Text, nullable=False),
        sa.Column("status", sa.Text),
        sa.Column("changed_at", sa.Double, nullable=False),
        sa.Column("document", sa.JSON().with_variant(JSONB, "postgresql"), nullable=False),
    )
    op.create_table(
        "tl_ledger_trail",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), sa.Identity(always=True), primary_key=True),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("execution_id", sa.Text),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.UniqueConstraint("namespace", "key", "version", name="tl_ledger_trail_once"),
        sqlite_autoincrement=True,
    )
