"""Every metric that we have: its name, unit, meaning and attributes; and how figures become its points.

Three are OpenTelemetry's semantic conventions for CI/CD; ours are in one namespace, ``otel_storage``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from opentelemetry.semconv._incubating.attributes.cicd_attributes import (
    CICD_PIPELINE_NAME,
    CICD_PIPELINE_RESULT,
    CICD_PIPELINE_RUN_STATE,
    CICD_PIPELINE_TASK_NAME,
    CicdPipelineRunStateValues,
)
from opentelemetry.semconv._incubating.metrics.cicd_metrics import (
    CICD_PIPELINE_RUN_ACTIVE,
    CICD_PIPELINE_RUN_DURATION,
    CICD_PIPELINE_RUN_ERRORS,
)
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

from otel_storage.ports.outcomes import CANCELLATION, SUCCESS
from otel_storage.ports.totals import MOST_SERIES, Figures, Histogram, Total
from otel_storage.results.kinds import PIPELINE_EXECUTION, TASK_RESULT
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.telemetry.spans import ids
from otel_storage.telemetry.spans.attributes import STATUS, is_error

OUTBOX_STATE = "otel_storage.outbox.state"
"""What references wait for: due, retrying, leased, held, open, refused or expired."""
WATCHING = "otel_storage.sender.watching"
"""Whether sending is all that a process does."""
OVERFLOW = "otel.metric.overflow"
"""The one attribute of what all pipelines and tasks that are not told apart come to: OpenTelemetry's rule."""

PENDING = CicdPipelineRunStateValues.PENDING.value
EXECUTING = CicdPipelineRunStateValues.EXECUTING.value


