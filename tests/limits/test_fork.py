"""A process forks with a storage that is in use: parent and child go on, share nothing, and lose nothing."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from sqlalchemy import event, make_url, text

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results import helpers
from otel_storage.runtime import forking
from otel_storage.sql.database.engine import Database
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.receiver import OtlpReceiver, Slow
from otel_storage.watch import hooks
from tests.limits import runs
from tests.limits.children import Child
from tests.limits.sockets import Door
from tests.watch.memory import MemoryStorage


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch, clean_environment: None) -> Iterator[OtlpReceiver]:
    """A receiver that the standard variables point to."""
    del clean_environment
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        yield receiver


@contextmanager
def thread(work: Callable[[], object]) -> Iterator[threading.Thread]:
    """Another thread that does the work, and has done it at the end."""
    other = threading.Thread(target=work)
    other.start()
    try:
        yield other
    finally:
        other.join(20)
        assert not other.is_alive()


@pytest.mark.parametrize("delivery", ["external", "thread"])
def test_what_a_child_commits_survives_its_parent(empty_sqlite_url: str, receiver: OtlpReceiver, delivery: Any) -> None:
    """A SQLite file belongs to the child as well: its parent, which closes it, takes no journal away from it.

    With a connection inherited, the child takes its parent's lock for its own; what it commits after its parent has
    closed the file is in a journal that is removed, and gone.
    """
    storage = OtelPipelineStorage(url=empty_sqlite_url, delivery=delivery)
    runs.run(storage)

    def work(wait: Callable[[], None]) -> list[str]:
        first = runs.run(storage)
        wait()
        return [first, runs.run(storage)]

    with Child(work) as child:
        child.wait_until_it_waits()
        storage.close()
        child.go_on()
        built = child.result()
    with closing(SqlPipelineStorage(empty_sqlite_url)) as after:
        assert len(after.get_pipeline_executions()) == 3
        for run_id in built:
            execution = after.get_pipeline_execution(run_id)
            assert execution is not None
            assert execution.get_completed() is not None


def test_a_session_is_one_processs_own(postgresql_url: str) -> None:
    """Parent and child have sessions of their own on the server; the parent's goes on when the child is gone."""
    with closing(SqlPipelineStorage(postgresql_url)) as storage:

        def session() -> int:
            with storage.database.read() as connection:
                return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())

        before = session()
        with Child(lambda _: [session(), session()]) as child:
            theirs = child.result()
        assert theirs[0] == theirs[1] != before
        assert session() == before


def test_a_fork_beside_a_transaction(database_url: str) -> None:
    """Another thread is in a transaction at the fork: it is committed, and the child can write at once."""
    with closing(SqlPipelineStorage(database_url)) as storage:
        runs.run(storage)
        begun = threading.Event()

        def work(connection: Any) -> None:
            connection.execute(text("UPDATE otel_storage_pipeline_execution SET pipeline_id = 'changed'"))
            begun.set()
            time.sleep(0.5)

        with thread(lambda: storage.database.write(work)):
            assert begun.wait(20)
            with Child(lambda _: runs.run(storage)) as child:
                built = child.result()
        changed = {execution.get_run_id(): execution.pipeline_id for execution in storage.get_pipeline_executions()}
        assert changed.pop(built) == "tests.Orders"
        assert set(changed.values()) == {"changed"}


@pytest.mark.slow
def test_a_fork_beside_an_export(database_url: str, receiver: OtlpReceiver) -> None:
    """The sender is waiting for an answer at the fork: its parent has it, the child sends its own, nothing twice."""
    receiver.misbehave(Slow(1.0), times=1)
    with closing(OtelPipelineStorage(url=database_url)) as storage:
        runs.run(storage)
        assert receiver.wait_for(lambda receiver: len(receiver.requests) > 0)

        def work(_: Callable[[], None]) -> bool:
            runs.run(storage)
            return storage.flush(15)

        with Child(work) as child:
            assert child.result() is True
        assert storage.flush(15)
        assert runs.received(receiver.spans) == runs.expected(storage)
        assert len(receiver.spans) == 2 * runs.SPANS


