"""A task result's span is the current one while its task runs in a thread, however the task ends."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_storage import OtelPipelineStorage, PipelineTaskStatus
from otel_storage.results.base import TaskResult
from otel_storage.telemetry.spans import ids
from otel_storage.testing.pipelines import Pipeline, Runner, Task

DONE, RUNNING = PipelineTaskStatus.DONE, PipelineTaskStatus.RUNNING


class Forgetful:
    """A reporter that keeps no record alive."""

    def report_context_object(self, *_: object) -> None:
        """Forget it."""


class Run:
    """A run of one task with many objects, whose records each caller reads for itself, as each Celery task does."""

    def __init__(self, storage: OtelPipelineStorage) -> None:
        self.id = str(uuid.uuid4())
        self._storage = storage
        storage.build_pipeline_execution(Pipeline(Task("load", objects=range(5))), self.id, Runner(), Forgetful(), {})
        self._ids = [task_result.get_id() for task_result in storage.get_task_results(self.id)]

    def task_result(self, index: int) -> TaskResult:
        """A new object for the task result of that index."""
        task_result = self._storage.get_task_result(self._ids[index])
        assert task_result is not None
        return task_result

    def report(self, index: int, status: PipelineTaskStatus) -> None:
        """Report the status by an object that nobody keeps."""
        self.task_result(index).report_status_change(Forgetful(), status)

    def is_current(self, index: int) -> bool:
        """Whether the current span is that of the task result."""
        current = trace.get_current_span().get_span_context()
        return (current.trace_id, current.span_id) == (
            ids.trace_id(self.id),
            ids.span_id("TaskResult", self._ids[index]),
        )


@pytest.fixture
def run(sqlite_url: str) -> Iterator[Run]:
    """A run whose telemetry is on and goes nowhere."""
    with closing(OtelPipelineStorage(url=sqlite_url, delivery="external")) as storage:
        yield Run(storage)


@pytest.fixture
def celery_task() -> Iterator[Callable[[Callable[[], object]], Any]]:
    """Runs a function as a Celery task under Celery's instrumentation, in this thread; gives its span."""
    celery = pytest.importorskip("celery", reason="Celery is not installed: pip install '.[test]'")
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.celery")
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = instrumentation.CeleryInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    app = celery.Celery("tests", set_as_current=False)

    def apply(work: Callable[[], object]) -> Any:
        app.task(name=f"work-{uuid.uuid4()}")(work).apply(throw=True)
        return exporter.get_finished_spans()[-1]

    yield apply
    instrumentor.uninstrument()
    provider.shutdown()


def nothing_is_current() -> bool:
    """Whether no span is current."""
    return trace.get_current_span() is trace.INVALID_SPAN


def test_a_task_left_by_sys_exit_gives_its_context_back(run: Run) -> None:
    """Once the object of a task result that never reports its end is gone, its span is no longer the current one."""
    before = context.get_current()

    def task() -> None:
        task_result = run.task_result(0)
        task_result.report_status_change(Forgetful(), RUNNING)
        assert run.is_current(0)
        sys.exit(1)

    with pytest.raises(SystemExit):
        task()
    assert context.get_current() is before


def test_a_task_that_somebody_else_finished_gives_its_context_back(run: Run) -> None:
    """A final report gives the context back though it changes nothing; without one, the end of the object does."""
    before = context.get_current()
    late = run.task_result(0)
    late.report_status_change(Forgetful(), RUNNING)
    run.report(0, DONE)
    assert run.is_current(0)
    late.report_status_change(Forgetful(), DONE)
    assert context.get_current() is before

    silent = run.task_result(1)
    silent.report_status_change(Forgetful(), RUNNING)
    run.report(1, DONE)
    assert run.is_current(1)
    del silent
    assert context.get_current() is before


def test_the_current_span_outlives_its_task(run: Run) -> None:
    """Code that keeps the current span can still ask for its context when the task and its records are gone."""
    task_result = run.task_result(0)
    task_result.report_status_change(Forgetful(), RUNNING)
    span = trace.get_current_span()
    span_id = ids.span_id("TaskResult", task_result.get_id())
    task_result.report_status_change(Forgetful(), DONE)
    del task_result

    assert not span.is_recording()
    asked = span.get_span_context()
    assert (asked.trace_id, asked.span_id, asked.is_valid) == (ids.trace_id(run.id), span_id, True)
    assert asked.trace_flags.sampled
    assert span.get_span_context() is asked
    assert ids.format_span_id(span_id) in repr(span)


LEAVING = """
import logging, sys
from otel_storage import OtelPipelineStorage, PipelineTaskStatus
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task

storage = OtelPipelineStorage(url=sys.argv[1], delivery="external")
storage.build_pipeline_execution(Pipeline(Task()), "run", Runner(), RecordingReporter(), {})
[task_result] = storage.get_task_results("run")
task_result.report_status_change(RecordingReporter(), PipelineTaskStatus.RUNNING)
# A module that the interpreter takes apart late.
logging.task_result = task_result
del task_result, storage
"""


def test_a_task_result_that_goes_with_the_interpreter_is_nobodys_error(sqlite_url: str) -> None:
    """The last of all, when what its end would call is gone."""
    left = subprocess.run([sys.executable, "-c", LEAVING, sqlite_url], capture_output=True, text=True, check=False)
    assert (left.returncode, left.stderr) == (0, "")


