"""
Listing and purging by state and age without reading every entry.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_index("tl_ledger_entries_by_state", "tl_ledger_entries", ["state", "changed_at"])
