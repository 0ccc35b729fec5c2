"""Reading the results of one run, as the host's page of it does, beside the host's ORM storage."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from sqlalchemy import select

from otel_storage import OtelPipelineStorage, PipelineTaskStatus
from otel_storage.sql.database import schema
from otel_storage.sql.database.values import load_json
from otel_storage.testing.pipelines import Runner
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.measuring import Databases, Host, NullReporter, counted, medians_of

OURS, THEIRS = "ours", "the host's"
NAME = "x the host's ORM storage"


def measure(databases: Databases, scale: Scale) -> Iterator[Figure]:
    """Read a run of 1 x 10 x 100 task results, and one of 10 000."""
    from django.template.loader import render_to_string
    from django.urls import include, path, set_urlconf

    host = Host(databases.fresh())
    # The page links to the logs; the host's own urls want its admin.
    logs = path("<str:run_id>/logs/", str, name="logs-filter")
    set_urlconf((path("pipelines/", include(([logs], "pipelines"))),))
    # Fewer would tell of what a query costs alone.
    per_task = max(scale.of(100), 10)
    pipeline = host.pipeline("Read", 10, per_task, 1)
    engine = databases.engine
    with closing(OtelPipelineStorage(url=databases.fresh(), delivery="external")) as ours:
        ours.records.upgrade()
        run_id = finished(ours, pipeline)
        finished(host.storage, pipeline, run_id)
        storages = {OURS: ours, THEIRS: host.storage}

        def results_list(storage: Any) -> list[Any]:
            return _results_list(storage.get_pipeline_execution(run_id))

        def read(storage: Any) -> list[Any]:
            return _read_by_core(ours, run_id) if storage is ours else results_list(storage)

        def parent_fields(storage: Any) -> list[Any]:
            return [_parent_fields(result) for result in storage.get_task_results(run_id)]

        assert len(results_list(ours)) == len(results_list(host.storage)) == 10 * per_task
        assert sorted(parent_fields(ours)) == sorted(parent_fields(host.storage))

        assert _read_by_core(ours, run_id) == results_list(ours)
        work = "results list of a 1 x 10 x 100 run"
        seconds = _seconds(storages, results_list, scale)
        yield Figure(work, engine, NAME, seconds[THEIRS] / seconds[OURS], at_least=10, is_guarded=True)
        floor = _seconds({OURS: ours, THEIRS: host.storage}, read, scale)
        yield Figure(work, engine, "SQLAlchemy Core, x the host's", floor[THEIRS] / floor[OURS])
        yield Figure(work, engine, "ms", 1000 * seconds[OURS])
        yield Figure(work, engine, "queries", _queries(ours, results_list), at_most=6, is_guarded=True)

        def page(storage: Any) -> str:
            results = storage.get_pipeline_execution(run_id).get_pipeline_results()
            return str(render_to_string("pipelines/_results_list.html", {"object_list": results}))

        seconds = _seconds(storages, page, scale)
        yield Figure(work, engine, "as HTML, x the host's", seconds[THEIRS] / seconds[OURS])
        yield Figure(work, engine, "as HTML, ms", 1000 * seconds[OURS])
        yield Figure(work, engine, "as HTML, queries", _queries(ours, page), at_most=6, is_guarded=True)

        work = "its task results with parent fields"
        seconds = _seconds(storages, parent_fields, scale)
        yield Figure(work, engine, NAME, seconds[THEIRS] / seconds[OURS], at_least=10, is_guarded=True)
        yield Figure(work, engine, "queries", _queries(ours, parent_fields), at_most=4, is_guarded=True)

        pipeline = host.pipeline("ReadMuch", 10, scale.of(1000), 1)
        run_id = finished(ours, pipeline)
        work = "results list of 10 000 task results"
        yield Figure(work, engine, "queries", _queries(ours, results_list), at_most=6, is_guarded=True)


def finished(storage: Any, pipeline: Any, run_id: str | None = None) -> str:
    """Build a run, with all in it DONE; returns its id."""
    run_id = run_id or str(uuid.uuid4())
    execution = storage.build_pipeline_execution(pipeline, run_id, Runner(), NullReporter(), {"day": 1})
    for pipeline_result in execution.get_pipeline_results():
        for task_execution in pipeline_result.get_task_executions():
            for task_result in task_execution.get_task_results():
                for status in (PipelineTaskStatus.RUNNING, PipelineTaskStatus.DONE):
                    task_result.report_status_change(NullReporter(), status, propagate=False)
    for status in (PipelineTaskStatus.RUNNING, PipelineTaskStatus.DONE):
        execution.report_status_change(NullReporter(), status)
    return run_id


def _results_list(execution: Any) -> list[Any]:
    """What the page asks of the records."""
    return [
        (
            result.get_status(),
            result.get_id(),
            result.get_run_id(),
            result.get_pipeline_task(),
            result.get_task_id(),
            result.get_pipeline_object(),
            result.get_task_object(),
            result.get_started(),
            result.get_completed(),
        )
        for pipeline_result in execution.get_pipeline_results()
        for task_execution in pipeline_result.task_executions.all()
        for result in task_execution.get_task_results()
    ]


def _read_by_core(storage: OtelPipelineStorage, run_id: str) -> list[Any]:
    """The same, without records: what the database and SQLAlchemy need for it."""
    execution, pipeline_result, task_execution, task_result = (table.c for table in schema.LEVELS.values())
    with storage.records.database.read() as connection:
        execution_id = connection.execute(select(execution.id).where(execution.run_id == run_id)).scalar_one()
        pipelines = connection.execute(
            select(pipeline_result.id, pipeline_result.pipeline_object)
            .where(pipeline_result.execution_id == execution_id)
            .order_by(pipeline_result.id)
        ).all()
        tasks = connection.execute(
            select(
                task_execution.id,
                task_execution.pipeline_result_id,
                task_execution.pipeline_task,
                task_execution.task_id,
            )
            .where(task_execution.execution_id == execution_id)
            .order_by(task_execution.id)
        ).all()
        results = connection.execute(
            select(
                task_result.id,
                task_result.task_execution_id,
                task_result.status,
                task_result.task_object,
                task_result.started,
                task_result.completed,
            )
            .where(task_result.execution_id == execution_id)
            .order_by(task_result.id)
        ).all()
    objects = {id_: load_json(text) for id_, text in pipelines}
    of_task = {id_: (name, task_id, objects[parent]) for id_, parent, name, task_id in tasks}
    return [
        (status, id_, run_id, *of_task[parent], load_json(task_object), started, completed)
        for id_, parent, status, task_object, started, completed in results
    ]


def _parent_fields(result: Any) -> tuple[str, ...]:
    return (
        result.get_run_id(),
        result.get_pipeline_id(),
        result.get_pipeline_task(),
        result.get_task_id(),
        result.get_status().value,
    )


def _seconds(storages: dict[str, Any], read: Callable[[Any], object], scale: Scale) -> dict[str, float]:
    def prepared(storage: Any) -> Any:
        return lambda: (lambda: read(storage), lambda: None)

    return medians_of({name: prepared(storage) for name, storage in storages.items()}, scale.repeat)


def _queries(storage: Any, read: Callable[[Any], object]) -> int:
    with counted(storage) as statements:
        read(storage)
    return len(statements)
