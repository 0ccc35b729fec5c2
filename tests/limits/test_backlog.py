"""A backlog of any size: what a sender needs for it does not grow with it, and writers go on meanwhile."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from sqlalchemy import event, select, update

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results import clock
from otel_storage.sql.database import schema
from otel_storage.sql.outbox import references
from tests import services
from tests.limits.filling import fill


class Counting(SpanExporter):
    """Accepts every span, or none."""

    def __init__(self) -> None:
        self.is_up = True
        self.spans = 0

    def export(self, spans: Any) -> SpanExportResult:
        """Count them."""
        if not self.is_up:
            return SpanExportResult.FAILURE
        self.spans += len(spans)
        return SpanExportResult.SUCCESS


@contextmanager
def opened(url: str, exporter: SpanExporter | None = None, **kwargs: Any) -> Iterator[OtelPipelineStorage]:
    """A storage that sends when it is told to."""
    kwargs = {"delivery": "external", **kwargs}
    with closing(OtelPipelineStorage(url=url, exporter=exporter or Counting(), **kwargs)) as storage:
        yield storage


@contextmanager
def statements(storage: OtelPipelineStorage) -> Iterator[list[tuple[str, Any]]]:
    """The statements on the outbox that are executed meanwhile, with their parameters."""
    found: list[tuple[str, Any]] = []
    engine = storage.records.database.engine

    def execute(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if schema.outbox.name in statement:
            found.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", execute)
    yield found
    event.remove(engine, "before_cursor_execute", execute)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_memory_does_not_grow_with_the_backlog(engine: str) -> None:
    """Sending the last thousands takes the memory that the first took; all arrive."""
    arguments = ["--references", "40000", "--every", "4000", "--json"]
    if engine == "postgresql":
        services.postgresql_server()
        arguments.append("--postgresql")
    process = subprocess.run(
        [sys.executable, "-m", "tests.limits.backlog", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    printed = json.loads(process.stdout)
    assert printed["received"] == printed["spans"] == 40_800
    assert printed["waiting"] == 0
    resident = [line["rss"] for line in printed["lines"]]
    assert len(resident) > 8
    # A snapshot and its span are some kilobytes: kept, those of the last 30 000 would be a hundred megabytes.
    assert max(resident[2:]) < resident[1] + 15


@pytest.mark.slow
def test_no_statement_of_a_sender_looks_at_everything(sqlite_url: str) -> None:
    """Claiming, renewing, settling, holding and giving back find what they need by an index, in its order."""
    exporter = Counting()
    with opened(sqlite_url, exporter) as storage:
        fill(storage.records, 8000)
        with statements(storage) as executed:
            exporter.is_up = False
            assert storage.delivery.deliver_due().error
            # Runs whose spans wait for those of their results are held.
            storage.records.outbox.claim_runs(64, timedelta(minutes=1), storage.delivery._sender._rules.settling)
            exporter.is_up = True
            storage.delivery.deliver_due(retry_now=False)
            storage.delivery.deliver_due()
        assert exporter.spans > 8000
        kinds = {statement.split(" ")[0] for statement, _ in executed}
        assert kinds == {"SELECT", "UPDATE", "DELETE"}
        # Leave out the search for the oldest reference, which reads the whole outbox but is rare.
        looks = [found for found in executed if not found[0].startswith("SELECT min(")]
        scans = {
            f"{statement}: {step}" for statement, parameters in looks for step in _plan(storage, statement, parameters)
        }
    assert sorted(scans) == []


def _plan(storage: OtelPipelineStorage, statement: str, parameters: Any) -> list[str]:
    """The steps of SQLite's plan that read all rows of a table, or sort them.

    The keys of a claim come as one value: that those are all read is no look at the table (``Policy.among``).
    """
    with storage.records.database.read() as connection:
        steps = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    return [
        step for step in steps if "TEMP B-TREE" in step or (step.startswith("SCAN") and "VIRTUAL TABLE" not in step)
    ]


@pytest.mark.parametrize("change", ["hasten", "expire"])
def test_writers_go_on_while_a_backlog_is_changed(database_url: str, change: str) -> None:
    """Making a whole backlog due, or expired, is many small transactions: who waits gets between."""
    with opened(database_url) as storage:
        fill(storage.records, 3000, attempts=3, age=timedelta(days=8))
        engine = storage.records.database.engine
        changed: list[int] = []

        def execute(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith("UPDATE"):
                changed.append(cursor.rowcount)

        def commit(_connection: Any) -> None:
            changed.append(0)

        event.listen(engine, "after_cursor_execute", execute)
        event.listen(engine, "commit", commit)
        if change == "hasten":
            storage.records.outbox.hasten()
        else:
            assert storage.records.outbox.expire(timedelta(days=7)) == 3000
        status = storage.records.outbox.status()
    assert (status.due if change == "hasten" else status.expired) == 3000
    in_each = [sum(group) for commits, group in itertools.groupby(changed, key=bool) if commits]
    assert sum(in_each) == 3000
    assert max(in_each) <= references._CHUNK


def test_a_lease_is_left_alone(database_url: str) -> None:
    """References leased to another sender become neither due nor expired."""
    with opened(database_url) as storage:
        fill(storage.records, 100, age=timedelta(days=8))
        records = storage.records.outbox
        held = records.claim_task_results(10, timedelta(minutes=1))
        records.hasten()
        assert records.expire(timedelta(days=7)) == 90
        assert records.settle(held.token, [claim.reference_id for claim in held.claims]) == 10


def test_a_flush_leaves_a_replay_its_rate(database_url: str) -> None:
    """References of a replay that were never tried stay due later; references that failed before are due now."""
    with opened(database_url) as storage:
        fill(storage.records, 100, age=timedelta(hours=-1))
        fill(storage.records, 100, attempts=1, age=timedelta(hours=-1))
        before = storage.records.outbox.status()
        storage.records.outbox.hasten(tried_only=True)
        after = storage.records.outbox.status()
        assert (after.due - before.due, before.retrying - after.retrying) == (100, 100)
        storage.records.outbox.hasten()
        assert storage.records.outbox.status().retrying == 0


def test_expiry_is_counted_and_loud(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """All that is too old is counted in one line of the log, and is not sent; what is younger is."""
    exporter = Counting()
    with opened(database_url, exporter) as storage:
        fill(storage.records, 2000, age=timedelta(days=8))
        fill(storage.records, 100)
        with caplog.at_level(logging.ERROR, "otel_storage"):
            report = storage.delivery.deliver_due()
        assert report.expired == 2000
        assert (report.sent, report.settled, exporter.spans) == (102, 100, 102)
        assert storage.records.outbox.status().expired == 2000
    said = [record.getMessage() for record in caplog.records]
    assert said == ["2000 references to unsent spans are older than 7 days, 0:00:00 and will not be sent"]


def test_what_grows_old_later_expires_then(database_url: str) -> None:
    """A sender that found nothing old looks again when the oldest can be, and not before."""
    now = clock.now()
    with opened(database_url, clock=lambda: now) as storage:
        fill(storage.records, 100, age=timedelta(days=5))
        expire = storage.records.outbox.expire
        with statements(storage) as executed:
            assert [expire(timedelta(days=7)), expire(timedelta(days=7))] == [0, 0]
            now += timedelta(days=1)
            assert expire(timedelta(days=7)) == 0
            assert len(executed) == 1
            now += timedelta(days=1, minutes=5)  # filling took some of it
            assert expire(timedelta(days=7)) == 100


def test_old_runs_are_claimed_in_order(database_url: str) -> None:
    """Runs that were held and runs that were not are looked at in the order in which they are due."""
    with opened(database_url) as storage:
        fill(storage.records, 600)
        table = schema.outbox
        delete = table.delete().where(table.c.kind == "TaskResult")
        storage.records.database.write(lambda connection: connection.execute(delete))
        with storage.records.database.read() as connection:
            ids = connection.execute(select(table.c.id).order_by(table.c.due)).scalars().all()
        hold = update(table).where(table.c.id.in_(ids[::2])).values(state=references.HELD)
        storage.records.database.write(lambda connection: connection.execute(hold))
        settling = storage.delivery._sender._rules.settling
        claimed = [
            claim.reference_id
            for _ in range(3)
            for claim in storage.records.outbox.claim_runs(2, timedelta(minutes=1), settling).claims
        ]
        assert claimed == list(ids)