class Kind(Enum):
    """What a metric's values mean, and how they add up."""

    COUNTER = "counter"
    """Only grows."""
    UP_DOWN = "updowncounter"
    """How many there are; adds up."""
    GAUGE = "gauge"
    """An age or a time; of several the largest counts."""
    HISTOGRAM = "histogram"
    """How many took how long; only grows."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric."""

    name: str
    unit: str
    kind: Kind
    description: str
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A record that a point counts, by its span."""

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
    """Since when it is counted; None for what is not."""
    exemplar: Exemplar | None = None


@dataclass(frozen=True, slots=True)
class FamilyPoints:
    """A metric and the values of its series."""

    family: Family
    points: Mapping[Attributes, Point]


RUN_DURATION = Family(
    CICD_PIPELINE_RUN_DURATION,
    "s",
    Kind.HISTOGRAM,
    "Duration of finished pipeline runs: pending, from created to started, and executing, from started to completed.",
    (CICD_PIPELINE_NAME, CICD_PIPELINE_RUN_STATE, CICD_PIPELINE_RESULT, ERROR_TYPE),
)
RUN_ACTIVE = Family(
    CICD_PIPELINE_RUN_ACTIVE,
    "{run}",
    Kind.UP_DOWN,
    "Pipeline runs that are not finished, by state.",
    (CICD_PIPELINE_NAME, CICD_PIPELINE_RUN_STATE),
)
RUN_ERRORS = Family(
    CICD_PIPELINE_RUN_ERRORS,
    "{error}",
    Kind.COUNTER,
    "Pipeline runs that failed, by final status; cancelled ones are not counted.",
    (CICD_PIPELINE_NAME, ERROR_TYPE),
)
RUNS = Family(
    "otel_storage.runs",
    "{run}",
    Kind.COUNTER,
    "Finished pipeline runs, by final status.",
    (CICD_PIPELINE_NAME, STATUS),
)
TASK_RESULTS = Family(
    "otel_storage.task.results",
    "{result}",
    Kind.COUNTER,
    "Finished task results, by final status.",
    (CICD_PIPELINE_NAME, CICD_PIPELINE_TASK_NAME, STATUS),
)
TASK_DURATION = Family(
    "otel_storage.task.result.duration",
    "s",
    Kind.HISTOGRAM,
    "Duration of finished task results, from started to completed.",
    (CICD_PIPELINE_NAME, CICD_PIPELINE_TASK_NAME),
)
TASK_QUEUE_TIME = Family(
    "otel_storage.task.result.queue_time",
    "s",
    Kind.HISTOGRAM,
    "How long finished task results had waited, from created to started.",
    (CICD_PIPELINE_NAME, CICD_PIPELINE_TASK_NAME),
)
TASK_RUNNING = Family(
    "otel_storage.task.results.running",
    "{result}",
    Kind.UP_DOWN,
    "Task results that are RUNNING.",
    (CICD_PIPELINE_NAME, CICD_PIPELINE_TASK_NAME),
)
RUN_OLDEST_AGE = Family(
    "otel_storage.run.oldest_age",
    "s",
    Kind.GAUGE,
    "How long the oldest unfinished run has been in its state; 0 if there is none. One that has waited for more than a "
    "day for its start counts where no younger one waits.",
    (CICD_PIPELINE_NAME, CICD_PIPELINE_RUN_STATE),
)
TASK_OLDEST_AGE = Family(
    "otel_storage.task.result.oldest_age",
    "s",
    Kind.GAUGE,
    "How long the oldest RUNNING task result has been running; 0 if there is none.",
    (CICD_PIPELINE_NAME, CICD_PIPELINE_TASK_NAME),
)
RUN_LAST_STARTED = Family(
    "otel_storage.run.last_started",
    "s",
    Kind.GAUGE,
    "When a run last started, in Unix time; absent where none ever did.",
    (CICD_PIPELINE_NAME,),
)
RUN_LAST_COMPLETED = Family(
    "otel_storage.run.last_completed",
    "s",
    Kind.GAUGE,
    "When a run last finished in that status, in Unix time; absent where none ever did.",
    (CICD_PIPELINE_NAME, STATUS),
)
OUTBOX_ENTRIES = Family(
    "otel_storage.outbox.entries",
    "{entry}",
    Kind.UP_DOWN,
    "Entries of the outbox, by what they wait for.",
    (OUTBOX_STATE,),
)
OUTBOX_OLDEST_AGE = Family(
    "otel_storage.outbox.oldest_age",
    "s",
    Kind.GAUGE,
    "How long the oldest entry has waited to be sent; 0 if none waits.",
)
LAST_SUCCESS = Family(
    "otel_storage.delivery.last_success",
    "s",
    Kind.GAUGE,
    "When spans were last accepted, in Unix time; absent where none were.",
)
LAST_FAILURE = Family(
    "otel_storage.delivery.last_failure",
    "s",
    Kind.GAUGE,
    "When spans were last sent in vain, in Unix time; absent where they never were.",
)
SENDERS = Family(
    "otel_storage.senders",
    "{process}",
    Kind.UP_DOWN,
    "Processes that send spans and were seen in the last five minutes.",
    (WATCHING,),
)

FAMILIES = (
    RUN_DURATION,
    RUN_ACTIVE,
    RUN_ERRORS,
    RUNS,
    TASK_RESULTS,
    TASK_DURATION,
    TASK_QUEUE_TIME,
    TASK_RUNNING,
    RUN_OLDEST_AGE,
    TASK_OLDEST_AGE,
    RUN_LAST_STARTED,
    RUN_LAST_COMPLETED,
    OUTBOX_ENTRIES,
    OUTBOX_OLDEST_AGE,
    LAST_SUCCESS,
    LAST_FAILURE,
    SENDERS,
)
"""All of them, in the order in which they are shown."""

_OVERFLOWN: Attributes = ((OVERFLOW, True),)
_STATES = {PipelineTaskStatus.PENDING: PENDING, PipelineTaskStatus.RUNNING: EXECUTING}


def families(figures: Figures, most_series: int = MOST_SERIES) -> list[FamilyPoints]:
    """The metrics of the figures, each with its points.

    Args:
        figures: What is known.
        most_series: How many pipelines and tasks are told apart: those that were known first. The others are one series
            together, of the attribute ``otel.metric.overflow`` alone.
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
    """The points of every family, as they come."""

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
        """Add the value to that of the series."""
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
        # One that never came to pass takes many series, and tells nothing.
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
    """What is not final; 0 of each state that nothing is in."""
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
        # Clocks of several hosts never agree quite.
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
    """The points in an order that does not change with what happens."""
    return iter(sorted(points.items(), key=lambda item: [(name, str(value)) for name, value in item[0]]))


def attribute_names() -> Iterable[str]:
    """The name of every attribute that a metric of ours may have."""
    return sorted({name for family in FAMILIES for name in family.attributes} | {OVERFLOW})
