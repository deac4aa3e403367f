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
REVISIONS: Final = ("0001", "0002", "0003")
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

#: One row per delivery that was verified: that something happened to an execution, and nothing of what.
inbox = Table(
    "tl_inbox",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), Identity(always=True), primary_key=True),
    Column("service", Text, nullable=False),
    # Empty where the delivery did not tell it in a form that is known.
    Column("execution_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("received_at", Double, nullable=False),
    # SHA-256 of the body, and the minute of its arrival: the same bytes count once a minute. For longer they must not,
    # because two events may have the same bytes: no vendor promises an event id.
    Column("digest", Text, nullable=False),
    Column("minute", BigInteger, nullable=False),
    UniqueConstraint("digest", "minute", "service", name="tl_inbox_once"),
    Index("tl_inbox_by_execution", "execution_id"),
    Index("tl_inbox_by_age", "received_at"),
    sqlite_autoincrement=True,  # readers rely on numbers that only grow
)
