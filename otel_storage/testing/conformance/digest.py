"""Rules of the digest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from otel_storage.results.base import PipelineExecution, PipelineStorage
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.testing.conformance.fixtures import (
    CANCELLED,
    DONE,
    FAILED,
    PENDING,
    RUNNING,
    RUNTIME_ERROR,
    Builder,
    Extras,
    StorageFixtures,
    Times,
    found,
    fresh,
)
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Task

BEHIND = datetime(2024, 3, 1, 6, 30, tzinfo=UTC)
"""The time by a clock that is behind another."""


def run(
    storage: PipelineStorage,
    times: Times,
    *,
    pipeline_id: str = "shop.Orders",
    seconds: float = 10,
    status: PipelineTaskStatus = DONE,
) -> PipelineExecution:
    """Build a run and bring its execution to the status, RUNNING for some seconds on the way."""
    pipeline = Pipeline(Task("a", objects=[1, 2]), id=pipeline_id, objects=["x", "y", "z"])
    execution = Builder(storage)(pipeline)
    if status is not PENDING:
        execution.report_status_change(RecordingReporter(), RUNNING)
    times.advance(seconds)
    if status not in (PENDING, RUNNING):
        execution.report_status_change(RecordingReporter(), status)
    return found(storage.get_pipeline_execution(execution.get_run_id()))


class DigestRules(StorageFixtures):
    """The digest's shape, as the host's start page reads it."""

    def test_the_digest_of_an_empty_storage(self, storage: PipelineStorage) -> None:
        """Without runs there is nothing in the digest."""
        assert storage.get_pipeline_digest() == {}

    def test_pipelines_are_kept_apart(self, storage: PipelineStorage, times: Times) -> None:
        """There is one item per pipeline that has a run."""
        run(storage, times, pipeline_id="shop.Orders")
        run(storage, times, pipeline_id="shop.Stock", status=RUNTIME_ERROR)

        digest = storage.get_pipeline_digest()

        assert set(digest) == {"shop.Orders", "shop.Stock"}


class StrictDigestRules(StorageFixtures):
    """The figures, counted over executions."""

    def test_counts(self, storage: PipelineStorage, times: Times) -> None:
        """Every run counts, running and waiting ones too; DONE is success, each failed status a failure."""
        for status in (PENDING, RUNNING, RUNNING, DONE, DONE, DONE, *FAILED):
            run(storage, times, status=status)
        run(storage, times, pipeline_id="shop.Stock", status=CANCELLED)

        digest = storage.get_pipeline_digest()

        orders, stock = digest["shop.Orders"], digest["shop.Stock"]
        assert (orders.total_runs, orders.total_success, orders.total_failure) == (10, 3, 4)
        assert (stock.total_runs, stock.total_success, stock.total_failure) == (1, 0, 1)
        assert all(type(count) is int for count in (orders.total_runs, orders.total_success, orders.total_failure))

    def test_a_run_counts_once(self, storage: PipelineStorage, times: Times) -> None:
        """Failures of many records of a run are one failure: that of its execution."""
        execution = run(storage, times, status=RUNNING)
        for task_result in storage.get_task_results(execution.get_run_id()):
            task_result.report_status_change(RecordingReporter(), RUNTIME_ERROR)

        item = storage.get_pipeline_digest()["shop.Orders"]
        assert (item.total_runs, item.total_success, item.total_failure) == (1, 0, 1)

    def test_average_runtime(self, storage: PipelineStorage, times: Times) -> None:
        """The average is a timedelta: the mean of completed - started over the runs that have both."""
        done = [run(storage, times, seconds=10), run(storage, times, seconds=100_001, status=RUNTIME_ERROR)]
        run(storage, times, seconds=500, status=RUNNING)
        run(storage, times, seconds=500, status=PENDING)
        never_started = run(storage, times, seconds=500, status=PENDING)
        never_started.report_status_change(RecordingReporter(), CANCELLED)

        average = storage.get_pipeline_digest()["shop.Orders"].average_runtime

        durations = [duration for execution in done if (duration := execution.get_duration()) is not None]
        assert isinstance(average, timedelta)
        assert abs(average - sum(durations, timedelta()) / 2) < timedelta(milliseconds=1)

    def test_a_clock_that_is_behind(self, storage: PipelineStorage, build: Builder, extras: Extras) -> None:
        """A run whose end is before its start, as the clocks of two processes have it, took no time, never less."""
        execution = build(Pipeline(Task("extract"), id="shop.Orders"))
        execution.set_started(BEHIND + timedelta(seconds=90))
        execution.set_status(RUNNING)
        execution.save()
        execution.set_completed(BEHIND)
        execution.set_status(DONE)
        execution.save()

        assert execution.get_duration() == fresh(storage, execution).get_duration() == timedelta(0)
        assert storage.get_pipeline_digest()["shop.Orders"].average_runtime == timedelta(0)
        for keep_up in extras.upkeep:
            keep_up()
        assert storage.get_pipeline_digest()["shop.Orders"].average_runtime == timedelta(0)

    def test_last_ran(self, storage: PipelineStorage, times: Times) -> None:
        """The last start counts, whatever became of that run and however late an earlier one ended."""
        early = run(storage, times, status=RUNNING)
        last = run(storage, times, status=RUNNING)
        run(storage, times, status=PENDING)
        early.report_status_change(RecordingReporter(), DONE)

        item = storage.get_pipeline_digest()["shop.Orders"]
        assert item.last_ran == last.get_started()

    def test_a_pipeline_that_never_started(self, storage: PipelineStorage, build: Builder) -> None:
        """A badly configured run counts as a failure and has neither a start nor a runtime."""
        build(Pipeline(id="shop.Orders"), build_all=False)

        item = storage.get_pipeline_digest()["shop.Orders"]
        assert (item.total_runs, item.total_success, item.total_failure) == (1, 0, 1)
        assert item.last_ran is None
        assert item.average_runtime is None
