"""A final state survives its text: messages that a database does not take, and messages without an end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import create_engine

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.sql.database.values import MESSAGE_LIMIT, message_text
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.conformance.fixtures import Builder, line
from otel_storage.testing.pipelines import RecordingReporter
from tests import services
from tests.servers import mariadb_server

RUNTIME_ERROR = PipelineTaskStatus.RUNTIME_ERROR


@pytest.fixture
def latin1_url() -> Iterator[str]:
    """URL of a PostgreSQL database whose encoding is LATIN1; the test makes its schema."""
    with services.postgresql_database() as url:
        name = f"{url.database}_latin1"
        admin = create_engine(url, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING LATIN1 LOCALE 'C'")
        try:
            yield url.set(database=name).render_as_string(hide_password=False)
        finally:
            with admin.connect() as connection:
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
            admin.dispose()


def fail(message: str) -> None:
    """Raise, so that there is a stack trace too."""
    raise LookupError(message)


def assert_failed(storage: SqlPipelineStorage, message: str) -> str:
    """Report a failure while it is handled; returns the message that is stored, which all four records have."""
    made = Builder(storage).line()
    try:
        fail(message)
    except LookupError as error:
        made[3].report_status_change(RecordingReporter(), RUNTIME_ERROR, message=str(error))
    stored = line(storage, made[0].get_run_id())
    assert [record.get_status() for record in stored] == [RUNTIME_ERROR] * 4
    [kept] = {record.get_status_message() for record in stored}
    return kept


def test_an_encoding_without_the_characters(latin1_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Of a message that the database's encoding has no characters for the rest is stored, and the log says so."""
    with closing(SqlPipelineStorage(latin1_url)) as storage:
        storage.upgrade()
        assert assert_failed(storage, "für 5 €") == "f\\xfcr 5 \\u20ac"
        assert assert_failed(storage, "für 5") == "für 5"


def test_a_server_that_takes_small_statements_alone() -> None:
    """A message within our limit that MariaDB's max_allowed_packet refuses is stored in part."""
    with mariadb_server("--max-allowed-packet=16K") as server:
        server.start()
        with closing(SqlPipelineStorage(server.url)) as storage:
            storage.upgrade()
            kept = assert_failed(storage, "begun " + "x" * 40_000 + " ended")

    assert kept.startswith("begun x")
    assert kept.endswith("x ended")


def test_the_limit_of_messages() -> None:
    """Of a longer message the start and the end are stored; a storage on top passes its argument on."""
    long = "begun " + "é" * 1_000_000 + " ended"
    with closing(OtelPipelineStorage(url="sqlite://", delivery="external", message_limit=200)) as storage:
        storage.records.upgrade()
        kept = assert_failed(storage.records, long)
    assert len(kept.encode()) <= 200
    assert kept.startswith("begun é")
    assert kept.endswith("é ended")
    assert MESSAGE_LIMIT - 10 <= len(message_text(long).encode()) <= MESSAGE_LIMIT


@pytest.mark.parametrize("limit", [0, 99, "1000", 1e6, None])
def test_what_is_no_limit(limit: object) -> None:
    """A limit that leaves no room for a message is refused, as is one that is no number."""
    with pytest.raises(ConfigurationError, match="message_limit"):
        SqlPipelineStorage("sqlite://", message_limit=limit)  # type: ignore[arg-type]  # what it refuses


def test_a_storage_that_is_given_has_a_limit_of_its_own() -> None:
    """An argument that would be ignored is refused."""
    with pytest.raises(ConfigurationError, match="message_limit: give it to the SqlPipelineStorage itself"):
        OtelPipelineStorage(SqlPipelineStorage("sqlite://"), message_limit=1000)
