"""
The inbox of webhooks.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "tl_inbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), sa.Identity(always=True), primary_key=True),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("execution_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("received_at", sa.Double, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("minute", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("digest", "minute", "service", name="tl_inbox_once"),
        sqlite_autoincrement=True,
    )
    op.create_index("tl_inbox_by_execution", "tl_inbox", ["execution_id"])
    op.create_index("tl_inbox_by_age", "tl_inbox", ["received_at"])
