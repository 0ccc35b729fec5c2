"""Turns figures into the points of every metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

from otel_storage.metrics.families import (
    EXECUTING,
    FAMILIES,
    LAST_FAILURE,
    LAST_SUCCESS,
    OUTBOX_ENTRIES,
    OUTBOX_OLDEST_AGE,
    OUTBOX_STATE,
    OVERFLOW,
    PENDING,
    RUN_ACTIVE,
    RUN_DURATION,
    RUN_ERRORS,
    RUN_LAST_COMPLETED,
    RUN_LAST_STARTED,
    RUN_OLDEST_AGE,
    RUNS,
    SENDERS,
    TASK_DURATION,
    TASK_OLDEST_AGE,
    TASK_QUEUE_TIME,
    TASK_RESULTS,
    TASK_RUNNING,
    WATCHING,
    Family,
    Kind,
)
from otel_storage.ports.outcomes import CANCELLATION, SUCCESS
from otel_storage.ports.totals import MOST_SERIES, Figures, Histogram, Total
from otel_storage.results.kinds import PIPELINE_EXECUTION, TASK_RESULT
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.telemetry.semconv import (
    CICD_PIPELINE_NAME,
    CICD_PIPELINE_RESULT,
    CICD_PIPELINE_RUN_STATE,
    CICD_PIPELINE_TASK_NAME,
)
from otel_storage.telemetry.spans import ids
from otel_storage.telemetry.spans.attributes import STATUS, is_error


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A record that a point counts, identified by its span."""

    trace_id: int
    span_id: int
    value: float
    at: datetime


Attributes = tuple[tuple[str, str | bool], ...]


@dataclass(slots=True)
class Point:
    """The value of one series."""

    value: int | float | Histogram
    start: datetime | None = None
    """When counting began; None for a value that is not a counter."""
    exemplar: Exemplar | None = None


@dataclass(frozen=True, slots=True)
class FamilyPoints:
    """A metric and the values of its series."""

    family: Family
    points: Mapping[Attributes, Point]


_OVERFLOWN: Attributes = ((OVERFLOW, True),)
_STATES = {PipelineTaskStatus.PENDING: PENDING, PipelineTaskStatus.RUNNING: EXECUTING}


def families(figures: Figures, most_series: int = MOST_SERIES) -> list[FamilyPoints]:
    """The metrics of the figures, each with its points.

    Args:
        figures: The figures of the storage.
        most_series: How many pipelines and tasks have series of their own: those that were known first. All others
            share one series, whose only attribute is ``otel.metric.overflow``.
    """
    points = _Points(figures, most_series)
    for total in figures.totals:
        if total.pipeline_task:
            _add_task(points, total)
        else:
            _add_run(points, total)
    _add_active(points, figures)
    _add_delivery(points, figures)
    return [FamilyPoints(family, points.of(family)) for family in FAMILIES]


class _Points:
    """The points of every family, in no particular order."""

    def __init__(self, figures: Figures, most_series: int) -> None:
        pairs = dict.fromkeys((total.pipeline_id, total.pipeline_task) for total in figures.totals)
        pairs |= dict.fromkeys((active.pipeline_id, active.pipeline_task) for active in figures.active)
        self._told_apart = set(list(pairs)[:most_series])
        self._points: dict[str, dict[Attributes, Point]] = {family.name: {} for family in FAMILIES}

    def of(self, family: Family) -> Mapping[Attributes, Point]:
        return self._points[family.name]

    def add(
        self,
        family: Family,
        attributes: Mapping[str, str | bool],
        value: float | Histogram,
        *,
        start: datetime | None = None,
        exemplar: Exemplar | None = None,
    ) -> None:
        """Add the value to the series' value."""
        pipeline, task = attributes.get(CICD_PIPELINE_NAME), attributes.get(CICD_PIPELINE_TASK_NAME, "")
        is_told = pipeline is None or (pipeline, task) in self._told_apart
        key = tuple(attributes.items()) if is_told else _OVERFLOWN
        series = self._points[family.name]
        point = series.get(key)
        if point is None:
            series[key] = Point(value, start, exemplar)
            return
        point.value = _joined(family.kind, point.value, value)
        point.start = min(filter(None, (point.start, start)), default=None)
        newest = [one for one in (point.exemplar, exemplar) if one is not None]
        point.exemplar = max(newest, key=lambda one: one.at, default=None)


def _joined(kind: Kind, one: Any, other: Any) -> Any:
    return max(one, other) if kind is Kind.GAUGE else one + other


def _add_run(points: _Points, total: Total) -> None:
    of_pipeline = {CICD_PIPELINE_NAME: total.pipeline_id}
    status = total.status.value
    counted = _exemplar(total, 1.0)
    points.add(RUNS, {**of_pipeline, STATUS: status}, total.count, start=total.created, exemplar=counted)
    if is_error(total.status):
        points.add(RUN_ERRORS, {**of_pipeline, ERROR_TYPE: status}, total.count, start=total.created, exemplar=counted)
    _add_durations(points, total)
    if total.last_started is not None:
        points.add(RUN_LAST_STARTED, of_pipeline, total.last_started.timestamp())
    if total.last_completed is not None:
        points.add(RUN_LAST_COMPLETED, {**of_pipeline, STATUS: status}, total.last_completed.timestamp())


