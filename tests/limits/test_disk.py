"""A disk that is full, or may not be written: whose error that is, what it says, and that it costs no run of others."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import event, make_url, text

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results.exceptions import DatabaseUnavailable
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.sql.upkeep.copies import SqlCopies
from tests.limits import runs
from tests.limits.children import Child
from tests.watch.memory import MemoryStorage

EXPORTER = "opentelemetry.sdk.trace.export.in_memory_span_exporter.InMemorySpanExporter"

Lift = Callable[[], object]
"""Ends a fault."""

ROOM = 300_000


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that another user than this one can get at: those of pytest cannot be."""
    path = Path(tempfile.mkdtemp(prefix="otel-storage-limits-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


class Logged(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message, and the error that goes with it."""
        error = record.exc_info[1] if record.exc_info else None
        self.said.append(record.getMessage() + (f": {error}" if error else ""))


def _limit_file_size(storage: OtelPipelineStorage, file: Path) -> Lift:
    """As a quota does: no file of this process grows beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, before[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _fill_disk(storage: OtelPipelineStorage, file: Path) -> Lift:
    """SQLite's own limit, which is told like a full disk."""
    pages = [(file.stat().st_size // 4096) + 20]

    def limit(connection: Any, *_: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages[0]}")

    databases = [storage.records.database]
    if storage._watch is not None:
        # The copies have connections of their own.
        databases.append(cast("SqlCopies", storage._watch._copies)._database)
    for database in databases:
        event.listen(database.engine, "checkout", limit)
    return lambda: pages.__setitem__(0, 10**6)


def _as_somebody_else() -> Lift:
    """Permissions do not bind root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    return lambda: os.seteuid(before)


def _read_only_file(storage: OtelPipelineStorage, file: Path) -> Lift:
    for each in file.parent.iterdir():
        each.chmod(0o444)
    file.parent.chmod(0o777)
    return _as_somebody_else()


def _read_only_folder(storage: OtelPipelineStorage, file: Path) -> Lift:
    # No journal can be made beside it.
    file.chmod(0o666)
    file.parent.chmod(0o555)
    return _as_somebody_else()


FAULTS = {
    "file size": (_limit_file_size, "cannot write to {url}: disk I/O error; check its disk, and the room"),
    "full disk": (_fill_disk, "cannot write to {url}: database or disk is full; make room on its disk"),
    "read-only file": (_read_only_file, "check that the folder exists and that the file may be written"),
    "read-only folder": (_read_only_folder, "check that the folder exists and that the file may be written"),
}


def _runs_until_it_fails(storage: OtelPipelineStorage) -> list[str]:
    """Run until a run fails; the run ids of those that did not, and the error."""
    done = []
    try:
        for _ in range(300):
            done.append(runs.run(storage, objects=range(10)))
    except DatabaseUnavailable as error:
        return [*done, str(error)]
    raise AssertionError("no run failed")


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.smoke
def test_a_run_is_told_that_its_database_cannot_be_written(fault: str, folder: Path) -> None:
    """Where state and outbox are one database, the run's error is that, and names the mend; what was said is kept."""
    file = folder / "runs.db"
    url = f"sqlite:///{file}"
    storage = OtelPipelineStorage(url=url, exporter=EXPORTER)
    before = runs.run(storage)
    storage.flush(10)
    break_, expected = FAULTS[fault]

    def work(_: Any) -> Any:
        logged = Logged()
        logging.getLogger("otel_storage").addHandler(logged)
        lift = break_(storage, file)
        *done, error = _runs_until_it_fails(storage)
        # The sender meets it too.
        storage.flush(1.5)
        lift()
        for each in folder.iterdir():
            each.chmod(0o644)
        folder.chmod(0o755)
        after = runs.run(storage)
        return {"done": done, "error": error, "said": logged.said, "after": after, "flushed": storage.flush(15)}

    with Child(work) as child:
        told = child.result()
    storage.close()
    assert expected.format(url=url) in told["error"]
    assert [said for said in told["said"] if "a run goes on" in said] == []
    # Said by the sender, where there was something to send.
    assert len([said for said in told["said"] if "spans wait in the outbox" in said]) <= 1
    assert told["flushed"] is True
    with closing(SqlPipelineStorage(url)) as stored:
        for run_id in [before, *told["done"], told["after"]]:
            execution = stored.get_pipeline_execution(run_id)
            assert execution is not None
            assert execution.get_status() is runs.DONE


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrapped_storages_run_goes_on(fault: str, folder: Path) -> None:
    """Where the outbox is beside another storage, runs are as ever; why they have no spans is said once and counted."""
    file = folder / "outbox.db"
    storage = OtelPipelineStorage(
        MemoryStorage(), outbox_url=f"sqlite:///{file}", exporter=EXPORTER, delivery="external"
    )
    runs.run(storage)
    break_, expected = FAULTS[fault]

    def work(_: Any) -> Any:
        logged = Logged()
        logging.getLogger("otel_storage").addHandler(logged)
        lift = break_(storage, file)
        statuses = set()
        for _ in range(60):
            execution: Any = storage.get_pipeline_execution(runs.run(storage, objects=range(10)))
            statuses.add(execution.get_status().value)
            statuses |= {result.get_status().value for result in storage.get_task_results(execution.get_run_id())}
        assert storage._watch is not None
        failures = storage._watch._guarded.failures
        lift()
        return {"statuses": sorted(statuses), "said": logged.said, "failures": failures}

    with Child(work) as child:
        told = child.result()
    storage.close()
    assert told["statuses"] == ["DONE"]
    [said] = told["said"]
    assert said.startswith("a run goes on without part of its telemetry: ")
    assert expected.format(url=f"sqlite:///{file}") in said
    assert told["failures"] > 10


READ_ONLY = "ALTER DATABASE {name} SET default_transaction_read_only = on"
FULL = """
CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END$$;
CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON otel_storage_pipeline_execution EXECUTE FUNCTION no_room()
"""


@pytest.mark.parametrize(
    ("statement", "mend"),
    [(READ_ONLY, "name the primary in the URL"), (FULL, "make room on the server's disk")],
    ids=["read-only", "full"],
)
def test_a_server_that_takes_no_writes(
    statement: str, mend: str, postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A standby and a full disk of a server are told as such; a wrapped storage's run goes on."""
    url = make_url(postgresql_url)
    with closing(SqlPipelineStorage(url)) as storage:
        storage.database.write(lambda connection: connection.execute(text(statement.format(name=url.database))))
    with closing(SqlPipelineStorage(url)) as storage:
        with pytest.raises(DatabaseUnavailable, match=mend) as caught:
            runs.run(storage)
        assert "\n" not in str(caught.value)
        assert str(url.password) not in str(caught.value)
    with closing(
        OtelPipelineStorage(MemoryStorage(), outbox_url=url, exporter=EXPORTER, delivery="external")
    ) as wrapped:
        execution: Any = wrapped.get_pipeline_execution(runs.run(wrapped))
        assert execution.get_status() is runs.DONE
    assert caplog.text.count("a run goes on without part of its telemetry") == 1
    assert mend in caplog.text
