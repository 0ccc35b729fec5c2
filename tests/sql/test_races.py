"""Processes that race on one database: every change has one winner, and telemetry follows the winner."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable
from contextlib import closing

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from sqlalchemy import Table, select

from otel_storage.results.base import PipelineStorageObject, changed_state
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.sql.database import schema
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.telemetry.spans import attributes, ids
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Report, Runner, Task
from otel_storage.testing.receiver import OtlpReceiver
from tests.sql import racers

pytestmark = pytest.mark.slow

DONE, RUNNING, PENDING = PipelineTaskStatus.DONE, PipelineTaskStatus.RUNNING, PipelineTaskStatus.PENDING
RUNTIME_ERROR = PipelineTaskStatus.RUNTIME_ERROR

# 1 000 task results; a task execution of five has no failure once in a while, others have some.
WIDE = Pipeline(*(Task(f"task {n}", objects=range(5)) for n in range(20)), objects=range(10))

Won = dict[tuple[str, int, PipelineTaskStatus], tuple[int, Report]]
"""Which process reported a change, and the report, by record and status."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "propagates",
    ["failures", pytest.param("nothing", marks=pytest.mark.long), pytest.param("everything", marks=pytest.mark.long)],
)
def test_a_change_has_one_winner(database_url: str, propagates: str) -> None:
    """Two processes race for RUNNING and for the end of 1 000 task results, one with DONE, one with RUNTIME_ERROR.

    Every record has one winner, one report and one span; what is stored and sent is the winner's; a failure that
    propagates is in all of its parents.
    """
    exporter = InMemorySpanExporter()
    with racers.opened(database_url, exporter=exporter) as storage:
        run_id = str(uuid.uuid4())
        storage.build_pipeline_execution(WIDE, run_id, Runner(), RecordingReporter(), None)

        finals = ("DONE", "RUNTIME_ERROR")
        ran = racers.race(*[racers.run_all] * racers.RACERS, arguments=(database_url, run_id, finals, propagates))

        won: Won = {(r.kind, r.id, r.status): (number, r) for number, racer in enumerate(ran) for r in racer}
        assert len(won) == sum(len(racer) for racer in ran), "a change was reported twice"
        task_results = list(storage.get_task_results(run_id))
        assert len(task_results) == 1000
        for task_result in task_results:
            _assert_stored_as_won(task_result, won)
        execution = storage.get_pipeline_execution(run_id)
        assert execution is not None
        pipeline_results = storage.get_pipeline_results(run_id)
        parents = [execution, *pipeline_results, *storage.get_task_executions(run_id)]
        failed = {id_ for kind, id_, status in won if kind == "TaskResult" and status is RUNTIME_ERROR}
        _assert_parents(parents, _above(task_results), failed, won, propagates)
        assert _ids(storage.records, schema.failure, "task_result_id") == sorted(failed)
        references = _ids(storage.records, schema.outbox, "record_id", kind="TaskResult")
        assert references == sorted(task_result.get_id() for task_result in task_results)

        # As a runner ends a run: what is final already stays as it is.
        for pipeline_result in pipeline_results:
            pipeline_result.report_status_change(RecordingReporter(), DONE, propagate=False)
        execution.report_status_change(RecordingReporter(), DONE)
        assert storage.delivery.deliver_due().error == ""
        assert _ids(storage.records, schema.outbox, "record_id") == []

    spans = {span.context.span_id: span for span in exporter.get_finished_spans() if span.context is not None}
    assert len(spans) == len(exporter.get_finished_spans()), "a span was sent twice"
    everything = [*parents, *task_results]
    assert spans.keys() == {ids.span_id(record.content_type_name, record.get_id()) for record in everything}
    for task_result in task_results:
        status = spans[ids.span_id("TaskResult", task_result.get_id())].status
        expected = (StatusCode.ERROR, "end by 1") if task_result.get_id() in failed else (StatusCode.UNSET, None)
        assert (status.status_code, status.description) == expected


@pytest.mark.smoke
def test_a_run_id_is_built_once(database_url: str) -> None:
    """Of two processes that build a run of one id, one does, and the other is told that the run exists."""
    run_ids = [f"run {index}" for index in range(100)]

    built = racers.race(*[racers.build_same] * racers.RACERS, arguments=(database_url, run_ids))

    assert sorted(built[0] + built[1]) == sorted(run_ids)
    with closing(SqlPipelineStorage(database_url)) as storage:
        assert len(storage.get_pipeline_executions()) == len(run_ids)
        for number, mine in enumerate(built):
            for run_id in mine:
                execution = storage.get_pipeline_execution(run_id)
                assert execution is not None
                assert execution.get_input_data() == number
        counts = [len(storage.get_pipeline_results()), len(storage.get_task_executions())]
        assert [*counts, len(storage.get_task_results())] == [200, 400, 800]
        assert len(_ids(storage, schema.outbox, "record_id")) == len(run_ids)


