"""What ``show`` tells of a run and what the sent trace says are the same, whatever happened in the run."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from otel_storage.cli import cli
from otel_storage.composite import OtelPipelineStorage
from otel_storage.ports.outbox import Settling
from otel_storage.results.base import PipelineExecution, PipelineStorageObject
from otel_storage.results.kinds import PIPELINE_EXECUTION, PIPELINE_RESULT, TASK_EXECUTION
from otel_storage.results.status import FINAL
from otel_storage.results.status import PipelineTaskStatus as Status
from otel_storage.sql.database import schema
from otel_storage.sql.outbox import settling
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.clock import ManualClock
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task

AT_ONCE = Settling(quiet=timedelta(0), after=timedelta(0))

TABLES = {
    PIPELINE_EXECUTION: schema.pipeline_execution,
    PIPELINE_RESULT: schema.pipeline_result,
    TASK_EXECUTION: schema.task_execution,
}

REPORTS = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.sampled_from([Status.RUNNING, Status.RUNNING, *Status.final_statuses()]),
        st.booleans(),
        # Hosts' clocks differ: one report may seem to come before another.
        st.floats(-2, 5).map(lambda seconds: round(seconds, 3)),
    ),
    max_size=40,
)
"""Which record is reported, what, whether its parents are too, and how much later than the report before."""


class History:
    """Runs in a SQLite file, in which the reports come in any order."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clock = ManualClock()
        self.storage = OtelPipelineStorage(SqlPipelineStorage(url, clock=self.clock), delivery="external")
        self.reporter = RecordingReporter()

    def make(self, tasks: list[int], objects: int, reports: Any) -> PipelineExecution:
        """A run of tasks with so many results each, for so many objects, to which that happens."""
        pipeline = Pipeline(
            *(Task(f"task{number}", objects=range(count)) for number, count in enumerate(tasks)), objects=range(objects)
        )
        run = self.storage.build_pipeline_execution(pipeline, str(uuid.uuid4()), Runner(), self.reporter, None)
        records = list(walk(run))
        for number, status, propagate, later in reports:
            self.clock.advance(later)
            records[number % len(records)].report_status_change(self.reporter, status, propagate=propagate)
        self.clock.advance(1)
        run.report_status_change(self.reporter, Status.DONE)
        return run

    def settle(self, run: PipelineExecution) -> None:
        """Settle the run, as a sender does once the spans of its task results are acknowledged."""
        records = self.storage.records
        # Later than any of the reports, and so than all that is due.
        self.clock.advance(600)
        claims = records.outbox.claim_task_results(1000, timedelta(days=9))
        records.outbox.settle(claims.token, [claim.reference_id for claim in claims.claims])
        assert records.database.write(lambda c: settling.settle(c, [run.get_id()], AT_ONCE, self.clock())) == {}

    def stored(self, record: dict[str, Any]) -> tuple[Any, Any, Any]:
        """The bounds and the outcome that the record's span is made from."""
        table = TABLES[record["kind"]]
        columns = (table.c.span_start, table.c.span_end, table.c.span_outcome)
        with self.storage.records.database.read() as connection:
            start, end, outcome = connection.execute(select(*columns).where(table.c.id == record["id"])).one()
        return start, end, outcome


def walk(record: Any) -> Iterator[PipelineStorageObject]:
    """The record and all below it."""
    yield record
    for getter in ("get_pipeline_results", "get_task_executions", "get_task_results"):
        if (children := getattr(record, getter, None)) is not None:
            for child in children():
                yield from walk(child)


def below(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The records directly below one of ``show --json``."""
    children: list[dict[str, Any]] = []
    for key in ("pipeline_results", "task_executions", "task_results"):
        children += record.get(key, [])
    return children


def every(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The record and all below it."""
    yield record
    for child in below(record):
        yield from every(child)


def moments(record: dict[str, Any]) -> list[datetime]:
    """When the record, and all below it, were started and ended."""
    own = [record["started"], record["completed"]]
    found = [datetime.fromisoformat(moment) for moment in own if moment is not None]
    return found + [moment for child in below(record) for moment in moments(child)]


def moment(text: str | None) -> datetime | None:
    """A time of JSON."""
    return None if text is None else datetime.fromisoformat(text)


WORST_FIRST = ["RUNTIME_ERROR", "VALIDATION_ERROR", "CONFIG_ERROR", "CANCELLED", "DONE"]


def expected_outcome(record: dict[str, Any]) -> str:
    """The record's own status, or for a task that has not ended the worst of its results, once all of them have."""
    results: set[str] = {result["status"] for result in record.get("task_results", [])}
    if record["status"] in WORST_FIRST or not results or not results <= {*WORST_FIRST}:
        return str(record["status"])
    return min(results, key=WORST_FIRST.index)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """An empty database."""
    made = History(f"sqlite:///{tmp_path_factory.mktemp('extents') / 'runs.db'}")
    with closing(made.storage):
        yield made


@settings(max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=3), st.integers(1, 2), REPORTS)
def test_show_and_the_trace_agree(history: History, tasks: list[int], objects: int, reports: Any) -> None:
    """Each record that has a span starts and ends when that does, and counts as the same, also where others still run.

    While something is open ``show`` tells no end; the span ends at the latest moment that is known.
    """
    execution = history.make(tasks, objects, reports)
    history.settle(execution)
    shown = CliRunner().invoke(cli, ["show", execution.get_run_id(), "--url", history.url, "--json"])
    for record in every(json.loads(shown.stdout)):
        if record["kind"] not in TABLES:
            continue
        start, end, outcome = history.stored(record)
        assert record["outcome"] == expected_outcome(record)
        assert moment(record["start"]) == start
        assert end == max(moments(record), default=None)
        assert moment(record["end"]) in (end, None)
        assert (Status[record["outcome"]] if Status[record["outcome"]] in FINAL else None) is outcome
        is_over = all(Status[each["outcome"]] in FINAL or each["start"] is None for each in every(record))
        assert (record["end"] is not None) == (is_over and end is not None)
        for child in below(record):
            assert child["start"] is None or record["start"] <= child["start"]
