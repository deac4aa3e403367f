"""
The tables, as the newest migration leaves them. A test compares the two.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
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
REVISIONS: Final = ("0001", "0002", "0003", "0004")
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

_DOCUMENT = JSON().with_variant(JSONB, "postgresql")
_NUMBER = BigInteger().with_variant(Integer, "sqlite")

#: One row per campaign: what was loaded, and what a person has said about it since.
campaigns = Table(
    "tl_batch_campaigns",
    metadata,
    Column("id", _NUMBER, Identity(always=True), primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("definition", Text, nullable=False),
    Column("quota", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    # Counts the passes over the source; the rows of the latest one can be read again.
    Column("load", Integer, nullable=False),
    # What the source was when it was last read whole; empty while no pass has ended.
    Column("source", Text, nullable=False),
    Column("report", _DOCUMENT),
    # Who reads the source now, and when it last said so.
    Column("loader", Text),
    Column("loader_seen_at", Double),
    # A person's word: empty, DRAIN or CANCEL.
    Column("stop", Text, nullable=False),
    Column("output", Text),
    UniqueConstraint("namespace", "name", name="tl_batch_campaigns_once"),
    sqlite_autoincrement=True,
)

#: One row per portion of a source: where it can be read again, and who starts its rows.
slices = Table(
    "tl_batch_slices",
    metadata,
    Column("id", _NUMBER, Identity(always=True), primary_key=True),
    Column("campaign", BigInteger, nullable=False),
    Column("load", Integer, nullable=False),
    Column("locator", _DOCUMENT, nullable=False),
    # Whether it may have rows that are not started.
    Column("open", Boolean, nullable=False),
    # Earliest time at which anybody looks at it again, epoch seconds.
    Column("due_at", Double, nullable=False),
    Column("owner", Text),
    Index("tl_batch_slices_open", "campaign", "open", "due_at"),
    sqlite_autoincrement=True,
)

#: One row per business key: an index over the ledger, without a parameter.
rows = Table(
    "tl_batch_rows",
    metadata,
    Column("campaign", BigInteger, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("slice", BigInteger, nullable=False),
    Column("load", Integer, nullable=False),
    Column("state", Text, nullable=False),
    # The ledger's generation: each explicit retry is one more.
    Column("attempt", Integer, nullable=False),
    # Whether this attempt may follow a start of unknown fate.
    Column("restart", Boolean, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("fingerprint_key_id", Text, nullable=False),
    Column("owner", Text),
    Column("execution_id", Text),
    Column("api_version", Integer),
    Column("deadline", Double),
    Column("expires_at", Double),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("status", Text),
    Column("raw_status", Text),
    Column("revision", Text),
    Column("reason", Text),
    Column("polls", Integer, nullable=False),
    # Where its result is: the part, and the line in it from 0.
    Column("part", BigInteger),
    Column("line", Integer),
    Index("tl_batch_rows_by_state", "campaign", "state", "owner"),
    Index("tl_batch_rows_by_slice", "campaign", "slice", "state"),
)

#: One row per file of results. It is on record before the file is there, so that none is left over unknown.
parts = Table(
    "tl_batch_parts",
    metadata,
    Column("id", _NUMBER, Identity(always=True), primary_key=True),
    Column("campaign", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("committed", Boolean, nullable=False),
    Column("rows", Integer),
    Column("size", BigInteger),
    Column("sha256", Text),
    Column("created_at", Double, nullable=False),
    Index("tl_batch_parts_by_campaign", "campaign", "committed"),
    sqlite_autoincrement=True,
)

#: One row per worker of a campaign: its lease, and the starts that it may make.
workers = Table(
    "tl_batch_workers",
    metadata,
    Column("campaign", BigInteger, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("quota", Text, nullable=False),
    Column("seen_at", Double, nullable=False),
    # Starts that were granted and are not yet counted as executions in flight.
    Column("reserved", Integer, nullable=False),
    Index("tl_batch_workers_by_quota", "namespace", "quota"),
)

#: Requests that a campaign has cost, by operation.
requests = Table(
    "tl_batch_requests",
    metadata,
    Column("campaign", BigInteger, primary_key=True),
    Column("operation", Text, primary_key=True),
    Column("count", BigInteger, nullable=False),
)

#: What all workers of all campaigns share: limits, the turn of the next request, and the breaker.
quotas = Table(
    "tl_batch_quotas",
    metadata,
    Column("namespace", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("in_flight", Integer),
    Column("requests_per_second", Double),
    # When the next request may leave, epoch seconds.
    Column("next_at", Double, nullable=False),
    # Starts since the last that was answered well; those of unknown fate or without any answer.
    Column("failures", Integer, nullable=False),
    # When one row may be started to see whether the service is back, epoch seconds; none while the breaker is closed.
    Column("probe_at", Double),
    Column("probes", Integer, nullable=False),
)
