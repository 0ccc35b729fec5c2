"""The host's own ORM storage, wrapped, in prefork workers: the same states and the same spans as with ours."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest

from tests.integration.trees import span_tree
from tests.with_celery.conftest import Bench, OpenBench
from tests.with_celery.site import is_delivered, is_over, wait_until
from tests.with_celery.traces import trace_id

ORM = "pipelines.results.orm.OrmPipelineResultsStorage"
NAMES = ("Succeeds", "Fails", "PublishesOne")

STATES = """
SELECT 1, e.status FROM pipelines_ormpipelineexecution e WHERE e.run_id = :run
UNION ALL SELECT 2, r.status FROM pipelines_ormpipelineresult r
  JOIN pipelines_ormpipelineexecution e ON e.id = r.execution_id WHERE e.run_id = :run
UNION ALL SELECT 3, t.status FROM pipelines_ormtaskexecution t
  JOIN pipelines_ormpipelineresult r ON r.id = t.pipeline_result_id
  JOIN pipelines_ormpipelineexecution e ON e.id = r.execution_id WHERE e.run_id = :run
UNION ALL SELECT 4, x.status FROM pipelines_ormtaskresult x
  JOIN pipelines_ormtaskexecution t ON t.id = x.execution_id
  JOIN pipelines_ormpipelineresult r ON r.id = t.pipeline_result_id
  JOIN pipelines_ormpipelineexecution e ON e.id = r.execution_id WHERE e.run_id = :run
"""


@pytest.mark.slow
def test_states_and_spans_are_those_of_our_storage(open_bench: OpenBench) -> None:
    """Every pipeline leaves the same states and the same tree of spans, made in several processes; one root each.

    One child works at a time: side by side the host's own storage loses states, which is another test.
    """
    ours, theirs = open_bench(), open_bench(storage=ORM)
    our_runs, their_runs = _run(ours), _run(theirs)

    for name in NAMES:
        expected = span_tree(ours.receiver.traces()[trace_id(our_runs[name])])
        found = span_tree(theirs.receiver.traces()[trace_id(their_runs[name])])
        assert len(expected) == 1
        assert found == expected, name
        assert _orm_states(theirs, their_runs[name]) == _our_states(ours, our_runs[name]), name
    assert theirs.storage.outbox.status().waiting == 0


def _run(bench: Bench) -> dict[str, str]:
    with bench.site.worker(concurrency=1):
        ids = bench.site.client("--prepare", *(f"direct:{name}" for name in NAMES))
        wait_until(lambda: all(is_over(bench.storage, run_id) for run_id in ids), "the runs are over")
        wait_until(lambda: is_delivered(bench.storage), "all spans are delivered")
    return dict(zip(NAMES, ids, strict=True))


def _our_states(bench: Bench, run_id: str) -> list[tuple[int, str]]:
    records: list[Any] = [
        [bench.storage.get_pipeline_execution(run_id)],
        bench.storage.get_pipeline_results(run_id),
        bench.storage.get_task_executions(run_id),
        bench.storage.get_task_results(run_id),
    ]
    return sorted((level, record.get_status().value) for level, found in enumerate(records, 1) for record in found)


def _orm_states(bench: Bench, run_id: str) -> list[tuple[int, str]]:
    [file] = [file for file in bench.site.folder.glob("*") if file.suffix in (".db", ".sqlite3") and _is_djangos(file)]
    with closing(sqlite3.connect(file)) as connection:
        return sorted(connection.execute(STATES, {"run": run_id}).fetchall())


def _is_djangos(file: Any) -> bool:
    with closing(sqlite3.connect(file)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'pipelines_ormtaskresult'")
        return tables.fetchone() is not None
