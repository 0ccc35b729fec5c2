"""A storage with a clock moved by hand, runs of which it is known how they end, and receivers of metrics."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from otel_storage.composite import OtelPipelineStorage
from otel_storage.metrics.points import FamilyPoints
from otel_storage.metrics.reading import Reader
from otel_storage.results.base import PipelineExecution
from otel_storage.results.status import PipelineTaskStatus as Status
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.clock import ManualClock
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from tests.metrics.receivers import MetricsReceiver

REPORTER = RecordingReporter()


class Site:
    """Runs pipelines of two tasks."""

    def __init__(self, url: str) -> None:
        self.clock = ManualClock()
        self.storage = OtelPipelineStorage(SqlPipelineStorage(url, clock=self.clock), delivery="external")
        self.records = self.storage.records
        self.records.upgrade()

    def build(self, pipeline_id: str = "shop.Orders") -> PipelineExecution:
        """A run that waits to start."""
        pipeline = Pipeline(Task("extract"), Task("load"), id=pipeline_id)
        return self.storage.build_pipeline_execution(pipeline, str(uuid.uuid4()), Runner(), REPORTER, {})

    def run(
        self, status: Status = Status.DONE, pipeline_id: str = "shop.Orders", message: str = ""
    ) -> PipelineExecution:
        """A run that waits a quarter of a second, runs for 2 seconds, and ends with its task results in the status."""
        execution = self.build(pipeline_id)
        self.clock.advance(0.25)
        results = list(self.storage.get_task_results(execution.get_run_id()))
        for result in results:
            result.report_status_change(REPORTER, Status.RUNNING)
        self.clock.advance(2)
        for result in results:
            result.report_status_change(REPORTER, status, message, propagate=False)
        execution.report_status_change(REPORTER, status, message)
        return execution

    def reader(self, **options: Any) -> Reader:
        """Gives what there is, with no project's pipelines; a new one keeps nothing that another read."""
        return Reader(self.records.totals, **{"pipelines": dict, "as_shown": False, **options})

    def points(self, name: str, **options: Any) -> dict[tuple[Any, ...], Any]:
        """The values of a metric, by those of its attributes."""
        families = {one.family.name: one for one in self.reader(**options).read()}
        return values(families[name])


def values(one: FamilyPoints) -> dict[tuple[Any, ...], Any]:
    """The values of a metric, by those of its attributes."""
    return {tuple(value for _, value in attributes): point.value for attributes, point in one.points.items()}


@pytest.fixture
def site(sqlite_url: str) -> Iterator[Site]:
    """An empty site on SQLite."""
    made = Site(sqlite_url)
    with closing(made.storage):
        yield made


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[MetricsReceiver]:
    """A receiver of OTLP/HTTP that the environment names."""
    with MetricsReceiver() as started:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", started.endpoint)
        yield started
