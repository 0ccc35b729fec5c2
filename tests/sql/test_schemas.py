"""A copied schema is the one that the migrations make, on each engine."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine

from otel_storage.sql.storage import SqlPipelineStorage
from tests import schemas

SQLITE = (
    "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name",
    "PRAGMA journal_mode",
    "PRAGMA page_size",
    "PRAGMA auto_vacuum",
    "PRAGMA encoding",
    "PRAGMA user_version",
    "PRAGMA application_id",
)
POSTGRESQL = (
    """
    SELECT relname, relkind, reloptions, obj_description(pg_class.oid), attnum, attname, attnotnull, attidentity,
        format_type(atttypid, atttypmod), attcollation, pg_get_expr(adbin, adrelid), col_description(attrelid, attnum)
    FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE relnamespace = 'public'::regnamespace AND attnum > 0 ORDER BY relname, attnum
    """,
    """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2
    """,
    "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY indexdef",
    "SELECT sequencename, data_type::text, start_value, last_value FROM pg_sequences ORDER BY sequencename",
    "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY oid",
    "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY proname",
)
MARIADB = (
    "SHOW FULL TABLES",
    "SHOW TRIGGERS",
    "SHOW PROCEDURE STATUS WHERE Db = DATABASE()",
    "SHOW FUNCTION STATUS WHERE Db = DATABASE()",
    "SELECT @@character_set_database, @@collation_database",
)


def content(engine: Engine) -> dict[str, Any]:
    """All that the database consists of, in its engine's own words: definitions, and the rows of each table."""
    with engine.connect() as connection:

        def ask(*statements: str) -> dict[str, Any]:
            return {each: [tuple(row) for row in connection.exec_driver_sql(each)] for each in statements}

        if engine.dialect.name == "sqlite":
            found = ask(*SQLITE)
            names = [name for kind, name, *_ in found[SQLITE[0]] if kind == "table"]
        elif engine.dialect.name == "postgresql":
            found = ask(*POSTGRESQL)
            names = [
                name
                for (name,) in connection.exec_driver_sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            ]
        else:
            found = ask(*MARIADB)
            names = [name for name, _ in found["SHOW FULL TABLES"]]
            found |= ask(*(f"SHOW CREATE TABLE {name}" for name in names))
        return found | ask(*(f"SELECT * FROM {name}" for name in sorted(names)))  # noqa: S608 - names of tables


def content_of(url: str) -> dict[str, Any]:
    """The same by a connection of its own."""
    engine = create_engine(url)
    found = content(engine)
    engine.dispose()
    return found


@pytest.fixture
def migrated(database_url: str, request: pytest.FixtureRequest) -> str:
    """URL of a database of the same engine whose schema the migrations made."""
    engine = database_url.partition(":")[0].partition("+")[0]
    url: str = f"{database_url}.migrated" if engine == "sqlite" else request.getfixturevalue(f"empty_{engine}_url")
    with closing(SqlPipelineStorage(url)) as storage:
        storage.upgrade()
    return url


def test_a_copy_is_what_the_migrations_make(database_url: str, migrated: str) -> None:
    """Tables, columns, keys, indexes, settings and rows are the same, and so is what is found of each."""
    found = content_of(database_url)

    assert found == content_of(migrated)
    assert len(found) > 9


def test_comparison_can_find_a_difference(database_url: str, migrated: str) -> None:
    """The comparison above sees an index, a column and a row that the copy lacks or has too many."""
    engine = create_engine(migrated)
    before = content(engine)
    index = "ix_otel_storage_outbox_execution_id_record_id"
    on_table = " ON otel_storage_outbox" if engine.dialect.name == "mariadb" else ""
    seen = [content_of(database_url)]
    for statement in (
        f"DROP INDEX {index}{on_table}",
        "ALTER TABLE otel_storage_outbox ADD COLUMN extra INTEGER",
        "DELETE FROM otel_storage_schema_version",
    ):
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)
        assert content(engine) not in seen
        seen.append(content(engine))
    engine.dispose()

    assert seen[0] == before


def test_a_copy_in_memory_is_what_the_migrations_make() -> None:
    """The same of a database in memory, which is filled through its one connection."""
    with closing(SqlPipelineStorage("sqlite://")) as copied, closing(SqlPipelineStorage("sqlite://")) as migrated:
        schemas.fill_memory(copied.database.engine)
        migrated.upgrade()

        assert content(copied.database.engine) == content(migrated.database.engine)
