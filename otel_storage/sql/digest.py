"""The digest: the totals of the runs that are there, and the runs that are in none yet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, CompoundSelect, cast, func, select, union_all
from sqlalchemy.sql.elements import ColumnElement

from otel_storage.results import host
from otel_storage.results.base import PipelineDigest, PipelineDigestItem
from otel_storage.results.status import FAILED, PipelineTaskStatus
from otel_storage.sql import schema
from otel_storage.sql.durations import microseconds_between
from otel_storage.sql.types import UtcDateTime

if TYPE_CHECKING:
    from otel_storage.sql.engine import Database

_run = schema.pipeline_execution
_total = schema.total


@dataclass(slots=True)
class _Figures:
    runs: int = 0
    successes: int = 0
    failures: int = 0
    timed: int = 0
    runtime: int = 0
    last_ran: datetime | None = None

    def add(self, row: Any) -> None:
        self.runs += int(row.number)
        if row.status is PipelineTaskStatus.DONE:
            self.successes += int(row.number)
        elif row.status in FAILED:
            self.failures += int(row.number)
        self.timed += int(row.timed)
        self.runtime += int(row.runtime or 0)
        self.last_ran = max(filter(None, (self.last_ran, row.last_ran)), default=None)

    def item(self) -> PipelineDigestItem:
        return PipelineDigestItem(
            total_runs=self.runs,
            total_success=self.successes,
            total_failure=self.failures,
            last_ran=host.present(self.last_ran),
            average_runtime=timedelta(microseconds=self.runtime) / self.timed if self.timed else None,
        )


def read(database: Database) -> PipelineDigest:
    """The figures of each pipeline that has a run."""
    pipelines: dict[str, _Figures] = {}
    with database.read() as connection:
        for row in connection.execute(_STATEMENT):
            pipelines.setdefault(row.pipeline_id, _Figures()).add(row)
    return {pipeline_id: pipelines[pipeline_id].item() for pipeline_id in sorted(pipelines)}


def _of_totals() -> Any:
    """The runs that are counted and not removed; when the last run of the pipeline started, counted or not."""
    of_pipeline = (
        select(_run.c.started)
        .where(_run.c.pipeline_id == _total.c.pipeline_id, _run.c.started.is_not(None))
        .order_by(_run.c.started.desc())
        .limit(1)
        .correlate(_total)
        .scalar_subquery()
    )
    return select(
        _total.c.pipeline_id,
        _total.c.status,
        (_total.c.counted - _total.c.removed).label("number"),
        _total.c.timed,
        _total.c.runtime,
        of_pipeline.label("last_ran"),
    ).where(_total.c.pipeline_task == "", _total.c.counted > _total.c.removed)


def _of_runs(condition: ColumnElement[bool] | Any) -> Any:
    runtime = microseconds_between(_run.c.started, _run.c.completed)
    return (
        select(
            _run.c.pipeline_id,
            _run.c.status,
            func.count().label("number"),
            func.count(runtime).label("timed"),
            cast(func.sum(runtime), BigInteger).label("runtime"),
            func.max(_run.c.started, type_=UtcDateTime()).label("last_ran"),
        )
        .where(condition)
        .group_by(_run.c.pipeline_id, _run.c.status)
    )


def _statement() -> CompoundSelect[Any]:
    """All in one statement, so that it sees one state: a run is counted by another process at any time."""
    is_active = _run.c.status.in_(PipelineTaskStatus.non_final_statuses())
    return union_all(_of_totals(), _of_runs(schema.IS_UNCOUNTED), _of_runs(is_active))


_STATEMENT = _statement()
