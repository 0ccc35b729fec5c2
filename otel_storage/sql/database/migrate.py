"""The version of a database's schema: reads it, checks it, and migrates."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from otel_storage.results.exceptions import SchemaMismatch
from otel_storage.sql.database.policies import policy_of
from otel_storage.sql.database.schema import SCHEMA_VERSION, VERSION_TABLE, metadata

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parents[1] / "migrations"

_alembic = threading.Lock()
"""Alembic's ``context`` is global: without this lock two threads would migrate each other's database."""


def current(connection: Connection) -> str | None:
    """The version of the schema; None if the database has none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant
    return None if version is None else str(version)


def check(version: str | None, url: str) -> None:
    """Refuse a schema that is not this version's.

    Raises:
        SchemaMismatch: the message names the command that mends it.
    """
    if version == SCHEMA_VERSION:
        return
    if version is None:
        raise SchemaMismatch(f"{url} has no schema yet; run: otel-storage db upgrade --url {url}")
    if version in known_versions():
        raise SchemaMismatch(
            f"the schema of {url} is version {version}, older than this package's {SCHEMA_VERSION}; "
            f"run: otel-storage db upgrade --url {url}"
        )
    raise SchemaMismatch(
        f"the schema of {url} is version {version}, newer than this package's {SCHEMA_VERSION}; "
        "upgrade otel-storage in this environment"
    )


def upgrade(connection: Connection, url: str) -> None:
    """Bring the schema up to this version, in the connection's transaction.

    MariaDB commits each change of the schema at once. There, an upgrade that fails or is interrupted keeps the old
    version number and the changes so far, and the next upgrade makes the rest.

    Raises:
        SchemaMismatch: the schema is newer than this version of the package, or a table in it is not of this package.
    """
    version = current(connection)
    if version == SCHEMA_VERSION:
        return
    if version is not None and version not in known_versions():
        check(version, url)
    from alembic import command

    if policy_of(connection).migrates_in_parts:
        _check_tables(connection, url)
    config = _config()
    config.attributes["connection"] = connection
    with _alembic:
        command.upgrade(config, "head")


def _check_tables(connection: Connection, url: str) -> None:
    """Check that tables which exist already are those that an interrupted upgrade of this package created."""
    found = inspect(connection)
    there = set(found.get_table_names())
    for table in metadata.sorted_tables:
        names = {column["name"] for column in found.get_columns(table.name)} if table.name in there else set()
        if not names <= set(table.c.keys()):
            raise SchemaMismatch(
                f"the table {table.name} of {url} is not one of this package: its columns are "
                f"{', '.join(sorted(names))}; remove it or rename it, and upgrade again"
            )


def known_versions() -> set[str]:
    """The versions for which this package has migrations."""
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    # Escape %: Alembic interpolates options, as configparser does.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
