"""
Batches: campaigns, their rows, and what all workers share.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"

_DOCUMENT = sa.JSON().with_variant(JSONB, "postgresql")
_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "tl_batch_campaigns",
        sa.Column("id", _NUMBER, sa.Identity(always=True), primary_key=True),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("quota", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("load", sa.Integer, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("report", _DOCUMENT),
        sa.Column("loader", sa.Text),
        sa.Column("loader_seen_at", sa.Double),
        sa.Column("stop", sa.Text, nullable=False),
        sa.Column("output", sa.Text),
        sa.UniqueConstraint("namespace", "name", name="tl_batch_campaigns_once"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "tl_batch_slices",
        sa.Column("id", _NUMBER, sa.Identity(always=True), primary_key=True),
        sa.Column("campaign", sa.BigInteger, nullable=False),
        sa.Column("load", sa.Integer, nullable=False),
        sa.Column("locator", _DOCUMENT, nullable=False),
        sa.Column("open", sa.Boolean, nullable=False),
        sa.Column("due_at", sa.Double, nullable=False),
        sa.Column("owner", sa.Text),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "tl_batch_rows",
        sa.Column("campaign", sa.BigInteger, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("slice", sa.BigInteger, nullable=False),
        sa.Column("load", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("restart", sa.Boolean, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("fingerprint_key_id", sa.Text, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("execution_id", sa.Text),
        sa.Column("api_version", sa.Integer),
        sa.Column("deadline", sa.Double),
        sa.Column("expires_at", sa.Double),
        sa.Column("started_at", sa.Double),
        sa.Column("ended_at", sa.Double),
        sa.Column("status", sa.Text),
        sa.Column("raw_status", sa.Text),
        sa.Column("revision", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("polls", sa.Integer, nullable=False),
        sa.Column("part", sa.BigInteger),
        sa.Column("line", sa.Integer),
    )
    op.create_table(
        "tl_batch_parts",
        sa.Column("id", _NUMBER, sa.Identity(always=True), primary_key=True),
        sa.Column("campaign", sa.BigInteger, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("committed", sa.Boolean, nullable=False),
        sa.Column("rows", sa.Integer),
        sa.Column("size", sa.BigInteger),
        sa.Column("sha256", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "tl_batch_workers",
        sa.Column("campaign", sa.BigInteger, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("quota", sa.Text, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.Column("reserved", sa.Integer, nullable=False),
    )
    op.create_table(
        "tl_batch_requests",
        sa.Column("campaign", sa.BigInteger, primary_key=True),
        sa.Column("operation", sa.Text, primary_key=True),
        sa.Column("count", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "tl_batch_quotas",
        sa.Column("namespace", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("in_flight", sa.Integer),
        sa.Column("requests_per_second", sa.Double),
        sa.Column("next_at", sa.Double, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("probe_at", sa.Double),
        sa.Column("probes", sa.Integer, nullable=False),
    )
    op.create_index("tl_batch_slices_open", "tl_batch_slices", ["campaign", "open", "due_at"])
    op.create_index("tl_batch_rows_by_state", "tl_batch_rows", ["campaign", "state", "owner"])
    op.create_index("tl_batch_rows_by_slice", "tl_batch_rows", ["campaign", "slice", "state"])
    op.create_index("tl_batch_parts_by_campaign", "tl_batch_parts", ["campaign", "committed"])
    op.create_index("tl_batch_workers_by_quota", "tl_batch_workers", ["namespace", "quota"])