def test_an_id_is_never_used_again(database_url: str) -> None:
    """Processes that build and remove runs side by side, and others after them, never build one id twice."""
    built: Counter[tuple[str, int]] = Counter()
    for _ in range(2):
        for records in racers.race(*[racers.build_and_clean_up] * racers.RACERS, arguments=(database_url, 60)):
            built.update(records)
        with closing(SqlPipelineStorage(database_url)) as storage:
            storage.cleanup()

    assert built.total() == 2 * racers.RACERS * 60 * (1 + 2 + 2 + 6)
    assert [record for record, times in built.items() if times > 1] == []


def test_runs_are_removed_while_they_are_written_and_read(database_url: str) -> None:
    """A cleanup beside a writer and a reader removes every run once, whole, and neither of them notices."""
    runs = 100

    written, removed, _ = racers.race(racers.write, racers.clean_up, racers.read, arguments=(database_url, runs))

    assert sorted(removed) == sorted(written)
    exporter = InMemorySpanExporter()
    with racers.opened(database_url, exporter=exporter) as storage:
        for table in (*schema.LEVELS.values(), schema.failure):
            assert _ids(storage.records, table, table.primary_key.columns[0].name) == [], table.name
        # A reference may outlive its record, and is dropped by the next sender.
        assert storage.delivery.deliver_due().error == ""
        assert _ids(storage.records, schema.outbox, "record_id") == []
    assert exporter.get_finished_spans() == ()


@pytest.mark.smoke
def test_two_senders_share_an_outbox(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that send from one outbox send every span, none twice, and each run's parents after its results."""
    reporter = RecordingReporter()
    pipeline = Pipeline(Task("extract", objects=range(25)), objects=["north", "south"])
    runs, spans = 30, 1 + 2 + 2 + 50
    with racers.opened(database_url) as storage:
        for _ in range(runs):
            run_id = str(uuid.uuid4())
            execution = storage.build_pipeline_execution(pipeline, run_id, Runner(), reporter, None)
            for task_result in storage.get_task_results(run_id):
                task_result.report_status_change(reporter, DONE, propagate=False)
            for pipeline_result in execution.get_pipeline_results():
                pipeline_result.report_status_change(reporter, DONE, propagate=False)
            execution.report_status_change(reporter, DONE)

        with OtlpReceiver() as receiver:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
            sent = racers.race(*[racers.send] * racers.RACERS, arguments=(database_url,))
            received = receiver.spans

        assert sum(sent) == len(received) == runs * spans
        assert len({(span.trace_id, span.span_id) for span in received}) == runs * spans
        assert _ids(storage.records, schema.outbox, "record_id") == []
    arrivals: dict[str, list[str]] = {}
    for span in received:
        arrivals.setdefault(span.trace_id, []).append(str(span.attributes[attributes.RECORD_KIND]))
    for kinds in arrivals.values():
        assert len(kinds) == spans
        assert kinds[:50] == ["TaskResult"] * 50


def _assert_stored_as_won(record: PipelineStorageObject, won: Won) -> None:
    """The task result has the two changes that were reported, with the messages of those who won them."""
    key = (record.content_type_name, record.get_id())
    assert [status for status in (DONE, RUNTIME_ERROR) if (*key, status) in won] == [record.get_status()]
    starter, started = won[*key, RUNNING]
    ender, ended = won[*key, record.get_status()]
    assert record.get_status() is (DONE, RUNTIME_ERROR)[ender]
    messages = [change.message for change in record.get_status_changes()]
    assert messages[1:] == [f"start by {starter}", f"end by {ender}"]
    assert started.message == changed_state(RUNNING, messages[1])
    assert ended.message == changed_state(record.get_status(), messages[2])


def _above(task_results: Iterable[PipelineStorageObject]) -> dict[tuple[str, int], set[int]]:
    """The ids of the task results below each parent."""
    below: dict[tuple[str, int], set[int]] = {}
    for task_result in task_results:
        parent = task_result._get_propagate_parent()
        while parent is not None:
            below.setdefault((parent.content_type_name, parent.get_id()), set()).add(task_result.get_id())
            parent = parent._get_propagate_parent()
    return below


def _assert_parents(
    parents: Iterable[PipelineStorageObject],
    below: dict[tuple[str, int], set[int]],
    failed: set[int],
    won: Won,
    propagates: str,
) -> None:
    """The parents are as the changes below them left them, and each of their changes was reported."""
    for parent in parents:
        key = (parent.content_type_name, parent.get_id())
        status = parent.get_status()
        reported = {changed for kind, id_, changed in won if (kind, id_) == key}
        if propagates == "nothing":
            assert (status, reported) == (PENDING, set())
        elif propagates == "failures":
            # No failure is lost, and none is made up.
            assert status is (RUNTIME_ERROR if below[key] & failed else RUNNING)
            assert reported == {RUNNING, status}
        else:
            assert status in (DONE, RUNTIME_ERROR)
            assert reported == {RUNNING, status}


def _ids(storage: SqlPipelineStorage, table: Table, column: str, **conditions: object) -> list[int]:
    statement = select(table.c[column]).filter_by(**conditions).order_by(table.c[column])
    with storage.database.read() as connection:
        return list(connection.execute(statement).scalars())
