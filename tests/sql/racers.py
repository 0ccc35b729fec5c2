"""What the processes of a race do; see test_races.py.

A racer is a function of its number and the start; what it returns is what its process saw.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError
from typing import Any

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results.base import TaskResult
from otel_storage.results.exceptions import RunExists
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.sql.upkeep.closing import Closing
from otel_storage.sql.upkeep.reaping import find_dead
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Report, Runner, Task

RACERS = 2
PATIENCE = 60.0
"""Seconds after which a race is given up, so that a racer that died fails the test."""

_barriers: list[Barrier] = []


def race(*racers: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any]:
    """Run each racer in a new process of its own, with its number and the arguments; returns what they returned.

    Raises:
        Exception: what a racer raised; the others give up then.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(racers), timeout=PATIENCE)
    with ProcessPoolExecutor(len(racers), context, initializer=_meet_at, initargs=(barrier,)) as pool:
        futures = [pool.submit(_run, racer, number, arguments) for number, racer in enumerate(racers)]
        errors = [error for error in (future.exception() for future in futures) if error is not None]
    # Raise the real error first: a broken barrier only says that another racer failed.
    for error in sorted(errors, key=lambda error: isinstance(error, BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]


def _run(racer: Callable[..., Any], number: int, arguments: tuple[Any, ...]) -> Any:
    try:
        return racer(number, *arguments)
    except BaseException:
        _barriers[0].abort()
        raise


def _meet_at(barrier: Barrier) -> None:
    _barriers.append(barrier)


def ready() -> None:
    """Wait until all racers are here."""
    _barriers[0].wait()


@contextmanager
def opened(url: str, **options: Any) -> Iterator[OtelPipelineStorage]:
    """A storage with telemetry whose spans wait in the outbox; runs settle at once."""
    with closing(OtelPipelineStorage(url=url, delivery="external", settle_quiet=0, **options)) as storage:
        yield storage


def run_all(number: int, url: str, run_id: str, final: tuple[str, str], propagates: str) -> list[Report]:
    """Race for RUNNING of every task result, then for a final status: each racer has one of its own."""
    status = PipelineTaskStatus[final[number]]
    reporter = RecordingReporter()
    with opened(url) as storage:
        task_results = list(storage.get_task_results(run_id))
        for task_result in task_results:
            # Side by side for each: the objects of both racers still say PENDING, and the database decides.
            ready()
            task_result.report_status_change(
                reporter, PipelineTaskStatus.RUNNING, f"start by {number}", propagate=propagates != "nothing"
            )
        for task_result in task_results:
            ready()
            _finish(task_result, reporter, status, f"end by {number}", propagates)
    return reporter.reports


def build_same(number: int, url: str, run_ids: list[str]) -> list[str]:
    """Race to build every run; returns the run ids of those that this racer built."""
    built = []
    pipeline = Pipeline(Task("extract", objects=[1, 2, 3]), Task("load"), objects=["north", "south"])
    with opened(url) as storage:
        storage.get_pipeline_digest()
        for run_id in run_ids:
            ready()
            try:
                execution = storage.build_pipeline_execution(pipeline, run_id, Runner(), RecordingReporter(), number)
            except RunExists:
                continue
            built.append(execution.get_run_id())
    return built


def build_and_clean_up(number: int, url: str, rounds: int) -> list[tuple[str, int]]:
    """Build runs and remove all there are, again and again; returns kind and id of every record that was built."""
    reporter = RecordingReporter()
    pipeline = Pipeline(Task("extract", objects=[1, 2, 3]), objects=["north", "south"])
    with opened(url) as storage:
        ready()
        for round_ in range(rounds):
            storage.build_pipeline_execution(pipeline, f"{number}-{round_}", Runner(), reporter, None)
            if round_ % 3 == number:
                storage.cleanup()
    return [(report.kind, report.id) for report in reporter.reports]


def write(number: int, url: str, runs: int) -> list[str]:
    """Build runs and run them, every third failing, while they may be removed; returns the run ids."""
    reporter = RecordingReporter()
    pipeline = Pipeline(Task("extract"), Task("load", objects=[1, 2, 3]), objects=["north", "south"])
    run_ids = [f"run {index}" for index in range(runs)]
    with opened(url) as storage:
        ready()
        for index, run_id in enumerate(run_ids):
            execution = storage.build_pipeline_execution(pipeline, run_id, Runner(), reporter, {"index": index})
            final = PipelineTaskStatus.DONE if index % 3 else PipelineTaskStatus.RUNTIME_ERROR
            for pipeline_result in execution.get_pipeline_results():
                for task_execution in pipeline_result.get_task_executions():
                    for task_result in task_execution.get_task_results():
                        task_result.report_status_change(reporter, PipelineTaskStatus.RUNNING)
                        _finish(task_result, reporter, final, "the end", "failures")
                pipeline_result.report_status_change(reporter, PipelineTaskStatus.DONE, propagate=False)
            execution.report_status_change(reporter, PipelineTaskStatus.DONE)
    return run_ids


def clean_up(number: int, url: str, runs: int) -> list[str]:
    """Remove all runs there are until so many are removed; returns their run ids."""
    removed: list[str] = []
    deadline = time.monotonic() + PATIENCE
    with opened(url) as storage:
        ready()
        while len(removed) < runs and time.monotonic() < deadline:
            removed += storage.cleanup()
    return removed


def read(number: int, url: str, runs: int) -> int:
    """Read every task result with what is above it until the last run was seen or is gone; returns how many."""
    seen = 0
    with opened(url) as storage:
        ready()
        for _ in range(runs):
            for task_result in storage.get_task_results():
                assert task_result.get_run_id().startswith("run ")
                assert task_result.get_task_execution().get_pipeline_result().get_pipeline_execution().get_id() > 0
                seen += 1
    return seen


def send(number: int, url: str) -> int:
    """Send what is due until nothing waits; returns how many spans were accepted."""
    deadline = time.monotonic() + PATIENCE
    sent = 0
    with opened(url) as storage:
        ready()
        while True:
            report = storage.delivery.deliver_due()
            assert report.error == ""
            sent += report.sent
            status = storage.records.outbox.status()
            if status.waiting + status.held == 0 or time.monotonic() > deadline:
                return sent
            # The other racer holds what is left.
            time.sleep(0.01)


def _finish(
    task_result: TaskResult, reporter: RecordingReporter, status: PipelineTaskStatus, message: str, propagates: str
) -> None:
    """Report a final status as the host's tasks do: a failure from inside its ``except``."""
    if status is PipelineTaskStatus.DONE:
        task_result.report_status_change(reporter, status, message, propagate=propagates == "everything")
        return
    try:
        raise LookupError(message)
    except LookupError as error:
        task_result.report_status_change(reporter, status, str(error), propagate=propagates != "nothing")


def finish_late(number: int, url: str, run_id: str) -> list[Report]:
    """Race to report every task result that is RUNNING as DONE, as the process does that was taken for dead."""
    reporter = RecordingReporter()
    with opened(url) as storage:
        for task_result in list(storage.get_task_results(run_id)):
            ready()
            _finish(task_result, reporter, PipelineTaskStatus.DONE, "alive", "failures")
    return reporter.reports


def close_dead(number: int, url: str, run_id: str) -> list[Report]:
    """Race to close every task result of a process that is gone."""
    reporter = RecordingReporter()
    with opened(url) as storage:
        closing_ = Closing(storage.records, None, reporter)
        for dead in list(find_dead(storage.records.database)):
            ready()
            closing_.close(dead)
    return [report for report in reporter.reports if report.kind == "TaskResult"]
