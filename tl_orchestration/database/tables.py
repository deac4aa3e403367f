"""
The tables, as the newest migration leaves them. A test compares the two.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB

#: Every revision of the schema, oldest first. Here, because asking for it must not cost an import of Alembic.
REVISIONS: Final = ("0001", "0002")
#: Where the revision is kept; not Alembic's usual name, which belongs to whoever else uses the database.
VERSION_TABLE: Final = "tl_schema_version"

metadata = MetaData()

#: One row per key: what :class:`~tl_orchestration.ledger.entry.Entry` says, and columns to list it by.
entries = Table(
    "tl_ledger_entries",
    metadata,
    Column("namespace", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("execution_id", Text),
    Column("generation", Text, nullable=False),
    Column("status", Text),
    # Epoch seconds, as everywhere in a ledger.
    Column("changed_at", Double, nullable=False),
    Column("document", JSON().with_variant(JSONB, "postgresql"), nullable=False),
    Index("tl_ledger_entries_by_state", "state", "changed_at"),
)

#: One row per write, never changed; only a purge removes them.
trail = Table(
    "tl_ledger_trail",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), Identity(always=True), primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("time", Double, nullable=False),
    Column("state", Text, nullable=False),
    Column("execution_id", Text),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("reason", Text),
    # No version is written twice: what a lost comparison would do, the database refuses as well.
    UniqueConstraint("namespace", "key", "version", name="tl_ledger_trail_once"),
    sqlite_autoincrement=True,  # no id is given twice, also after a purge
)
