"""Runs in prefork workers: one run is one trace, with and without instrumentation beside it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from otel_storage.results.status import PipelineTaskStatus
from otel_storage.testing.receiver import ReceivedSpan
from tests.with_celery.conftest import Bench, OpenBench
from tests.with_celery.site import is_delivered, is_over, wait_until
from tests.with_celery.traces import check_trace, contains, our_spans, span_id, trace_id

NAMES = ("Succeeds", "Fails", "PublishesOne")
CELERY = "opentelemetry.instrumentation.celery"
DJANGO = "opentelemetry.instrumentation.django"
CODE = "tests.with_celery.pipelines"


@dataclass
class Runs:
    """What a worker ran; it has stopped."""

    bench: Bench
    ids: dict[str, str]
    """Run ids by how they were started, and what."""
    is_instrumented: bool

    def of(self, name: str) -> list[str]:
        """The runs of a pipeline, however they were started."""
        return [run_id for started, run_id in self.ids.items() if started.endswith(name)]

    def spans(self, run_id: str, scope: str) -> list[ReceivedSpan]:
        """The trace's spans that something else than the storage made."""
        return [s for s in self.bench.receiver.traces()[trace_id(run_id)] if s.scope_name == scope]

    @property
    def again(self) -> int:
        """The id of the task result whose task was delivered twice."""
        return _first_task_result(self.bench, self.of("Succeeds")[0])


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("sqlite", False), marks=pytest.mark.smoke),
        ("sqlite", True),
        ("postgresql", False),
        ("postgresql", True),
    ],
    ids=["sqlite", "sqlite-instrumented", "postgresql", "postgresql-instrumented"],
)
def runs(request: pytest.FixtureRequest, open_module_bench: OpenBench) -> Runs:
    """Runs of all three pipelines; one task of the first run is delivered a second time when all are over."""
    engine, is_instrumented = request.param
    bench = open_module_bench(engine, instrumented=is_instrumented)
    ways = ("delay", "page") if is_instrumented else ("direct",)
    started = [f"{way}:{name}" for way in ways for name in NAMES]
    with bench.site.worker(concurrency=4):
        ids = dict(zip(started, bench.site.client("--prepare", *started), strict=True))
        wait_until(lambda: all(is_over(bench.storage, run_id) for run_id in ids.values()), "the runs are over")
        wait_until(lambda: is_delivered(bench.storage), "all spans are delivered")
        again = _first_task_result(bench, ids[started[0]])
        bench.site.client(f"again:{again}")
        trace = trace_id(ids[started[0]])
        wait_until(lambda: _works(bench, trace, again) == 2, "the task that was delivered again has run")
    return Runs(bench, ids, is_instrumented)


@pytest.mark.slow
def test_every_run_is_one_trace(runs: Runs) -> None:
    """Spans of many processes form one tree, that of the records, with one root; none is sent twice, none missing."""
    processes = set()
    for run_id in runs.ids.values():
        root = check_trace(runs.bench.receiver, runs.bench.storage, run_id)
        assert root.kind == "SERVER"
        spans = our_spans(runs.bench.receiver, run_id).values()
        processes |= {
            span.attributes.get("process.pid", span.attributes.get("otel_storage.worker.pid")) for span in spans
        }
    assert len(processes - {None}) > 1
    ours = {span.trace_id for span in runs.bench.receiver.spans if span.scope_name == "otel_storage"}
    assert ours == {trace_id(run_id) for run_id in runs.ids.values()}
    waiting = runs.bench.storage.outbox.status()
    assert (waiting.waiting, waiting.held, waiting.refused) == (0, 0, 0)


@pytest.mark.slow
def test_statuses_and_errors_are_right(runs: Runs) -> None:
    """What failed in one process is an error in its span and in all above it; the others of the task are not."""
    for run_id in runs.of("Succeeds"):
        spans = our_spans(runs.bench.receiver, run_id).values()
        assert Counter(span.attributes["otel_storage.status"] for span in spans) == {"DONE": 1 + 2 + 4 + 8}
        assert {span.status_code for span in spans} == {"UNSET"}
    for run_id in runs.of("Fails"):
        spans = our_spans(runs.bench.receiver, run_id).values()
        failed = {span.name for span in spans if span.status_code == "ERROR"}
        assert failed == {"RUN with_celery.Fails", "RESULT with_celery.Fails", "load", "RESULT load"}
        results = [span for span in spans if span.name == "RESULT load"]
        assert sorted(span.attributes["otel_storage.status"] for span in results) == ["DONE", "DONE", "RUNTIME_ERROR"]
        [broken] = [span for span in results if span.status_code == "ERROR"]
        assert (broken.status_message, broken.attributes["error.type"]) == ("object 2 is broken", "ValueError")
        [exception] = [event for event in broken.events if event.name == "exception"]
        assert "FailsForTwo" not in exception.attributes["exception.type"]
        assert 'raise ValueError("object 2 is broken")' in exception.attributes["exception.stacktrace"]
        # The host starts no task after one that failed, and leaves it PENDING.
        assert not [span for span in spans if "publish" in span.name]


