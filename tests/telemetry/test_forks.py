"""A process that makes a storage and forks at once, while the thread that sends has just begun."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from otel_storage.runtime import forking
from otel_storage.runtime.forking import forks_allowed, no_fork
from tests.processes import run_python

SCRIPT = """
import json, os, signal, sys, time, uuid
from otel_storage import OtelPipelineStorage, PipelineTaskStatus
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task

storage = OtelPipelineStorage(url="sqlite:///runs.db", exporter="exporters.Exporter")
while "takes_long" not in sys.modules:
    time.sleep(0.001)
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    run_id = str(uuid.uuid4())
    storage.build_pipeline_execution(Pipeline(Task()), run_id, Runner(), RecordingReporter(), None)
    for task_result in storage.get_task_results(run_id):
        task_result.report_status_change(RecordingReporter(), PipelineTaskStatus.RUNNING)
        task_result.report_status_change(RecordingReporter(), PipelineTaskStatus.DONE)
    import takes_long
    os._exit(0 if takes_long.is_whole and storage.flush(10) else 1)
print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
"""


@pytest.mark.slow
@pytest.mark.smoke
def test_a_child_is_forked_with_whole_modules(tmp_path: Path) -> None:
    """A fork waits for what the thread imports: in the child that module is neither half there nor locked for ever."""
    (tmp_path / "takes_long.py").write_text("import time\ntime.sleep(1)\nis_whole = True\n")
    (tmp_path / "exporters.py").write_text(
        """
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

class Exporter(SpanExporter):
    def __init__(self):
        import takes_long

    def export(self, spans):
        return SpanExportResult.SUCCESS
"""
    )
    assert run_python(SCRIPT, cwd=tmp_path) == 0


def test_a_fork_waits_for_work_but_not_for_an_endpoint() -> None:
    """While a thread works, a fork happens after it; while it waits for an answer, at once."""
    waits, answered = threading.Event(), threading.Event()
    done = []

    def work() -> None:
        with no_fork():
            with forks_allowed():
                waits.set()
                answered.wait(30)
            done.append("work")

    thread = threading.Thread(target=work)
    thread.start()
    waits.wait(30)
    _fork()
    assert done == []
    with no_fork():
        answered.set()
        thread.join(30)
    assert done == ["work"]

    def work_long() -> None:
        with no_fork():
            waits.set()
            time.sleep(0.2)
            done.append("long work")

    waits.clear()
    thread = threading.Thread(target=work_long)
    thread.start()
    waits.wait(30)
    _fork()
    assert done == ["work", "long work"]
    thread.join(30)


def test_a_fork_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that does not end holds a fork up for a moment; the child begins with nobody at work."""
    monkeypatch.setattr(forking, "PATIENCE", 0.05)
    ends, begun = threading.Event(), threading.Event()

    def work() -> None:
        with no_fork():
            begun.set()
            ends.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait(30)
    _fork(lambda: os.waitpid(os.fork() or os._exit(0), 0))
    ends.set()
    thread.join(30)
    with no_fork(), forks_allowed():
        pass


def _fork(work: object = None) -> None:
    """Fork a child that does the work and ends well."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if callable(work):
                work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
