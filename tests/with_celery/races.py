"""Runs whose eight task results end at the same time, some of them failing, in eight children of a Celery worker.

``python -m tests.with_celery.races [--runs N] [--url URL]``, in a checkout, prints what this package's storage and the
host's own ORM storage make of them. It needs a Redis: ``OTEL_STORAGE_TEST_REDIS_URL``.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from otel_storage.results.status import FAILED, FINAL
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.receiver import OtlpReceiver
from tests import services
from tests.with_celery.site import PATIENCE, Site, is_delivered, wait_until
from tests.with_celery.traces import contains, our_spans, trace_id

FAILED_NAMES = {status.value for status in FAILED}
FINAL_NAMES = {status.value for status in FINAL}
QUIET = 2.0
"""Seconds without a message and a report after which a race is over, once every task result has ended."""
LONG_QUIET = 20.0
"""The same where some have not: they never will."""


@dataclass
class Outcome:
    """The result of a race."""

    runs: int
    seconds: float
    task_results: int = 0
    failures: int = 0
    """Task results that failed."""
    unfinished: int = 0
    """Task results that are not final."""
    lost: Counter[str] = field(default_factory=Counter)
    """Records that did not fail although a task result below them did, by their kind."""
    transitions: int = 0
    """Changes of state that were reported, each counted once."""
    reported_twice: Counter[str] = field(default_factory=Counter)
    """Of these, how many were reported more than once, by the kind of record and the state."""
    traces: int | None = None
    """None: the storage makes none."""
    roots: int | None = None
    spans: int | None = None
    missing: int | None = None
    """Records without a span."""
    outside: int | None = None
    """Spans that do not lie within their parent's."""

    def as_json(self) -> dict[str, Any]:
        """All of it, with the sums."""
        return {
            **vars(self),
            "lost_in_parents": self.lost.total(),
            "transitions_reported_twice": self.reported_twice.total(),
        }


def race_ours(folder: Path, url: str, runs: int, concurrency: int) -> Outcome:
    """Race over this package's storage, and receive its spans."""
    with services.redis_prefix() as prefix, OtlpReceiver() as receiver, closing(SqlPipelineStorage(url)) as storage:
        storage.upgrade()
        environment = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.traces_endpoint}
        setting = ["otel_storage.OtelPipelineStorage", {"url": url}]
        site = Site(folder, setting, prefix, environment=environment)
        outcome, run_ids = _race(site, runs, concurrency, lambda: is_delivered(storage))
        _look_at_spans(outcome, receiver, run_ids)
        return outcome


def race_hosts(folder: Path, runs: int, concurrency: int) -> Outcome:
    """Race over the host's ORM storage, on SQLite."""
    with services.redis_prefix() as prefix:
        site = Site(folder, "pipelines.results.orm.OrmPipelineResultsStorage", prefix)
        return _race(site, runs, concurrency, lambda: True)[0]


def _race(site: Site, runs: int, concurrency: int, is_delivered: Callable[[], bool]) -> tuple[Outcome, list[str]]:
    run_ids = site.client("--prepare", *["Race"] * runs)
    began = time.monotonic()
    with site.worker(concurrency):
        _wait_for_quiet(site, runs * 8)
        ended = time.monotonic() - QUIET
        wait_until(is_delivered, "all spans are delivered")
    outcome = Outcome(runs=runs, seconds=round(ended - began, 1))
    _look_at_states(outcome, site.client("--trees"))
    reports = Counter((report.kind, report.id, report.status) for report in site.reports)
    outcome.transitions = len(reports)
    outcome.reported_twice.update(f"{kind} {status}" for (kind, _, status), count in reports.items() if count > 1)
    return outcome, run_ids


def _wait_for_quiet(site: Site, task_results: int) -> None:
    seen, since = -1, time.monotonic()

    def is_quiet() -> bool:
        nonlocal seen, since
        reports = site.reports
        if len(reports) != seen or not site.is_idle():
            seen, since = len(reports), time.monotonic()
        ended = {report.id for report in reports if report.kind == "TaskResult" and report.status in FINAL_NAMES}
        return time.monotonic() - since > (QUIET if len(ended) == task_results else LONG_QUIET)

    wait_until(is_quiet, "the worker has nothing to do", PATIENCE + task_results)


