"""Every metric of this package: its name, unit, meaning and attributes.

Three are OpenTelemetry's semantic conventions for CI/CD; ours are in one namespace, ``otel_storage``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

from otel_storage.telemetry.semconv import (
    CICD_PIPELINE_NAME,
    CICD_PIPELINE_RESULT,
    CICD_PIPELINE_RUN_ACTIVE,
    CICD_PIPELINE_RUN_DURATION,
    CICD_PIPELINE_RUN_ERRORS,
    CICD_PIPELINE_RUN_STATE,
    CICD_PIPELINE_TASK_NAME,
    CicdPipelineRunStateValues,
)
from otel_storage.telemetry.spans.attributes import STATUS

OUTBOX_STATE = "otel_storage.outbox.state"
"""Why an outbox entry is still there: due, retrying, leased, held, open, refused or expired."""
WATCHING = "otel_storage.sender.watching"
"""Whether the process does nothing but send."""
OVERFLOW = "otel.metric.overflow"
"""The one attribute of the series that sums up all pipelines and tasks beyond the limit, as OpenTelemetry specifies."""

PENDING = CicdPipelineRunStateValues.PENDING.value
EXECUTING = CicdPipelineRunStateValues.EXECUTING.value


class Kind(Enum):
    """What kind of number a metric is, and how several values combine."""

    COUNTER = "counter"
    """Only grows; values add up."""
    UP_DOWN = "updowncounter"
    """A current number; values add up."""
    GAUGE = "gauge"
    """An age or a point in time; of several values the largest counts."""
    HISTOGRAM = "histogram"
    """The distribution of durations; only grows."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric."""

    name: str
    unit: str
    kind: Kind
    description: str
    attributes: tuple[str, ...] = ()


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
"""All metrics, in the order in which they are shown."""


def attribute_names() -> Iterable[str]:
    """The name of every attribute that these metrics may have."""
    return sorted({name for family in FAMILIES for name in family.attributes} | {OVERFLOW})
