"""Checks the storage's database; all messages are warnings."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from django.core.checks import CheckMessage, Warning

from otel_storage.contrib.django.checks.storage import Setting, words_of
from otel_storage.results import config
from otel_storage.results.exceptions import DatabaseUnavailable

if TYPE_CHECKING:
    from otel_storage.sql.database.engine import Database
    from otel_storage.sql.storage import SqlPipelineStorage

DEADLINE = 15.0
"""Seconds that a database has to answer, after at most 10 seconds for connecting."""

WATCHING_UNTIL = timedelta(minutes=5)
"""A watching process that has not reported for this long counts as dead."""


def database_messages(records: SqlPipelineStorage, setting: Setting) -> Sequence[CheckMessage]:
    """Check that the database is usable and has our schema, and that a process sends if this one does not."""
    file = records.database.file
    if file is not None and not file.exists():
        # The first run creates the file.
        problem = _problem_of_folder(file.parent)
        return [_unreachable(problem)] if problem else [*_watching_warning(None, records, setting)]
    if file is None:
        if not records.database.policy.is_server:
            return []  # in memory, or an address that only SQLite understands
        return [*_reachable_messages(records.database, records, setting)]
    if not os.access(file, os.W_OK):
        return [_unreachable(f"{file} may not be written by this user")]
    with _read_only(records, file) as database:
        return [*_reachable_messages(database, records, setting)]


def _problem_of_folder(folder: Path) -> str:
    if not folder.is_dir():
        return f"there is no folder {folder}"
    return "" if os.access(folder, os.W_OK) else f"nothing may be written in {folder} by this user"


@contextmanager
def _read_only(records: SqlPipelineStorage, file: Path) -> Iterator[Database]:
    """Open the SQLite file read-only, because our normal connections would switch it to WAL and migrate it."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    from otel_storage.sql.database.engine import Database

    address = f"{file.resolve().as_uri()}?mode=ro"
    engine = create_engine(
        records.database.engine.url,
        creator=lambda: sqlite3.connect(address, uri=True, timeout=5.0),
        poolclass=NullPool,
        hide_parameters=True,
    )
    yield Database(engine=engine)


def _reachable_messages(database: Database, records: SqlPipelineStorage, setting: Setting) -> Iterator[CheckMessage]:
    from sqlalchemy.exc import DBAPIError

    from otel_storage.sql.database.schema import SCHEMA_VERSION

    try:
        version = database.current()
    except DatabaseUnavailable as error:
        yield _unreachable(words_of(error))
        return
    except DBAPIError as error:
        yield _unreachable(f"{records.url}: {words_of(error.orig or error)}")
        return
    if version == SCHEMA_VERSION:
        yield from _watching_warning(database, records, setting)
    elif message := _schema_message(version, SCHEMA_VERSION, records):
        yield message


def _schema_message(version: str | None, expected: str, records: SqlPipelineStorage) -> CheckMessage | None:
    from otel_storage.sql.database.migrate import known_versions

    if version is not None and version not in known_versions():
        return Warning(
            f"The schema of {records.url} is version {version}, newer than {expected}, which this package works with",
            hint="Upgrade otel-storage in this environment",
            id="otel_storage.W007",
        )
    if records.database.policy.upgrades_itself:
        return None  # the first use upgrades the schema
    state = "has no schema yet" if version is None else f"has a schema of version {version}, older than {expected}"
    return Warning(
        f"The storage's database {records.url} {state}",
        hint="Run: python manage.py otel_storage_migrate",
        id="otel_storage.W006",
    )


def _unreachable(cause: str) -> CheckMessage:
    return Warning(
        f"The storage's database cannot be used: {cause}",
        hint=f"Mend the database, or its URL in {config.SETTING} or OTEL_STORAGE_URL: no run can be stored meanwhile.",
        id="otel_storage.W005",
    )


def _watching_warning(
    database: Database | None, records: SqlPipelineStorage, setting: Setting
) -> Iterator[CheckMessage]:
    """Check that some process sends the spans that this process leaves to others."""
    from otel_storage.sql.outbox.senders import SqlSenders
    from otel_storage.telemetry.spans.run_trace import is_disabled

    if not setting.makes_spans or setting.arguments.get("delivery") != "external" or is_disabled():
        return
    watching = None if database is None else SqlSenders(database, records.clock).last_watching()
    if watching is not None and records.clock() - watching.seen < WATCHING_UNTIL:
        return
    seen = "has ever been seen" if watching is None else f"was seen since {watching.seen:%Y-%m-%d %H:%M} UTC"
    yield Warning(
        f'Spans are left for another process to send (delivery="external"), and none that does {seen}',
        hint="Run one and keep it running: python manage.py otel_storage_deliver --watch",
        id="otel_storage.W003",
    )


def in_time(work: Callable[[], Sequence[CheckMessage]]) -> Sequence[CheckMessage]:
    """The work's result; raises an error if the server does not answer in time."""
    outcome: list[Sequence[CheckMessage] | Exception] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:  # noqa: BLE001 - raised again in the calling thread
            outcome.append(error)

    thread = threading.Thread(target=run, name="otel-storage-check", daemon=True)
    thread.start()
    thread.join(DEADLINE)
    if not outcome:
        return [_unreachable(f"it gave no answer in {DEADLINE:.0f} seconds")]
    [result] = outcome
    if isinstance(result, Exception):
        raise result
    return result
