"""A worker that is shut down: its children, which leave by ``os._exit``, send what is due, and wait for nobody long."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from otel_storage import OtelPipelineStorage
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from otel_storage.testing.receiver import Slow
from tests.processes import run_python
from tests.with_celery.conftest import Bench, OpenBench
from tests.with_celery.site import is_delivered, is_over, wait_until
from tests.with_celery.traces import check_trace

# Where the storage is made: in each child, or in the main process, before it forks them.
MADE = pytest.mark.parametrize("first", ["", "1"], ids=["made-in-the-child", "made-before-the-fork"])

# The site's own tracing must not wait for the endpoint too.
UNTRACED = {"TEST_TRACE_CODE": ""}


@pytest.mark.slow
@MADE
@pytest.mark.smoke
def test_a_child_sends_what_is_due_before_it_leaves(open_bench: OpenBench, first: str) -> None:
    """Nothing waits once a worker has shut down: its child waits for answers that take longer than its exit does."""
    bench = open_bench()
    bench.receiver.misbehave(Slow(1.2))
    with bench.site.worker(concurrency=1, TEST_STORAGE_FIRST=first, **UNTRACED) as worker:
        [run_id] = bench.site.client("--prepare", "Succeeds")
        wait_until(lambda: is_over(bench.storage, run_id), "the run is over")
        assert not is_delivered(bench.storage)
        assert worker.stop() == 0
    assert is_delivered(bench.storage)
    check_trace(bench.receiver, bench.storage, run_id)


@pytest.mark.slow
@MADE
def test_a_full_backlog_and_a_silent_endpoint_hold_no_shutdown_up(
    open_bench: OpenBench, silent_endpoint: str, first: str
) -> None:
    """With thousands of spans waiting and an endpoint that never answers, a warm shutdown ends, and nothing is lost."""
    bench = open_bench(endpoint=silent_endpoint)
    _fill(bench, 1500)
    with bench.site.worker(concurrency=2, TEST_STORAGE_FIRST=first, **UNTRACED) as worker:
        [run_id] = bench.site.client("--prepare", "Succeeds")
        wait_until(lambda: is_over(bench.storage, run_id), "the run is over")
        worker.process.send_signal(signal.SIGTERM)
        # 5 seconds for the children, which leave side by side, and 5 for the main process, where it has a storage.
        assert worker.process.wait(30) == 0
        assert "Traceback" not in worker.log
    status = bench.storage.outbox.status()
    assert status.waiting + status.held == 1500 + 1 + 8 + 1


@pytest.mark.slow
@pytest.mark.parametrize("order", ["celery first", "celery last"])
def test_celerys_signal_is_asked_for_where_celery_is(tmp_path: Path, order: str) -> None:
    """Whichever is imported first, the signal has one receiver of ours once a thread sends, however many do."""
    pytest.importorskip("celery", reason="Celery is not installed: pip install '.[test]'")
    printed = run_python(
        f"""
import json, sys
order = {order!r}
if order == "celery first":
    import celery.signals
from otel_storage import OtelPipelineStorage
first = OtelPipelineStorage(url="sqlite://")
if order == "celery last":
    assert not [name for name in sys.modules if name.partition(".")[0] == "celery"]
    import celery.signals
for storage in (OtelPipelineStorage(url="sqlite://"), OtelPipelineStorage(url="sqlite://")):
    storage.close()
before = len(celery.signals.worker_process_shutdown.receivers)
celery.signals.worker_process_shutdown.send(sender="host", pid=1, exitcode=0)
print(json.dumps([before, first.delivery._thread is None]))
""",
        cwd=tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
    )
    assert printed == [1, True]


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(128)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def _fill(bench: Bench, spans: int) -> None:
    """Let so many spans of task results wait, of a run that ended an hour ago."""
    reporter = RecordingReporter()
    pipeline = Pipeline(Task("load", objects=range(spans)))
    with closing(OtelPipelineStorage(url=bench.storage.url, delivery="external")) as storage:
        storage.build_pipeline_execution(pipeline, "backlog", Runner(), reporter, None)
        for task_result in storage.get_task_results("backlog"):
            task_result.report_status_change(reporter, PipelineTaskStatus.CANCELLED, propagate=False)
        execution = storage.get_pipeline_execution("backlog")
        assert execution is not None
        execution.report_status_change(reporter, PipelineTaskStatus.CANCELLED)
