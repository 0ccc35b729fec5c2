"""What a call costs in statements, whatever the size of the run."""

from __future__ import annotations

import gc
import re
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from otel_storage import OtelPipelineStorage, PipelineTaskStatus
from otel_storage.results.base import PipelineExecution, PipelineResult
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task

RUNNING = PipelineTaskStatus.RUNNING
DONE = PipelineTaskStatus.DONE


@pytest.fixture
def storage(database_url: str) -> Iterator[OtelPipelineStorage]:
    """A storage with telemetry that sends nothing by itself."""
    with closing(OtelPipelineStorage(url=database_url, delivery="external")) as storage:
        # The schema is checked here already: the first use of a storage has statements more for it.
        storage.records.upgrade()
        yield storage


@contextmanager
def counted(storage: OtelPipelineStorage, parameters: list[Any] | None = None) -> Iterator[list[str]]:
    """The statements that are executed meanwhile, and COMMIT for each transaction that is; ``parameters`` gets theirs.

    A transaction's BEGIN is no statement.
    """
    statements: list[str] = []
    engine = storage.records.database.engine

    def execute(_connection: Any, _cursor: Any, statement: str, given: Any, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            statements.append(statement)
            if parameters is not None:
                parameters.append(given)

    def commit(_connection: Any) -> None:
        statements.append("COMMIT")

    event.listen(engine, "before_cursor_execute", execute)
    event.listen(engine, "commit", commit)
    yield statements
    event.remove(engine, "before_cursor_execute", execute)
    event.remove(engine, "commit", commit)


def _verbs(statements: list[str]) -> list[str]:
    """What they do, and to which tables."""
    return [verb for statement in statements for verb in re.findall(r"(?:UPDATE|INSERT INTO) \w+|COMMIT", statement)]


def _lone_commit(storage: OtelPipelineStorage) -> list[str]:
    """What a change that is one statement is committed by: off MariaDB it is a transaction by itself."""
    return ["COMMIT"] if storage.records.database.dialect == "mariadb" else []


def test_building_is_one_transaction_of_any_size(storage: OtelPipelineStorage) -> None:
    """A run of one task result and one of five thousand take the same statements, and one commit."""
    costs = []
    for per_task, per_pipeline in ((1, 1), (50, 10)):
        pipeline = Pipeline(*(Task(f"t{n}", objects=range(per_task)) for n in range(10)), objects=range(per_pipeline))
        with counted(storage) as statements:
            storage.build_pipeline_execution(pipeline, str(uuid.uuid4()), Runner(), RecordingReporter(), {})
        assert statements.count("COMMIT") == 1
        costs.append([statement.split(" (")[0] for statement in statements])
    assert costs[0] == costs[1]
    assert len([statement for statement in costs[0] if statement.startswith("INSERT")]) == 5


def test_a_parent_that_is_known_to_run_costs_nothing(storage: OtelPipelineStorage) -> None:
    """RUNNING of a second task result is one UPDATE: its parents are known to be RUNNING already."""
    run_id = str(uuid.uuid4())
    pipeline = Pipeline(Task("load", objects=range(2)))
    storage.build_pipeline_execution(pipeline, run_id, Runner(), RecordingReporter(), {})
    first, second = storage.get_task_results(run_id)
    with counted(storage) as statements:
        first.report_status_change(RecordingReporter(), RUNNING)
    assert _verbs(statements) == [
        "UPDATE otel_storage_pipeline_execution",
        "UPDATE otel_storage_pipeline_result",
        "UPDATE otel_storage_task_execution",
        "UPDATE otel_storage_task_result",
        "COMMIT",
    ]
    with counted(storage) as statements:
        second.report_status_change(RecordingReporter(), RUNNING)
    assert _verbs(statements) == ["UPDATE otel_storage_task_result", *_lone_commit(storage)]
    with counted(storage) as statements:
        second.report_status_change(RecordingReporter(), RUNNING)
        first.get_task_execution().report_status_change(RecordingReporter(), RUNNING)
    assert statements == []


def test_a_final_state_and_its_reference_are_one_transaction(storage: OtelPipelineStorage) -> None:
    """DONE of a task result is its UPDATE and the reference for its span, committed together.

    On PostgreSQL they are one statement, and so one round trip to the server.
    """
    run_id = str(uuid.uuid4())
    storage.build_pipeline_execution(Pipeline(Task("load")), run_id, Runner(), RecordingReporter(), {})
    [result] = storage.get_task_results(run_id)
    result.report_status_change(RecordingReporter(), RUNNING)
    with counted(storage) as statements:
        result.report_status_change(RecordingReporter(), DONE, propagate=False)
    changes = ["UPDATE otel_storage_task_result", "INSERT INTO otel_storage_outbox"]
    if storage.records.database.dialect == "postgresql":
        assert (len(statements), _verbs(statements)) == (1, changes)
    else:
        assert _verbs(statements) == [*changes, "COMMIT"]


def test_a_look_up_is_one_query(storage: OtelPipelineStorage) -> None:
    """A task result and all above it are read at once; a listing takes a query per level."""
    run_id = str(uuid.uuid4())
    pipeline = Pipeline(Task("load", objects=range(20)), objects=range(20))
    storage.build_pipeline_execution(pipeline, run_id, Runner(), RecordingReporter(), {})
    with counted(storage) as statements:
        result = storage.get_task_result(7)
        assert result is not None
        assert result.get_run_id() == run_id
        assert result.get_task_execution().get_pipeline_result().get_pipeline_execution().get_input_data() == {}
    assert len(statements) == 1
    with counted(storage) as statements:
        assert len(list(storage.get_task_results(run_id))) == 400
    assert len(statements) == 4


def build(storage: OtelPipelineStorage, *per_level: int) -> str:
    """Store a run of so many pipeline results, task executions in each, and task results in each of those."""
    results, tasks, per_task = per_level
    run_id = str(uuid.uuid4())
    pipeline = Pipeline(*(Task(f"t{n}", objects=range(per_task)) for n in range(tasks)), objects=range(results))
    storage.build_pipeline_execution(pipeline, run_id, Runner(), RecordingReporter(), {})
    return run_id


def walk(execution: PipelineExecution | None) -> list[Any]:
    """All task results, reached as runners and pages reach them."""
    assert execution is not None
    return [result for pipeline_result in execution.get_pipeline_results() for result in walk_below(pipeline_result)]


def walk_below(pipeline_result: PipelineResult) -> list[Any]:
    """The task results of a pipeline result."""
    return [result for execution in pipeline_result.get_task_executions() for result in execution.get_task_results()]


@pytest.mark.parametrize("per_level", [(1, 1, 1), (1, 10, 100), (20, 10, 10), (1100, 1, 2), (1, 1100, 1)])
def test_a_walk_over_a_run_is_a_query_per_level(storage: OtelPipelineStorage, per_level: tuple[int, int, int]) -> None:
    """All records of a run are reached from its execution in four queries, however many of them there are."""
    run_id = build(storage, *per_level)
    with counted(storage) as statements:
        walked = walk(storage.get_pipeline_execution(run_id))
    assert len(statements) == 4
    assert walked == list(storage.get_task_results(run_id))
    assert len(walked) == per_level[0] * per_level[1] * per_level[2]


def test_a_walk_from_a_listing_is_a_query_per_level(storage: OtelPipelineStorage) -> None:
    """The same holds from a storage's listing of any level, of one run or of many, of all or of some."""
    runs = [build(storage, 3, 2, 2) for _ in range(5)]
    walks: list[tuple[int, int, Callable[[], Any]]] = [
        (4, 60, lambda: [r for execution in storage.get_pipeline_executions() for r in walk(execution)]),
        (4, 24, lambda: [r for execution in storage.get_pipeline_executions()[1:3] for r in walk(execution)]),
        (4, 12, lambda: [r for p in storage.get_pipeline_results(runs[1]) for r in walk_below(p)]),
        # The listing reads the parents of its records too, up to the execution.
        (4, 60, lambda: [r for t in storage.get_task_executions() for r in t.get_task_results()]),
        (4, 8, lambda: [r for t in storage.get_task_executions()[4:8] for r in t.get_task_results()]),
    ]
    for queries, size, walk_over in walks:
        with counted(storage) as statements:
            assert len(walk_over()) == size
        assert len(statements) == queries


@pytest.mark.slow
def test_children_of_many_runs_are_read_by_the_thousand(storage: OtelPipelineStorage) -> None:
    """Where the parents are of several runs, their ids are asked for in parts that every engine takes."""
    for _ in range(2):
        build(storage, 600, 1, 2)
    with counted(storage) as statements:
        below = [list(t.get_task_results()) for t in list(storage.get_task_executions())]
    # The listing itself reads pipeline results by the thousand as well, and the executions.
    assert len(statements) == 1 + 2 + 1 + 2
    assert [result for results in below for result in results] == list(storage.get_task_results())


def test_asking_again_is_a_query_for_that_record_alone(storage: OtelPipelineStorage) -> None:
    """Asked a second time a record reads its own children: others' are not read again with them."""
    run_id = build(storage, 1, 20, 3)
    task_executions = list(storage.get_task_executions(run_id))
    with counted(storage) as statements:
        assert [len(list(t.get_task_results())) for t in task_executions] == [3] * 20
    assert len(statements) == 1
    with counted(storage) as statements:
        assert all(t.get_task_results()[0] for t in task_executions)
        assert all(len(list(t.get_task_results())) == 3 for t in task_executions)
    assert len(statements) == 40
    assert all("LIMIT" in statement for statement in statements[:20])


def test_asking_again_stays_a_query_for_that_record_alone(storage: OtelPipelineStorage) -> None:
    """So it is where the records were listed again meanwhile, and are the same objects."""
    run_id = build(storage, 1, 20, 3)
    [pipeline_result] = storage.get_pipeline_results(run_id)
    held = list(pipeline_result.get_task_executions())
    assert [len(list(t.get_task_results())) for t in held] == [3] * 20
    again = list(pipeline_result.get_task_executions())
    assert all(a is b for a, b in zip(held, again, strict=True))
    parameters: list[Any] = []
    with counted(storage, parameters):
        assert len(list(again[3].get_task_results())) == 3
    assert [_values(given) for given in parameters] == [[again[3].get_id()]]


def test_a_length_costs_nothing_more(storage: OtelPipelineStorage) -> None:
    """Asking for the number of children first, as the host's Celery runner does, and then for them is one query."""
    run_id = build(storage, 2, 3, 4)
    task_executions = list(storage.get_task_executions(run_id))
    with counted(storage) as statements:
        assert all(len(t.get_task_results()) == 4 for t in task_executions)
        firsts = [t.get_task_results()[0] for t in task_executions]
    assert len(statements) == 1
    assert firsts == list(storage.get_task_results(run_id))[::4]


def test_related_managers_are_read_once(storage: OtelPipelineStorage) -> None:
    """A template that asks a record for ``results.all`` several times, or for its length and the getter, reads once."""
    run_id = build(storage, 2, 3, 4)
    asks: list[Callable[[Any], list[int]]] = [
        lambda t: [len(t.results.all()), len(list(t.results.all())), len(list(t.results.all()))],
        lambda t: [len(t.results.all()), len(t.results.all()), len(list(t.get_task_results()))],
    ]
    for ask in asks:
        with counted(storage) as statements:
            for task_execution in storage.get_task_executions(run_id):
                assert ask(task_execution) == [4, 4, 4]
        # Task executions, their pipeline results, the execution; all task results.
        assert len(statements) == 4


def test_a_record_that_was_looked_up_reads_no_more_than_it_is_asked_for(storage: OtelPipelineStorage) -> None:
    """Alone, a record counts its children, or reads the one that is wanted."""
    run_id = build(storage, 1, 2, 10)
    for task_execution in (storage.get_task_execution(1), storage.get_task_executions(run_id)[0]):
        assert task_execution is not None
        with counted(storage) as statements:
            sequence = task_execution.get_task_results()
            assert len(sequence) == 10
            assert sequence[3] == storage.get_task_results(run_id)[3]
        assert ["count(" in statement for statement in statements[:2]] == [True, False]
        assert "LIMIT" in statements[1]


def test_records_that_nobody_holds_are_let_go(storage: OtelPipelineStorage) -> None:
    """What was listed together lives as long as somebody holds it: one that is held keeps no sibling alive.

    Children of a record that is gone are neither asked for nor built.
    """
    run_id = build(storage, 1, 30, 2)
    task_executions = list(storage.get_task_executions(run_id))
    kept = task_executions[7]
    gone = [weakref.ref(t) for t in task_executions if t is not kept]
    del task_executions
    assert [reference() for reference in gone] == [None] * 29
    parameters: list[Any] = []
    with counted(storage, parameters):
        assert len(list(kept.get_task_results())) == 2
    assert [_values(given) for given in parameters] == [[kept.get_id()]]
    task_results = list(storage.get_task_results(run_id))
    held = task_results[5]
    others = [weakref.ref(t) for t in task_results if t is not held]
    del task_results
    assert [reference() for reference in others] == [None] * 59

    # Unasked siblings hold what was read for them, until they go themselves.
    listed = list(storage.get_task_executions(run_id))
    result = next(iter(listed[0].get_task_results()))
    siblings = [weakref.ref(t) for t in listed[1:]]
    del listed
    gc.collect()
    assert [reference() for reference in siblings] == [None] * 29
    assert result.get_task_execution().get_pipeline_task() == "t0"


def _values(parameters: Any) -> list[Any]:
    return list(parameters.values() if isinstance(parameters, dict) else parameters)


def test_children_of_records_that_are_gone_are_left_out(storage: OtelPipelineStorage) -> None:
    """Of a long list some records are gone when the others are asked for their children: theirs are not built."""
    run_id = build(storage, 1, 1100, 2)
    task_executions = list(storage.get_task_executions(run_id))
    del task_executions[50:80]
    with counted(storage) as statements:
        below = [list(t.get_task_results()) for t in task_executions]
    assert len(statements) == 1
    assert [len(results) for results in below] == [2] * 1070
    assert all(r.get_task_execution() is t for t, results in zip(task_executions, below, strict=True) for r in results)


def test_records_of_a_build_do_not_pile_up(storage: OtelPipelineStorage) -> None:
    """While a build reports its task results each lives no longer than the reporter holds it."""
    reported: list[weakref.ref[Any]] = []
    alive: list[int] = []

    class Reporter:
        """Keeps nothing alive."""

        def report_context_object(self, record: Any, *_: object) -> None:
            """Count the task results that still live."""
            if record.content_type_name == "TaskResult":
                alive.append(sum(reference() is not None for reference in reported))
                reported.append(weakref.ref(record))

    pipeline = Pipeline(Task("load", objects=range(50)))
    storage.build_pipeline_execution(pipeline, str(uuid.uuid4()), Runner(), Reporter(), {})

    assert len(alive) == 50
    # The one before is let go once the next is made.
    assert max(alive) <= 1