def _look_at_states(outcome: Outcome, trees: dict[str, Any]) -> None:
    for run in trees.values():
        failed_run = False
        for result in run["results"]:
            failed_result = False
            for task in result["tasks"]:
                statuses = task["results"]
                outcome.task_results += len(statuses)
                failed = sum(status in FAILED_NAMES for status in statuses)
                outcome.failures += failed
                outcome.unfinished += sum(status not in FINAL_NAMES for status in statuses)
                failed_result |= failed > 0
                _note_loss(outcome, "TaskExecution", task, failed > 0)
            failed_run |= failed_result
            _note_loss(outcome, "PipelineResult", result, failed_result)
        _note_loss(outcome, "PipelineExecution", run, failed_run)


def _note_loss(outcome: Outcome, kind: str, record: dict[str, Any], has_failed: bool) -> None:
    if has_failed and record["status"] not in FAILED_NAMES:
        outcome.lost[kind] += 1


def _look_at_spans(outcome: Outcome, receiver: OtlpReceiver, run_ids: list[str]) -> None:
    traces = receiver.traces()
    outcome.traces = len(traces)
    outcome.roots = outcome.spans = outcome.missing = outcome.outside = 0
    for run_id in run_ids:
        spans = our_spans(receiver, run_id)
        roots = [span for span in traces.get(trace_id(run_id), []) if not span.parent_span_id]
        outcome.roots += len(roots)
        outcome.spans += len(spans)
        outcome.missing += 3 + 8 - len(spans)
        outcome.outside += sum(
            span.parent_span_id not in spans or not contains(spans[span.parent_span_id], span)
            for span in spans.values()
            if span.parent_span_id
        )


@click.command()
@click.option("--runs", default=100, show_default=True)
@click.option("--concurrency", default=8, show_default=True, help="Children of the worker.")
@click.option("--url", help="An empty PostgreSQL database for this package's storage; a SQLite file if left out.")
@click.option("--json", "as_json", is_flag=True)
def main(runs: int, concurrency: int, url: str | None, as_json: bool) -> None:
    """Race over both storages."""
    if not services.REDIS_URL:
        raise click.UsageError("set OTEL_STORAGE_TEST_REDIS_URL to redis://HOST:PORT/DATABASE")
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / name for name in ("ours", "hosts")]
        for place in places:
            place.mkdir()
        outcomes = {
            "OtelPipelineStorage": race_ours(places[0], url or f"sqlite:///{places[0] / 'runs.db'}", runs, concurrency),
            "the host's ORM storage": race_hosts(places[1], runs, concurrency),
        }
    if as_json:
        click.echo(json.dumps({name: outcome.as_json() for name, outcome in outcomes.items()}))
    else:
        _print(outcomes, runs, concurrency)


def _print(outcomes: dict[str, Outcome], runs: int, concurrency: int) -> None:
    table = Table(title=f"{runs} runs of 8 parallel task results, a prefork worker of {concurrency}")
    table.add_column("")
    for name in outcomes:
        table.add_column(name, justify="right")
    rows: dict[str, Callable[[Outcome], int | float | None]] = {
        "task results": lambda o: o.task_results,
        "- that failed": lambda o: o.failures,
        "- that never ended": lambda o: o.unfinished,
        "failures lost in a parent": lambda o: o.lost.total(),
        "- in a task execution": lambda o: o.lost["TaskExecution"],
        "- in a pipeline result": lambda o: o.lost["PipelineResult"],
        "- in a run": lambda o: o.lost["PipelineExecution"],
        "transitions": lambda o: o.transitions,
        "- reported twice or more": lambda o: o.reported_twice.total(),
        "traces": lambda o: o.traces,
        "roots": lambda o: o.roots,
        "spans": lambda o: o.spans,
        "records without a span": lambda o: o.missing,
        "spans outside their parent": lambda o: o.outside,
        "seconds": lambda o: o.seconds,
    }
    for title, figure in rows.items():
        table.add_row(title, *("-" if figure(o) is None else str(figure(o)) for o in outcomes.values()))
    Console().print(table)
    for name, outcome in outcomes.items():
        twice = ", ".join(f"{count} x {what}" for what, count in outcome.reported_twice.most_common())
        if twice:
            click.echo(f"{name} reported twice: {twice}")


if __name__ == "__main__":
    main()
