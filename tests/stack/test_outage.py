"""Nothing is lost between the runs and Jaeger, whatever is away and whoever is killed."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results.status import PipelineTaskStatus as Status
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from tests.stack.processes import wait_until
from tests.stack.runs import check
from tests.stack.stack import Collector, Jaeger
from tests.with_celery.traces import tree

pytestmark = [pytest.mark.stack, pytest.mark.long]

OUTAGE = float(os.environ.get("OTEL_STORAGE_TEST_OUTAGE", "120"))
"""Seconds that Jaeger is away."""
PACE = 0.2
"""Seconds between two runs."""


class Running:
    """Runs that go on in a thread, each of three levels and four task results, of which one in three fails."""

    def __init__(self, storage: OtelPipelineStorage) -> None:
        self.ids: list[str] = []
        self._storage = storage
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on)

    @contextmanager
    def going_on(self) -> Iterator[Running]:
        """Runs are started all the while."""
        self._thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            self._thread.join()

    def _go_on(self) -> None:
        while not self._ended.wait(PACE):
            self._run(failing=len(self.ids) % 3 == 0)

    def _run(self, *, failing: bool) -> None:
        run_id = str(uuid.uuid4())
        pipeline = Pipeline(Task("extract"), Task("load", objects=["a", "b", "c"]), id="stack.Outage")
        reporter = RecordingReporter()
        self._storage.build_pipeline_execution(pipeline, run_id, Runner(), reporter, {})
        execution = self._storage.get_pipeline_execution(run_id)
        assert execution is not None
        results = list(self._storage.get_task_results(run_id))
        for number, result in enumerate(results):
            result.report_status_change(reporter, Status.RUNNING)
            if failing and number == len(results) - 1:
                result.report_status_change(reporter, Status.RUNTIME_ERROR, "no such customer")
            else:
                result.report_status_change(reporter, Status.DONE)
        for parents in (
            self._storage.get_task_executions(run_id),
            self._storage.get_pipeline_results(run_id),
            [execution],
        ):
            for record in parents:
                record.report_status_change(reporter, Status.DONE)
        self.ids.append(run_id)


@pytest.mark.timeout(OUTAGE + 240)
def test_jaeger_away_and_the_collector_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """Jaeger is away for two minutes, the collector is killed with its queue full of data: every span arrives.

    Runs go on all the time. While the collector is away, the outbox has their spans; once it has acknowledged them, its
    queue on disk is the only place where they are, and it is killed then, without a warning.
    """
    jaeger = Jaeger(tmp_path)
    collector = Collector(tmp_path, jaeger.otlp_endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    with (
        closing(SqlPipelineStorage(url)) as records,
        jaeger,
        collector,
        closing(OtelPipelineStorage(url=url)) as storage,
        Running(storage).going_on() as running,
    ):
        wait_until(lambda: len(running.ids) > 5, "runs go on")
        check(jaeger, records, running.ids[0])

        jaeger.kill()
        away_since = time.monotonic()
        before = len(running.ids)
        # An eighth of the outage: what was accepted since waits in the collector.
        wait_until(
            lambda: time.monotonic() > away_since + OUTAGE / 8 and len(running.ids) > before + 5, "runs go on", OUTAGE
        )
        wait_until(lambda: collector.metric("otelcol_exporter_queue_size") > 10_000, "the collector's queue has data")
        collector.kill()
        queued = len(running.ids)
        wait_until(lambda: records.outbox.status().waiting > 20, "the outbox holds what is not acknowledged")
        wait_until(lambda: time.monotonic() > away_since + OUTAGE / 2, "half of the outage", OUTAGE)
        assert len(running.ids) > queued + 5
        held = records.outbox.status().waiting

        collector.start()
        wait_until(lambda: time.monotonic() > away_since + OUTAGE, "the outage is over", OUTAGE)
        # Once more, in the middle of what it does with what it found in the queue.
        collector.kill()
        collector.start()
        jaeger.start()
        away_for = time.monotonic() - away_since
        wait_until(lambda: len(running.ids) > queued + 20, "runs go on")

    with closing(OtelPipelineStorage(url=url)) as storage, collector, jaeger:
        assert storage.flush(60)
        # The collector tries again every 30 seconds at most.
        spans = sum(len(check(jaeger, records, run_id, 120).spans) for run_id in running.ids)
        expected = sum(len(tree(records, run_id)) for run_id in running.ids)
    assert spans == expected
    record_property(
        "figure",
        f"Jaeger away for {away_for:.0f} s, the collector killed twice: {len(running.ids)} runs, {spans} of {expected}"
        f" spans in Jaeger; {held} entries waited in the outbox while the collector was away",
    )