def test_a_fork_while_the_exporter_is_imported(
    database_url: str, receiver: OtlpReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender is importing what exports at the fork, as in a server that forks right after it has loaded a site."""
    (tmp_path / "limits_slow_part.py").write_text(
        "import time\n"
        "time.sleep(1)\n"
        "from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter\n"
    )
    (tmp_path / "limits_slow_exporter.py").write_text(
        "def open_exporter():\n    import limits_slow_part\n    return limits_slow_part.OTLPSpanExporter()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("limits_slow_part", "limits_slow_exporter"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with closing(OtelPipelineStorage(url=database_url, exporter="limits_slow_exporter.open_exporter")) as storage:
        deadline = time.monotonic() + 10
        while "limits_slow_part" not in sys.modules and time.monotonic() < deadline:
            time.sleep(0.01)

        def work(_: Callable[[], None]) -> bool:
            runs.run(storage)
            return storage.flush(15)

        with Child(work) as child:
            assert child.result() is True
        assert len(receiver.spans) == runs.SPANS


def test_a_fork_while_the_first_connection_is_made(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server keeps the parent's first connection waiting at the fork: that waits too, but not for ever.

    The child's own does not wait for it.
    """
    monkeypatch.setattr(forking, "PATIENCE", 0.2)
    server = make_url(postgresql_url)
    # The first statement that SQLAlchemy executes on an engine's first connection.
    with Door(str(server.host), server.port or 5432, b"pg_catalog.version()") as door:
        storage = SqlPipelineStorage(server.set(host="127.0.0.1", port=door.port))
        with closing(storage), thread(storage.get_pipeline_digest):
            assert door.heard.wait(20)
            with Child(lambda _: runs.run(storage)) as child:
                door.is_open.set()
                built = child.result()
            assert "forks while another thread of it uses the storage" in caplog.text
            assert [execution.get_run_id() for execution in storage.get_pipeline_executions()] == [built]


def test_a_fork_while_the_first_connection_imports(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread is importing what its first connection needs at the fork; the child, which needs it too, has it."""
    (tmp_path / "limits_slow_driver.py").write_text("import time\ntime.sleep(1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "limits_slow_driver", raising=False)
    with closing(SqlPipelineStorage(database_url)) as storage:

        @event.listens_for(storage.database.engine, "do_connect")
        def connect(*_: Any) -> None:
            import_module("limits_slow_driver")

        def work(_: Callable[[], None]) -> str:
            import_module("limits_slow_driver")
            return runs.run(storage)

        with thread(storage.get_pipeline_digest):
            deadline = time.monotonic() + 10
            while "limits_slow_driver" not in sys.modules and time.monotonic() < deadline:
                time.sleep(0.01)
            assert sys.modules["limits_slow_driver"].__spec__._initializing  # type: ignore[union-attr]  # not public
            with Child(work) as child:
                built = child.result()
        assert [execution.get_run_id() for execution in storage.get_pipeline_executions()] == [built]


@pytest.mark.parametrize("lock", [hooks._lock, helpers._lock], ids=["hooks", "helpers"])
def test_a_fork_while_another_thread_holds_a_lock(
    lock: Any, empty_sqlite_url: str, monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver
) -> None:
    """A lock that another thread holds at the fork is free in the child."""
    monkeypatch.setenv("OTEL_STORAGE_URL", empty_sqlite_url)
    held = threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            time.sleep(0.5)

    def work(_: Callable[[], None]) -> int:
        helpers.reset_storage_object()
        with closing(OtelPipelineStorage(MemoryStorage())) as storage:
            runs.run(storage)
            storage.flush(15)
            return len(storage.records.get_task_results())

    with thread(hold):
        assert held.wait(20)
        with Child(work) as child:
            assert child.result() == 2


def test_an_exporter_of_the_users_serves_one_process(database_url: str, tmp_path: Path) -> None:
    """A child leaves sending to its parent, whose instance of an exporter it cannot use."""
    log = tmp_path / "exports"
    log.touch()
    with closing(OtelPipelineStorage(url=database_url, exporter=_Logging(log))) as storage:
        with Child(lambda _: [runs.run(storage), storage.flush(0.5)]) as child:
            child.result()
        # Another's work is no reason for the parent's thread to hurry.
        assert storage.flush(15)
        assert set(log.read_text().split()) == {str(os.getpid())}
        assert len(log.read_text().split()) == runs.SPANS


class _Logging(SpanExporter):
    """Writes down for each span which process exports it."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._log.open("a") as file:
            file.write(f"{os.getpid()}\n" * len(spans))
        return SpanExportResult.SUCCESS


def test_forks_under_load(database_url: str, receiver: OtlpReceiver) -> None:
    """Threads run pipelines while their process forks, again and again; no run and no span of anybody is lost."""
    ends = threading.Event()

    def work() -> None:
        while not ends.is_set():
            runs.run(storage)

    children = 6
    with closing(OtelPipelineStorage(url=database_url)) as storage, thread(work), thread(work):
        try:
            for _ in range(children):
                with Child(lambda _: [runs.run(storage), runs.run(storage)]) as child:
                    for run_id in child.result():
                        assert storage.get_pipeline_execution(run_id) is not None
        finally:
            ends.set()
    runs.deliver_the_rest(database_url)
    with closing(SqlPipelineStorage(database_url)) as storage_after:
        expected = runs.expected(storage_after)
    assert len(expected) >= 2 * children * runs.SPANS
    assert runs.received(receiver.spans) == expected


def test_multiprocessing(database_url: str, receiver: OtlpReceiver) -> None:
    """Processes of ``multiprocessing`` that fork leave without the exit of the interpreter; their parent sends it."""
    context = multiprocessing.get_context("fork")
    with closing(OtelPipelineStorage(url=database_url)) as storage:
        processes = [context.Process(target=runs.run, args=(storage,)) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(20)
            assert process.exitcode == 0
    runs.deliver_the_rest(database_url)
    assert len(runs.received(receiver.spans)) == 3 * runs.SPANS


def test_a_fork_does_not_wait_for_ever(
    empty_sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A thread that does not come to an end delays a fork for a while, which is said."""
    monkeypatch.setattr(forking, "PATIENCE", 0.2)
    ends, begun = threading.Event(), threading.Event()

    def hang() -> None:
        with database.read():
            begun.set()
            ends.wait(20)

    database = Database(empty_sqlite_url)
    with thread(hang):
        assert begun.wait(20)
        with Child(lambda _: 1) as child:
            assert child.result() == 1
        ends.set()
    assert "the child may hang" in caplog.text
    database.dispose()


@pytest.mark.filterwarnings("ignore:Selection of the SingletonThreadPool")
@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///file:limits?mode=memory&cache=shared&uri=true"])
def test_a_database_in_memory_stays(url: str) -> None:
    """A fork leaves a parent's database in memory as it is, though it is gone with its last connection."""
    with closing(SqlPipelineStorage(url)) as storage:
        runs.run(storage)
        with Child(lambda _: runs.run(storage)) as child:
            child.result()
        assert len(storage.get_pipeline_executions()) == 1
