"""One of several processes that race.

``python -m tests.integration.racing URL WHAT ARGUMENT`` says when it is ready, waits, and prints what it did as JSON.
"""

from __future__ import annotations

import json
import random
import sys
import uuid
from collections.abc import Callable
from contextlib import closing
from typing import Any

from otel_storage import OtelPipelineStorage, PipelineTaskStatus
from otel_storage.results.exceptions import RunExists
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task

RUNNING = PipelineTaskStatus.RUNNING
DONE = PipelineTaskStatus.DONE
FAILED = PipelineTaskStatus.RUNTIME_ERROR


def transitions(storage: OtelPipelineStorage, argument: str) -> list[Any]:
    """Report RUNNING and then the final status for every task result of the run; what the reporter was told."""
    run_id, final = argument.split()
    status = PipelineTaskStatus[final]
    reporter = RecordingReporter()
    results = list(storage.get_task_results(run_id))
    # In one order for both, whoever is ahead would win all.
    random.Random(final).shuffle(results)  # noqa: S311 - an order is no secret
    wait_for_start()
    for result in results:
        result.report_status_change(reporter, RUNNING, message=f"by {final}")
        result.report_status_change(reporter, status, message=f"by {final}", propagate=status is FAILED)
    return [[report.kind, report.id, report.status.value, report.message] for report in reporter.reports]


def shares(storage: OtelPipelineStorage, argument: str) -> list[Any]:
    """End every fourth task result of the run, as Celery's workers do; the first of each eight fails."""
    run_id, number = argument.split()
    results = [result for result in storage.get_task_results(run_id) if result.get_id() % 4 == int(number)]
    wait_for_start()
    for result in results:
        own = storage.get_task_result(result.get_id())
        assert own is not None
        status = FAILED if own.get_serializable_task_object()["obj"] == 0 else DONE
        own.report_status_change(RecordingReporter(), RUNNING)
        own.report_status_change(RecordingReporter(), status, propagate=status is FAILED)
        parent = own.get_task_execution()
        parent.report_status_change(RecordingReporter(), RUNNING)
    return []


def builds(storage: OtelPipelineStorage, argument: str) -> list[Any]:
    """Build a run of each id; what became of it."""
    wait_for_start()
    outcomes = []
    for run_id in argument.split():
        pipeline = Pipeline(Task("work", objects=range(3)))
        try:
            storage.build_pipeline_execution(pipeline, run_id, Runner(), RecordingReporter(), {})
            outcomes.append("built")
        except RunExists:
            outcomes.append("RunExists")
    return outcomes


def deliveries(storage: OtelPipelineStorage, _argument: str) -> list[Any]:
    """Send what is due; how many spans were accepted."""
    wait_for_start()
    report = storage.delivery.deliver_due()
    assert not report.error, report.error
    return [report.sent]


def writes(storage: OtelPipelineStorage, argument: str) -> list[Any]:
    """Build and end so many runs, or remove all there are again and again."""
    wait_for_start()
    for _ in range(60):
        if argument == "cleanup":
            storage.cleanup()
            continue
        pipeline = Pipeline(Task("work", objects=range(5)), objects=range(2))
        run_id = str(uuid.uuid4())
        storage.build_pipeline_execution(pipeline, run_id, Runner(), RecordingReporter(), {})
        for result in storage.get_task_results(run_id):
            result.report_status_change(RecordingReporter(), RUNNING)
            result.report_status_change(RecordingReporter(), FAILED)
    return []


def wait_for_start() -> None:
    """Say that this process is ready, and wait for the others."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()


RACES: dict[str, Callable[[OtelPipelineStorage, str], list[Any]]] = {
    race.__name__: race for race in (transitions, shares, builds, deliveries, writes)
}

if __name__ == "__main__":
    with closing(OtelPipelineStorage(url=sys.argv[1], delivery="external")) as opened:
        json.dump(RACES[sys.argv[2]](opened, sys.argv[3]), sys.stdout)
