"""Run by Alembic: migrate on the connection, and in the transaction, that it was given."""

from __future__ import annotations

from alembic import context

from otel_storage.sql.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=False,  # the caller holds the transaction
)
context.run_migrations()
