"""Run by Alembic: migrate on the connection, and in the transaction, that it was given."""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import event

from otel_storage.sql.database.mariadb import unless_done
from otel_storage.sql.database.policies import policy_of
from otel_storage.sql.database.schema import VERSION_TABLE, metadata

connection = context.config.attributes["connection"]
migrates_in_parts = policy_of(connection).migrates_in_parts


def pass_over_what_is_done(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
    """On MariaDB an upgrade that was cut short has left some of it."""
    return unless_done(statement), parameters


context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=False,  # the caller holds the transaction
)
if migrates_in_parts:
    event.listen(connection, "before_cursor_execute", pass_over_what_is_done, retval=True)
try:
    context.run_migrations()
finally:
    if migrates_in_parts:
        event.remove(connection, "before_cursor_execute", pass_over_what_is_done)
