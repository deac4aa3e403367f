"""
Runs the migrations on the connection, and in the transaction, that :mod:`tl_orchestration.database.schema` gives.
"""

from __future__ import annotations

from alembic import context

from tl_orchestration.database.tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
context.run_migrations()
