"""Children of Celery's pool that are killed, or leave, in the middle of a task."""

from __future__ import annotations

from collections import Counter

import pytest

from otel_storage.results.status import PipelineTaskStatus
from tests.with_celery.conftest import Bench, OpenBench
from tests.with_celery.site import is_delivered, is_over, wait_until
from tests.with_celery.traces import check_trace, our_spans, span_id

RUNTIME_ERROR = PipelineTaskStatus.RUNTIME_ERROR
CODE = "tests.with_celery.pipelines"


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "is_instrumented"), [("sqlite", False), ("postgresql", True)])
@pytest.mark.smoke
def test_a_killed_childs_task_is_an_error(open_bench: OpenBench, engine: str, is_instrumented: bool) -> None:
    """SIGKILL in a task: the worker's main process reports it, its span arrives, and the run is one trace.

    The next run of the same worker, in its new child, is as if nothing had been.
    """
    bench = open_bench(engine, instrumented=is_instrumented)
    with bench.site.worker() as worker:
        [run_id] = bench.site.client("--prepare", "LosesChild")
        _wait(bench, run_id)
        [after] = bench.site.client("Succeeds")
        _wait(bench, after)
        main_process = worker.process.pid
    root = check_trace(bench.receiver, bench.storage, run_id)
    # Two of the host's reports race for the run, in that process: that the task failed, and that the rest is cancelled.
    assert root.attributes["otel_storage.status"] in ("RUNTIME_ERROR", "CANCELLED")
    [lost] = [each for each in bench.storage.get_task_results(run_id) if each.get_status() is RUNTIME_ERROR]
    spans = our_spans(bench.receiver, run_id)
    span = spans[span_id(lost)]
    assert spans[span.parent_span_id].status_code == "ERROR"
    assert (span.name, span.status_code, span.attributes["error.type"]) == ("RESULT load", "ERROR", "RUNTIME_ERROR")
    assert span.end_time_unix_nano > span.start_time_unix_nano
    [report] = [
        r for r in bench.site.reports if (r.kind, r.id, r.status) == ("TaskResult", lost.get_id(), "RUNTIME_ERROR")
    ]
    assert report.pid == main_process
    results = [each.get_status().value for each in bench.storage.get_task_results(run_id)]
    assert Counter(results) == {"DONE": 3, "RUNTIME_ERROR": 1, "PENDING": 1}
    assert check_trace(bench.receiver, bench.storage, after).status_code == "UNSET"


@pytest.mark.slow
def test_a_task_that_is_delivered_again_after_a_kill_is_traced(open_bench: OpenBench) -> None:
    """A task acknowledged late, killed and delivered again: it ends DONE, and its code is traced below its span."""
    late = {"CELERY_TASK_ACKS_LATE": True, "CELERY_TASK_REJECT_ON_WORKER_LOST": True}
    bench = open_bench(instrumented=True, settings=late)
    with bench.site.worker():
        [run_id] = bench.site.client("--prepare", "LosesChildOnce")
        _wait(bench, run_id)
    root = check_trace(bench.receiver, bench.storage, run_id)
    assert root.status_code == "UNSET"
    [task_result] = bench.storage.get_task_results(run_id)
    assert task_result.get_status() is PipelineTaskStatus.DONE
    [work] = [span for span in bench.receiver.traces()[root.trace_id] if span.scope_name == CODE]
    assert work.parent_span_id == span_id(task_result)
    reported = [report.status for report in bench.site.reports if report.kind == "TaskResult"]
    assert reported == ["PENDING", "RUNNING", "DONE"]


@pytest.mark.slow
def test_a_task_that_leaves_by_sys_exit_breaks_nothing(open_bench: OpenBench) -> None:
    """The host says nothing of it, Celery does; Celery's spans around it and after it are in none of our traces."""
    bench = open_bench(instrumented=True)
    with bench.site.worker(concurrency=1):
        [run_id, after] = bench.site.client("--prepare", "IsLeft", "Succeeds")
        _wait(bench, run_id)
        _wait(bench, after)
    root = check_trace(bench.receiver, bench.storage, run_id)
    assert root.status_code == "ERROR"
    for each in (root, check_trace(bench.receiver, bench.storage, after)):
        scopes = {span.scope_name for span in bench.receiver.traces()[each.trace_id]}
        assert scopes == {"otel_storage"} if each is root else {"otel_storage", CODE}


def _wait(bench: Bench, run_id: str) -> None:
    wait_until(lambda: is_over(bench.storage, run_id), "the run is over")
    wait_until(lambda: is_delivered(bench.storage), "all spans are delivered")
