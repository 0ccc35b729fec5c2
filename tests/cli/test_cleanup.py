"""``otel-storage cleanup``: what it removes, what it spares, and what a wrapped storage does."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results import clock
from otel_storage.results.status import PipelineTaskStatus as Status
from otel_storage.sql.upkeep import cleanup
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from otel_storage.testing.receiver import OtlpReceiver
from tests.cli.conftest import Invoke, Runs
from tests.watch.memory import MemoryStorage


@pytest.fixture
def runs(database_url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    """On each engine, of an hour ago: a delivered run, an undelivered and two unfinished ones; a new one."""
    made = Runs(database_url, clock.now() - timedelta(hours=1))
    made.finish(made.build("delivered"))
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        made.clock.advance(60)
        # The run's parents wait until nothing has changed for 30 seconds.
        assert invoke("deliver", "--url", database_url).exit_code == 0
        assert receiver.spans
    made.finish(made.build("undelivered"))
    made.build("pending")
    made.storage.get_task_results(made.build("running").get_run_id())[0].report_status_change(
        made.reporter, Status.RUNNING
    )
    made.clock.advance(3000)
    made.finish(made.build("new"))
    yield made
    made.storage.close()
    made.storage.records.close()


def left(runs: Runs) -> list[str]:
    """The ids of the runs that are stored, oldest first."""
    return [run.get_run_id() for run in reversed(list(runs.storage.get_pipeline_executions()))]


def test_counts_alone_without_yes(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """Without --yes nothing is removed; what would be is told, and the command that does it means the same moment."""
    result = invoke("cleanup", "--before", "30m", "--url", database_url)
    assert result.exit_code == 1
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["runs", "4"],
        ["unfinished", "2"],
        ["undelivered", "1"],
        ["removable", "1"],
    ]
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert len(left(runs)) == 5

    words = shlex.split(result.stderr.replace("\\\n", ""))
    words = words[words.index("cleanup") :]
    assert words[-1] == "--yes"
    assert words[words.index("--before") + 1].startswith("20")
    words[words.index("--url") + 1] = database_url  # the password is not repeated
    done = invoke(*words)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1].split() == ["removed", "1"]
    assert left(runs) == ["undelivered", "pending", "running", "new"]


def test_force_removes_all(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """--force removes what is unfinished or undelivered too, and no newer run; then there is nothing to remove."""
    words = ("cleanup", "--before", "30m", "--force", "--json", "--url", database_url)
    counted = invoke(*words)
    assert counted.exit_code == 1
    assert len(left(runs)) == 5
    document = json.loads(counted.stdout)
    assert document.pop("url").startswith(database_url.partition(":")[0])
    assert document.pop("before").endswith("+00:00")
    assert document == {"runs": 4, "unfinished": 2, "undelivered": 1, "removable": 4, "removed": None}

    assert json.loads(invoke(*words, "--yes").stdout)["removed"] == 4
    assert left(runs) == ["new"]
    nothing = invoke(*words)
    assert (nothing.exit_code, json.loads(nothing.stdout)["runs"]) == (0, 0)


def test_spared_runs_stay_among_many(
    runs: Runs, database_url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that are spared are passed over, though there are more of them than one look finds."""
    monkeypatch.setattr(cleanup, "CHUNK", 2)
    for number in range(5):
        runs.build(f"cancelled {number}").report_status_change(runs.reporter, Status.CANCELLED)
        runs.build(f"pending {number}")
    with runs.storage.records.database.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM otel_storage_outbox")

    result = invoke("cleanup", "--before", clock.now().isoformat(), "--yes", "--json", "--url", database_url)

    document = json.loads(result.stdout)
    assert (result.exit_code, document["undelivered"]) == (0, 0)
    assert document["removed"] == document["removable"] == 8
    assert left(runs) == ["pending", "running", *(f"pending {number}" for number in range(5))]


@pytest.mark.parametrize("words", [(), ("--before", "long ago"), ("--before",)])
def test_wrong_usage(words: tuple[str, ...], sqlite_url: str, invoke: Invoke) -> None:
    """A time is asked for: no run is removed by a command without one."""
    result = invoke("cleanup", *words, "--url", sqlite_url)
    assert result.exit_code == 2
    assert "--before" in result.stderr


class Kept(MemoryStorage):
    """A storage of another kind whose records outlive the storage object: a command makes its own."""

    def __init__(self) -> None:
        super().__init__()
        self.__dict__ = _SHARED.setdefault("state", self.__dict__)


_SHARED: dict[str, Any] = {}


@pytest.fixture
def wrapped(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[OtelPipelineStorage]:
    """A wrapped storage, which the setting names too, with a finished run and a pending one."""
    _SHARED.clear()
    setting = [
        "otel_storage.OtelPipelineStorage",
        {"storage": f"{__name__}.Kept", "outbox_url": sqlite_url, "delivery": "external"},
    ]
    monkeypatch.setenv("PIPELINES_PIPELINES_RESULTS_STORAGE", json.dumps(setting))
    with closing(OtelPipelineStorage(Kept(), outbox_url=sqlite_url, delivery="external")) as storage:
        for run_id in ("finished", "pending"):
            pipeline = Pipeline(Task("load"))
            storage.build_pipeline_execution(pipeline, run_id, Runner(), RecordingReporter(), {})
        execution = storage.get_pipeline_execution("finished")
        assert execution is not None
        execution.report_status_change(RecordingReporter(), Status.DONE)
        yield storage


def test_wrapped_storage_spares_none(wrapped: OtelPipelineStorage, invoke: Invoke) -> None:
    """Where a run is to be spared a wrapped storage's cleanup is called by force alone; then its copies go as well."""
    words = ("cleanup", "--before", "2999-01-01", "--yes")
    refused = invoke(*words)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "the wrapped Kept spares no run, and there are 1 unfinished run and 1 undelivered run" in refused.stderr
    assert len(wrapped.get_pipeline_executions()) == 2

    assert json.loads(invoke(*words, "--force", "--json").stdout)["removed"] == 2
    assert len(wrapped.get_pipeline_executions()) == 0
    assert len(wrapped.records.get_pipeline_executions()) == 0


def test_wrapped_storage_cleans_up_itself(wrapped: OtelPipelineStorage, invoke: Invoke) -> None:
    """Where no run is to be spared the wrapped storage's cleanup removes its runs, and their copies go as well."""
    execution = wrapped.get_pipeline_execution("pending")
    assert execution is not None
    execution.report_status_change(RecordingReporter(), Status.CANCELLED)
    with wrapped.records.database.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM otel_storage_outbox")

    result = invoke("cleanup", "--before", "2999-01-01", "--yes")

    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1].split() == ["removed", "2"]
    assert len(wrapped.get_pipeline_executions()) == 0
    assert len(wrapped.records.get_pipeline_executions()) == 0