@pytest.mark.slow
def test_code_is_traced_below_its_task(runs: Runs) -> None:
    """Every span that a task's code makes in a worker is a child of its task result's span, and lies within it."""
    for name, expected in [("Succeeds", 8), ("Fails", 4)]:
        for run_id in runs.of(name):
            ours = our_spans(runs.bench.receiver, run_id)
            works = runs.spans(run_id, CODE)
            is_first = run_id == runs.of("Succeeds")[0]
            assert len(works) == expected + is_first  # one task of the first run was delivered again
            for work in works:
                parent = ours[work.parent_span_id]
                assert parent.attributes["otel_storage.record.kind"] == "TaskResult"
                assert contains(parent, work) or (is_first and _is_of(parent, runs.again))


@pytest.mark.slow
def test_a_task_that_is_delivered_again_has_its_context(runs: Runs) -> None:
    """The code of a second delivery is traced below the same span; its record, and that span, stay as they were."""
    run_id = runs.of("Succeeds")[0]
    task_result = runs.bench.storage.get_task_result(runs.again)
    assert task_result is not None
    assert task_result.get_status() is PipelineTaskStatus.DONE
    span = our_spans(runs.bench.receiver, run_id)[span_id(task_result)]
    works = [work for work in runs.spans(run_id, CODE) if work.parent_span_id == span.span_id]
    assert sorted(contains(span, work) for work in works) == [False, True]
    kinds = [(report.kind, report.status) for report in runs.bench.site.reports if report.id == runs.again]
    assert kinds.count(("TaskResult", "RUNNING")) == 1


@pytest.mark.slow
def test_no_span_of_an_instrumentation_is_in_a_runs_trace(runs: Runs) -> None:
    """Celery's and Django's spans are in traces of their own, but for what a task's code publishes, below it."""
    for run_id in runs.ids.values():
        ours = our_spans(runs.bench.receiver, run_id)
        assert runs.spans(run_id, DJANGO) == []
        celery = {span.name: span for span in runs.spans(run_id, CELERY)}
        if run_id not in runs.of("PublishesOne") or not runs.is_instrumented:
            assert celery == {}
            continue
        assert celery.keys() == {f"apply_async/{CODE}.published", f"run/{CODE}.published"}
        publish = celery[f"apply_async/{CODE}.published"]
        assert ours[publish.parent_span_id].name == "RESULT publish"
        assert celery[f"run/{CODE}.published"].parent_span_id == publish.span_id
    of_celery = [span for span in runs.bench.receiver.spans if span.scope_name == CELERY]
    assert bool(of_celery) == runs.is_instrumented


@pytest.mark.slow
def test_what_started_a_run_and_its_root_link_to_each_other(runs: Runs) -> None:
    """In Celery a run is built by the task ``run_pipeline``: its consumer span and the root know each other."""
    started = [(how, run_id) for how, run_id in runs.ids.items() if not how.startswith("direct:")]
    by_id = {(span.trace_id, span.span_id): span for span in runs.bench.receiver.spans}
    traces = set()
    for how, run_id in started:
        [root] = [span for span in our_spans(runs.bench.receiver, run_id).values() if not span.parent_span_id]
        [link] = root.links
        consumer = by_id[link.trace_id, link.span_id]
        assert consumer.name == "run/pipelines.runners.celery.tasks.run_pipeline"
        assert [(back.trace_id, back.span_id) for back in consumer.links] == [(root.trace_id, root.span_id)]
        producer = by_id[link.trace_id, consumer.parent_span_id]
        assert producer.name == "apply_async/pipelines.runners.celery.tasks.run_pipeline"
        if how.startswith("page:"):
            request = by_id[link.trace_id, producer.parent_span_id]
            assert (request.scope_name, request.kind) == (DJANGO, "SERVER")
        traces.add(link.trace_id)
    assert len(traces) == len(started)
    if not runs.is_instrumented:
        assert all(not span.links for span in runs.bench.receiver.spans)


@pytest.mark.slow
def test_a_request_that_runs_a_pipeline_itself_links_to_it(open_bench: OpenBench) -> None:
    """With the eager runner the request's own span and the root of its run link to each other."""
    eager = {"PIPELINES_PIPELINE_RUNNER": "pipelines.runners.eager.Runner"}
    bench = open_bench(instrumented=True, settings=eager)
    [run_id] = bench.site.client("--prepare", "page:Succeeds")
    wait_until(lambda: is_delivered(bench.storage), "all spans are delivered")
    root = check_trace(bench.receiver, bench.storage, run_id)
    [request] = [span for span in bench.receiver.spans if span.scope_name == DJANGO]
    assert [(link.trace_id, link.span_id) for link in root.links] == [(request.trace_id, request.span_id)]
    assert [(link.trace_id, link.span_id) for link in request.links] == [(root.trace_id, root.span_id)]
    assert request.trace_id != root.trace_id
    works = [span for span in bench.receiver.traces()[root.trace_id] if span.scope_name == CODE]
    assert len(works) == 8


def _first_task_result(bench: Bench, run_id: str) -> int:
    return min(task_result.get_id() for task_result in bench.storage.get_task_results(run_id))


def _works(bench: Bench, trace: str, task_result_id: int) -> int:
    record = bench.storage.get_task_result(task_result_id)
    spans = bench.receiver.traces()[trace]
    return sum(span.scope_name == CODE and span.parent_span_id == span_id(record) for span in spans)


def _is_of(span: ReceivedSpan, task_result_id: int) -> bool:
    return bool(span.attributes["otel_storage.record.id"] == task_result_id)
