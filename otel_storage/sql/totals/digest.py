"""The digest, and the number of runs: the totals of the stored runs, plus the runs that no total contains yet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    CompoundSelect,
    Select,
    bindparam,
    case,
    cast,
    exists,
    func,
    literal,
    select,
    union_all,
)
from sqlalchemy.sql.elements import ColumnElement

from otel_storage.results import host
from otel_storage.results.base import PipelineDigest, PipelineDigestItem
from otel_storage.results.status import FAILED, PipelineTaskStatus
from otel_storage.sql.database import schema
from otel_storage.sql.database.durations import microseconds_between
from otel_storage.sql.database.types import UtcDateTime
from otel_storage.sql.totals import counting
from otel_storage.sql.totals.additions import later

if TYPE_CHECKING:
    from otel_storage.sql.database.engine import Database

_run = schema.pipeline_execution
_total = schema.total

_IS_ACTIVE = _run.c.status.in_(PipelineTaskStatus.non_final_statuses())


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
        self.last_ran = later(self.last_ran, row.last_ran)

    def item(self) -> PipelineDigestItem:
        return PipelineDigestItem(
            total_runs=self.runs,
            total_success=self.successes,
            total_failure=self.failures,
            last_ran=host.present(self.last_ran),
            average_runtime=timedelta(microseconds=self.runtime) / self.timed if self.timed else None,
        )


def read(database: Database) -> tuple[PipelineDigest, int]:
    """The figures of each pipeline that has a run, and the number of finished runs that no total contains."""
    pipelines: dict[str, _Figures] = {}
    uncounted = 0
    with database.read() as connection:
        for row in connection.execute(_STATEMENT):
            pipelines.setdefault(row.pipeline_id, _Figures()).add(row)
            uncounted += int(row.uncounted)
    return {pipeline_id: pipelines[pipeline_id].item() for pipeline_id in sorted(pipelines)}, uncounted


def count_runs(database: Database, pipeline_id: str | None) -> int:
    """The number of stored runs, of all pipelines or of one, equal to a COUNT but computed from the totals.

    If there are no totals (no process counts), the number comes from a COUNT of all runs.
    """
    parameters = {} if pipeline_id is None else {"pipeline_id": pipeline_id}
    with database.read() as connection:
        return int(connection.execute(_RUNS if pipeline_id is None else _RUNS_OF_PIPELINE, parameters).scalar_one())


def _number_of_runs(pipeline_id: Any = None) -> Select[Any]:
    """One statement, so that all its parts see one state; engines evaluate only the branch of CASE that is needed."""
    of_pipeline = [] if pipeline_id is None else [_run.c.pipeline_id == pipeline_id]
    # Concatenating "" keeps engines from the index of the pipelines: uncounted runs are few and have their own index.
    uncounted = [] if pipeline_id is None else [_run.c.pipeline_id.concat("") == pipeline_id]
    of_totals = [_total.c.pipeline_task == "", _total.c.counted > 0]
    if pipeline_id is not None:
        of_totals.append(_total.c.pipeline_id == pipeline_id)

    def number(*conditions: Any) -> Any:
        return select(func.count()).select_from(_run).where(*conditions).scalar_subquery()

    living = select(func.sum(_total.c.counted - _total.c.removed)).where(*of_totals).scalar_subquery()
    by_totals = living + number(counting.is_uncounted(_run), *uncounted) + number(_IS_ACTIVE, *of_pipeline)
    return select(case((exists(select(_total.c.id).where(*of_totals)), by_totals), else_=number(*of_pipeline)))


_RUNS = _number_of_runs()
_RUNS_OF_PIPELINE = _number_of_runs(bindparam("pipeline_id", type_=_run.c.pipeline_id.type))


def _of_totals() -> Any:
    """The counted runs that are not removed, with the last start of any run of the pipeline, counted or not."""
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
        literal(0).label("uncounted"),
    ).where(_total.c.pipeline_task == "", _total.c.counted > _total.c.removed)


def _of_runs(condition: ColumnElement[bool] | Any, *, is_final: bool) -> Any:
    between = microseconds_between(_run.c.started, _run.c.completed)
    # The clock of the end may have been behind that of the start.
    runtime = case((between < 0, 0), else_=between)
    return (
        select(
            _run.c.pipeline_id,
            _run.c.status,
            func.count().label("number"),
            func.count(runtime).label("timed"),
            cast(func.sum(runtime), BigInteger).label("runtime"),
            func.max(_run.c.started, type_=UtcDateTime()).label("last_ran"),
            (func.count() if is_final else literal(0)).label("uncounted"),
        )
        .where(condition)
        .group_by(_run.c.pipeline_id, _run.c.status)
    )


def _statement() -> CompoundSelect[Any]:
    """All figures in one statement, so that they see one state: another process may count a run at any time."""
    return union_all(
        _of_totals(), _of_runs(counting.is_uncounted(_run), is_final=True), _of_runs(_IS_ACTIVE, is_final=False)
    )


_STATEMENT = _statement()
