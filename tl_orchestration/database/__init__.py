"""
The SQL database behind ledgers that several processes share: SQLite on one host, PostgreSQL anywhere.

Needs the extra ``sql``. Importing this package costs nothing; :class:`~tl_orchestration.database.engine.Database` is
the connection, :mod:`~tl_orchestration.database.schema` makes and checks the tables.
"""
