"""Listing runs: the pages that the host's list has, and those of ``otel-storage runs``, however many there are."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import URL

from otel_storage import PipelineTaskStatus as Status
from otel_storage import SqlPipelineStorage
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.history import OTHER_PIPELINE, PIPELINE
from tests.benchmarks.measuring import Databases, counted

SIZES = (1_000, 20_000, 1_000_000)
PAGE = 30

_COUNT = "SELECT count(*) FROM otel_storage_pipeline_execution WHERE pipeline_id = '{}'"
_OFFSET = "SELECT * FROM otel_storage_pipeline_execution WHERE pipeline_id = '{}' ORDER BY id DESC LIMIT {} OFFSET {}"


def measure(databases: Databases, scale: Scale) -> Iterator[Figure]:
    """List the runs of long histories."""
    engine = databases.engine
    keyset: list[list[float]] = []
    for size in SIZES:
        runs = max(scale.of(size), 10 * PAGE)
        with (
            closing(SqlPipelineStorage(databases.history(runs))) as storage,
            _connected(storage.database.engine.url) as bare,
        ):
            work = f"runs by the page of {PAGE}, of {size:_}".replace("_", " ")
            # Others between the first pages would have it read anew what they need.
            first = _medians(_ours_and_bare(storage, bare, 1), scale)
            yield Figure(work, engine, "first, ms", 1000 * first["ours"], at_most=10)
            yield Figure(work, engine, "first, a bare COUNT and OFFSET, ms", 1000 * first["bare"])
            if size == SIZES[-1]:
                for name, number in (("middle", runs // PAGE // 2), ("last", -(-runs // PAGE))):
                    seconds = _medians(_ours_and_bare(storage, bare, number), scale)
                    ratio = seconds["ours"] / seconds["bare"]
                    yield Figure(work, engine, f"{name}, x a bare COUNT and OFFSET", ratio, at_most=1)
            with counted(storage) as statements:
                _page(storage, 1)
            yield Figure(work, engine, "queries", len(statements), at_most=2, is_guarded=True)
            keyset.append([*_medians(_keyset_pages(storage, runs), scale).values()])
    work = "otel-storage runs, any page of 1 000 000"
    yield Figure(work, engine, "slowest of all filters, ms", 1000 * max(keyset[-1]), at_most=10)
    ratio = sum(keyset[-1]) / sum(keyset[0])
    yield Figure(work, engine, "all filters, x those of 1 000 runs", ratio, at_most=2, is_guarded=True)


def _ours_and_bare(storage: SqlPipelineStorage, bare: Any, number: int) -> dict[str, Callable[[], object]]:
    return {"ours": partial(_page, storage, number), "bare": partial(_bare_page, bare, number)}


def _page(storage: SqlPipelineStorage, number: int) -> list[Any]:
    """What the host's list view and its template ask for."""
    from django.core.paginator import Paginator

    page = Paginator(storage.get_pipeline_executions(PIPELINE), PAGE).page(number)
    return [
        (run.get_run_id(), run.get_status(), run.task_result_count, run.started, run.duration)
        for run in page.object_list
    ]


def _bare_page(connection: Any, number: int) -> None:
    cursor = connection.cursor()
    [[_]] = cursor.execute(_COUNT.format(PIPELINE)).fetchall()
    cursor.execute(_OFFSET.format(PIPELINE, PAGE, (number - 1) * PAGE)).fetchall()


def _keyset_pages(storage: SqlPipelineStorage, runs: int) -> dict[str, Callable[[], object]]:
    """The command's pages at the newest, the middle and the oldest run, by filters that find many, few and none."""
    newest = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=30) * (runs + runs // 100)
    filters: list[dict[str, Any]] = [
        {},
        {"pipeline_id": PIPELINE},
        {"pipeline_id": OTHER_PIPELINE},
        {"statuses": [Status.DONE]},
        {"statuses": [Status.CANCELLED]},
        {"statuses": [Status.RUNNING, Status.CANCELLED]},
        {"pipeline_id": PIPELINE, "statuses": [Status.RUNTIME_ERROR]},
        {"pipeline_id": OTHER_PIPELINE, "statuses": [Status.RUNTIME_ERROR]},
        {"pipeline_id": PIPELINE, "statuses": [Status.VALIDATION_ERROR, Status.RUNNING]},
        {"since": newest - timedelta(minutes=5)},
        {"since": newest - timedelta(seconds=15 * runs)},
        {"since": newest - timedelta(minutes=5), "pipeline_id": PIPELINE},
    ]
    return {
        f"{given} before {before}": partial(storage.list_runs, before_id=before, limit=21, **given)
        for given in filters
        for before in (None, runs // 2, 21)
    }


def _medians(contenders: dict[Any, Callable[[], object]], scale: Scale) -> dict[Any, float]:
    seconds: dict[Any, list[float]] = {name: [] for name in contenders}
    for _ in range(1 + scale.repeat):
        for name, work in contenders.items():
            began = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began)
    # The first of each warms what it reads: a page that nobody has asked for in days is another question.
    return {name: statistics.median(taken[1:]) for name, taken in seconds.items()}


def _connected(url: URL) -> Any:
    """A connection of the bare driver's."""
    if url.get_backend_name() == "sqlite":
        import sqlite3

        return closing(sqlite3.connect(str(url.database)))
    import psycopg

    conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return closing(psycopg.connect(conninfo, autocommit=True))
