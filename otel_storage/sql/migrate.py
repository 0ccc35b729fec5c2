"""The version of a database's schema: what it is, whether it will do, and how to bring it up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from otel_storage.results.exceptions import SchemaMismatch
from otel_storage.sql.schema import SCHEMA_VERSION, VERSION_TABLE

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).with_name("migrations")


def current(connection: Connection) -> str | None:
    """The version of the schema; None if there is none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant
    return None if version is None else str(version)


def check(version: str | None, url: str) -> None:
    """Refuse a schema that is not this version's.

    Raises:
        SchemaMismatch: naming the command that mends it.
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
        "run: pip install --upgrade otel-storage"
    )


def upgrade(connection: Connection, url: str) -> None:
    """Bring the schema up to this version, in the connection's transaction.

    Raises:
        SchemaMismatch: the schema is newer than this version of the package.
    """
    version = current(connection)
    if version == SCHEMA_VERSION:
        return
    if version is not None and version not in known_versions():
        check(version, url)
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def known_versions() -> set[str]:
    """The versions that this package has migrations of."""
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    # Alembic interpolates options, as configparser does.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