def test_a_dead_context_restores_no_context_of_an_ended_celery_task(run: Run, celery_task: Any) -> None:
    """After sys.exit() in one Celery task, the next one of the thread has its own consumer span around its task.

    Celery's instrumentation detaches what it attached around the first task; a token that was taken inside it would
    bring its ended span back.
    """
    kept = []

    def exits() -> None:
        task_result = run.task_result(0)
        kept.append(task_result)  # so that it dies where the next task begins
        task_result.report_status_change(Forgetful(), RUNNING)
        assert run.is_current(0)
        sys.exit(1)

    seen = []

    def works() -> None:
        consumer = trace.get_current_span()
        kept.clear()
        task_result = run.task_result(1)
        task_result.report_status_change(Forgetful(), RUNNING)
        seen.append(run.is_current(1))
        task_result.report_status_change(Forgetful(), DONE, propagate=False)
        seen.append(trace.get_current_span() is consumer)

    with pytest.raises(SystemExit):
        celery_task(exits)
    assert nothing_is_current()
    span = celery_task(works)
    assert seen == [True, True]
    assert span.parent is None
    assert nothing_is_current()


def test_a_task_that_somebody_else_finished_leaves_celery_its_context(run: Run, celery_task: Any) -> None:
    """A Celery task that is silent about the end of its task result lets Celery's spans alone, also the next ones."""

    def silent() -> None:
        consumer = trace.get_current_span()
        task_result = run.task_result(0)
        task_result.report_status_change(Forgetful(), RUNNING)
        run.report(0, DONE)
        assert run.is_current(0)
        del task_result
        assert trace.get_current_span() is consumer

    def plain() -> None:
        assert trace.get_current_span().is_recording()

    assert celery_task(silent).parent is None
    assert nothing_is_current()
    assert celery_task(plain).parent is None


def test_what_was_attached_over_a_dead_context_stays(run: Run) -> None:
    """A dead context under one that somebody else attached is dropped without a word: the other one is current."""
    task_result = run.task_result(0)
    task_result.report_status_change(Forgetful(), RUNNING)
    theirs = context.set_value("theirs", 1)
    token = context.attach(theirs)
    del task_result
    assert context.get_current() is theirs
    other = run.task_result(1)
    other.report_status_change(Forgetful(), RUNNING)
    assert run.is_current(1)
    other.report_status_change(Forgetful(), DONE, propagate=False)
    assert context.get_current() is theirs
    context.detach(token)


def test_a_dead_context_of_another_request_is_no_error(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A thread that serves requests, each in a copied context of its own, complains of none that was left in one."""
    kept = []

    def request() -> None:
        task_result = run.task_result(0)
        task_result.report_status_change(Forgetful(), RUNNING)
        assert run.is_current(0)
        kept.append(task_result)

    contextvars.copy_context().run(request)
    kept.clear()
    task_result = run.task_result(1)
    task_result.report_status_change(Forgetful(), RUNNING)
    assert run.is_current(1)
    task_result.report_status_change(Forgetful(), DONE, propagate=False)
    assert nothing_is_current()
    assert caplog.records == []


def test_interleaved_coroutines_have_each_its_own(run: Run) -> None:
    """Coroutines that take turns see the span of their own task while it runs, and none once it is finished."""

    async def work(index: int) -> list[bool]:
        seen = []
        running = run.task_result(index)
        for _ in range(3):
            running.report_status_change(Forgetful(), RUNNING)
            await asyncio.sleep(0)
            seen.append(run.is_current(index))
            await asyncio.sleep(0)
        running.report_status_change(Forgetful(), DONE)
        await asyncio.sleep(0)
        return [*seen, not trace.get_current_span().get_span_context().is_valid]

    async def work_together() -> list[list[bool]]:
        return await asyncio.gather(*map(work, range(5)))

    assert asyncio.run(work_together()) == [[True] * 4] * 5


def test_a_context_follows_into_a_thread(run: Run) -> None:
    """A thread that a coroutine awaits has the task's span; what the thread reports leaves the coroutine's alone."""

    async def work() -> list[bool]:
        outer = run.task_result(0)
        outer.report_status_change(Forgetful(), RUNNING)

        def inner() -> list[bool]:
            seen = [run.is_current(0)]
            within = run.task_result(1)
            within.report_status_change(Forgetful(), RUNNING)
            seen.append(run.is_current(1))
            within.report_status_change(Forgetful(), DONE)
            return [*seen, run.is_current(0)]

        seen = await asyncio.to_thread(inner)
        seen.append(run.is_current(0))
        outer.report_status_change(Forgetful(), DONE)
        return [*seen, not trace.get_current_span().get_span_context().is_valid]

    assert asyncio.run(work()) == [True] * 5


def test_a_finished_task_takes_what_it_left_behind_with_it(run: Run) -> None:
    """The end of a task gives the context back that was current before it, whatever was attached within it."""
    before = context.get_current()
    outer, inner = run.task_result(0), run.task_result(1)
    outer.report_status_change(Forgetful(), RUNNING)
    inner.report_status_change(Forgetful(), RUNNING)
    context.attach(context.set_value("left", "behind"))
    outer.report_status_change(Forgetful(), DONE, propagate=False)
    assert context.get_current() is before
    inner.report_status_change(Forgetful(), DONE, propagate=False)
    assert context.get_current() is before


def test_a_redelivered_task_has_its_context(run: Run) -> None:
    """A second RUNNING of the same record changes nothing, and still gives the user's code its task's context."""
    before = context.get_current()
    first = run.task_result(0)
    first.report_status_change(Forgetful(), RUNNING)
    second = run.task_result(0)
    second.report_status_change(Forgetful(), RUNNING)
    assert run.is_current(0)
    second.report_status_change(Forgetful(), RUNNING)
    second.report_status_change(Forgetful(), DONE, propagate=False)
    assert run.is_current(0)
    first.report_status_change(Forgetful(), DONE, propagate=False)
    assert context.get_current() is before
