"""How the tests call the command, and runs for it to find."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from otel_storage.cli import cli
from otel_storage.composite import OtelPipelineStorage
from otel_storage.results.base import PipelineExecution
from otel_storage.results.status import PipelineTaskStatus as Status
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.clock import START, ManualClock
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task

ROOT = Path(__file__).parents[2]

Invoke = Callable[..., Result]
Execute = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns, no colours asked for or refused, and times in UTC."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "LINES", "PYTHONIOENCODING", "DJANGO_SETTINGS_MODULE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.fixture
def invoke() -> Invoke:
    """Call the command in this process."""

    def call(*args: str, **kwargs: Any) -> Result:
        return CliRunner().invoke(cli, list(args), **kwargs)

    return call


@pytest.fixture
def execute(tmp_path: Path) -> Execute:
    """Call the command as a process of its own, in an empty folder."""
    folder = tmp_path / "empty"
    folder.mkdir()

    def call(
        *args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "otel_storage.cli", *args],
            check=False,
            cwd=cwd or folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
            stdin=subprocess.DEVNULL,
        )

    return call


class Runs:
    """Builds runs in a database, at times that the test decides."""

    def __init__(self, url: str, start: datetime = START) -> None:
        self.clock = ManualClock(start)
        self.storage = OtelPipelineStorage(SqlPipelineStorage(url, clock=self.clock), delivery="external")
        self.reporter = RecordingReporter()

    def build(self, run_id: str, pipeline_id: str = "tests.Orders", **objects: Any) -> PipelineExecution:
        """A run of two tasks that is waiting to start; ``objects`` are those of the pipeline and of its second task."""
        pipeline = Pipeline(
            Task("extract"),
            Task("load", objects=objects.get("task")),
            id=pipeline_id,
            objects=objects.get("pipeline"),
        )
        return self.storage.build_pipeline_execution(pipeline, run_id, Runner(), self.reporter, {})

    def finish(self, execution: PipelineExecution, fail: Callable[[str], bool] = lambda _name: False) -> None:
        """Run every task for half a second, as the eager runner does; after a failure the rest is cancelled."""
        failed = False
        for pipeline_result in execution.get_pipeline_results():
            for task_execution in pipeline_result.get_task_executions():
                for task_result in task_execution.get_task_results():
                    if failed:
                        task_result.report_status_change(self.reporter, Status.CANCELLED, "another task failed")
                        continue
                    task_result.report_status_change(self.reporter, Status.RUNNING)
                    self.clock.advance(0.5)
                    if fail(task_execution.get_pipeline_task()):
                        failed = True
                        self._fail(task_result)
                    else:
                        task_result.report_status_change(self.reporter, Status.DONE, propagate=False)
            pipeline_result.report_status_change(self.reporter, Status.DONE, propagate=False)
        execution.report_status_change(self.reporter, Status.DONE)

    def _fail(self, task_result: Any) -> None:
        try:
            raise ValueError("order 1042 has no customer")
        except ValueError as error:
            task_result.report_status_change(self.reporter, Status.RUNTIME_ERROR, str(error))


@pytest.fixture
def runs(sqlite_url: str) -> Iterator[Runs]:
    """An empty SQLite database to build runs in."""
    made = Runs(sqlite_url)
    yield made
    made.storage.close()