def _add_durations(points: _Points, total: Total) -> None:
    traced = total.last_traced
    for state, histogram, value in (
        (PENDING, total.queue, None if traced is None else traced.queue),
        (EXECUTING, total.execution, None if traced is None else traced.execution),
    ):
        # A histogram has many series: leave out those of failures and cancellations that never occurred.
        if not histogram.count and total.outcome != SUCCESS:
            continue
        attributes = {
            CICD_PIPELINE_NAME: total.pipeline_id,
            CICD_PIPELINE_RUN_STATE: state,
            CICD_PIPELINE_RESULT: total.outcome,
        }
        if total.outcome not in (SUCCESS, CANCELLATION):
            attributes[ERROR_TYPE] = total.status.value
        points.add(RUN_DURATION, attributes, histogram, start=total.created, exemplar=_exemplar(total, value))


def _add_task(points: _Points, total: Total) -> None:
    of_task = {CICD_PIPELINE_NAME: total.pipeline_id, CICD_PIPELINE_TASK_NAME: total.pipeline_task}
    traced = total.last_traced
    points.add(
        TASK_RESULTS,
        {**of_task, STATUS: total.status.value},
        total.count,
        start=total.created,
        exemplar=_exemplar(total, 1.0),
    )
    for family, histogram, value in (
        (TASK_DURATION, total.execution, None if traced is None else traced.execution),
        (TASK_QUEUE_TIME, total.queue, None if traced is None else traced.queue),
    ):
        points.add(family, of_task, histogram, start=total.created, exemplar=_exemplar(total, value))


def _exemplar(total: Total, value: float | None) -> Exemplar | None:
    traced = total.last_traced
    if traced is None or value is None:
        return None
    kind = TASK_RESULT if total.pipeline_task else PIPELINE_EXECUTION
    return Exemplar(ids.trace_id(traced.run_id), ids.span_id(kind, traced.record_id), value, traced.at)


def _add_active(points: _Points, figures: Figures) -> None:
    """The records that are not final; the value is 0 for a state that no record is in."""
    known = {(total.pipeline_id, total.pipeline_task) for total in figures.totals}
    known |= {(active.pipeline_id, active.pipeline_task) for active in figures.active}
    for pipeline_id, pipeline_task in sorted(known):
        of_pipeline = {CICD_PIPELINE_NAME: pipeline_id}
        if pipeline_task:
            of_task = {**of_pipeline, CICD_PIPELINE_TASK_NAME: pipeline_task}
            points.add(TASK_RUNNING, of_task, 0)
            points.add(TASK_OLDEST_AGE, of_task, 0.0)
            continue
        for state in _STATES.values():
            points.add(RUN_ACTIVE, {**of_pipeline, CICD_PIPELINE_RUN_STATE: state}, 0)
            points.add(RUN_OLDEST_AGE, {**of_pipeline, CICD_PIPELINE_RUN_STATE: state}, 0.0)
    for active in figures.active:
        # The clocks of several hosts always differ a little: an age is never negative.
        age = max((figures.at - active.oldest).total_seconds(), 0.0)
        of_pipeline = {CICD_PIPELINE_NAME: active.pipeline_id}
        if active.pipeline_task:
            of_task = {**of_pipeline, CICD_PIPELINE_TASK_NAME: active.pipeline_task}
            points.add(TASK_RUNNING, of_task, active.count)
            points.add(TASK_OLDEST_AGE, of_task, age)
            continue
        in_state = {**of_pipeline, CICD_PIPELINE_RUN_STATE: _STATES[active.status]}
        points.add(RUN_ACTIVE, in_state, active.count)
        points.add(RUN_OLDEST_AGE, in_state, age)
        if active.last_started is not None:
            points.add(RUN_LAST_STARTED, of_pipeline, active.last_started.timestamp())


def _add_delivery(points: _Points, figures: Figures) -> None:
    outbox, sending = figures.outbox, figures.sending
    for state in ("due", "retrying", "leased", "held", "open", "refused", "expired"):
        points.add(OUTBOX_ENTRIES, {OUTBOX_STATE: state}, getattr(outbox, state))
    age = 0.0 if outbox.oldest is None else max((figures.at - outbox.oldest).total_seconds(), 0.0)
    points.add(OUTBOX_OLDEST_AGE, {}, age)
    if sending.last_success is not None:
        points.add(LAST_SUCCESS, {}, sending.last_success.timestamp())
    if sending.last_failure is not None:
        points.add(LAST_FAILURE, {}, sending.last_failure.timestamp())
    points.add(SENDERS, {WATCHING: True}, sending.watching)
    points.add(SENDERS, {WATCHING: False}, sending.others)


def sorted_points(points: Mapping[Attributes, Point]) -> Iterator[tuple[Attributes, Point]]:
    """The points sorted by their attributes, so that the order never changes."""
    return iter(sorted(points.items(), key=lambda item: [(name, str(value)) for name, value in item[0]]))
