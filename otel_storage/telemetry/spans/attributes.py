"""Every attribute name that this package writes, and the attributes of each record.

Names are from OpenTelemetry's semantic conventions for CI/CD pipelines where these have one; our own are in the
namespace ``otel_storage``. The most important attributes come first, because a run's limit cuts from the end.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.exception_attributes import (
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
)

from otel_storage.ports import outcomes
from otel_storage.ports.snapshots import (
    ExecutionSnapshot,
    ParentSnapshot,
    PipelineResultSnapshot,
    RecordSnapshot,
    TaskExecutionSnapshot,
    TaskResultSnapshot,
)
from otel_storage.privacy.masking import as_json
from otel_storage.results.kinds import PIPELINE_EXECUTION, PIPELINE_RESULT, TASK_EXECUTION, TASK_RESULT
from otel_storage.results.model_objects import is_model_object
from otel_storage.results.status import FAILED, FINAL, PipelineTaskStatus
from otel_storage.telemetry.semconv import (
    CICD_PIPELINE_ACTION_NAME,
    CICD_PIPELINE_NAME,
    CICD_PIPELINE_RESULT,
    CICD_PIPELINE_RUN_ID,
    CICD_PIPELINE_RUN_URL_FULL,
    CICD_PIPELINE_TASK_NAME,
    CICD_PIPELINE_TASK_RUN_ID,
    CICD_PIPELINE_TASK_RUN_RESULT,
    CicdPipelineActionNameValues,
    CicdPipelineResultValues,
)
from otel_storage.telemetry.spans.run_trace import AttributeValue, RunTrace

__all__ = ["EXCEPTION_MESSAGE", "EXCEPTION_STACKTRACE", "EXCEPTION_TYPE"]

RECORD_KIND = "otel_storage.record.kind"
RECORD_ID = "otel_storage.record.id"
STATUS = "otel_storage.status"
"""The status as it is stored."""
STATUS_MESSAGE = "otel_storage.message"
RUNNER = "otel_storage.runner"
QUEUE_TIME = "otel_storage.queue_time"
"""Seconds from created to started."""
WORKER_HOST = "otel_storage.worker.host"
WORKER_PID = "otel_storage.worker.pid"
TASK_ID = "otel_storage.task.id"
"""The id that the task's class is registered under."""
PIPELINE_OBJECT = "otel_storage.pipeline_object"
"""A prefix: ``.app_label``, ``.model_name`` and ``.pk`` of a model object, ``.json`` of any other object."""
TASK_OBJECT = "otel_storage.task_object"
INPUT_DATA = "otel_storage.input_data"
CONFIG = "otel_storage.config"

STATUS_EVENT = "otel_storage.status"
EXCEPTION_EVENT = "exception"
"""The event of https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-spans/."""

Attributes = dict[str, AttributeValue]


def outcome_of(record: RecordSnapshot) -> PipelineTaskStatus | None:
    """The final status that the record counts as; None while there is none."""
    if record.status in FINAL:
        return record.status
    return record.outcome if isinstance(record, ParentSnapshot) else None


def is_error(status: PipelineTaskStatus | None) -> bool:
    """Whether a span of this outcome is an error: failures are, a cancellation is not."""
    return status in FAILED and status is not PipelineTaskStatus.CANCELLED


def execution_attributes(execution: ExecutionSnapshot, trace: RunTrace, runner: str | None) -> Attributes:
    """The attributes of the span of a run; ``runner`` is that of its pipeline results, None if it has none."""
    attributes = _of_run(execution)
    attributes[CICD_PIPELINE_ACTION_NAME] = CicdPipelineActionNameValues.RUN.value
    _add_result(attributes, CICD_PIPELINE_RESULT, execution)
    if trace.url:
        attributes[CICD_PIPELINE_RUN_URL_FULL] = trace.url
    _add_state(attributes, PIPELINE_EXECUTION, execution)
    if runner:
        attributes[RUNNER] = runner
    if "input_data" in trace.capture and execution.input_data is not None:
        attributes[INPUT_DATA] = as_json(execution.input_data)
    return attributes


def pipeline_result_attributes(result: PipelineResultSnapshot, trace: RunTrace) -> Attributes:
    """The attributes of the span of a pipeline result."""
    attributes = _of_run(result.execution)
    _add_error_type(attributes, result)
    _add_state(attributes, PIPELINE_RESULT, result)
    attributes[RUNNER] = result.runner
    _add_object(attributes, PIPELINE_OBJECT, result.pipeline_object, trace)
    return attributes


def task_execution_attributes(execution: TaskExecutionSnapshot, trace: RunTrace) -> Attributes:
    """The attributes of the span of a task execution."""
    attributes = _of_task(execution)
    attributes[CICD_PIPELINE_TASK_RUN_ID] = str(execution.id)
    _add_result(attributes, CICD_PIPELINE_TASK_RUN_RESULT, execution)
    _add_state(attributes, TASK_EXECUTION, execution)
    _add_task(attributes, execution, trace)
    if "config" in trace.capture and execution.config is not None:
        attributes[CONFIG] = as_json(execution.config)
    return attributes


def attributes_of_results(execution: TaskExecutionSnapshot, trace: RunTrace) -> tuple[Attributes, Attributes]:
    """The attributes that all results of a task execution share.

    Those before :func:`task_result_state`, and those after.

    Only the task execution's span has the result in OpenTelemetry's terms.
    """
    after: Attributes = {}
    _add_task(after, execution, trace)
    return _of_task(execution), after


def task_result_state(result: TaskResultSnapshot) -> Attributes:
    """The attributes of a task result's own state."""
    attributes: Attributes = {}
    _add_error_type(attributes, result, result.failure.type if result.failure else None)
    _add_state(attributes, TASK_RESULT, result)
    return attributes


def task_object(result: TaskResultSnapshot, trace: RunTrace) -> Attributes:
    """The attributes of the object that the task was started with, which come last in a task result's span."""
    attributes: Attributes = {}
    _add_object(attributes, TASK_OBJECT, result.task_object, trace)
    return attributes


def _of_run(execution: ExecutionSnapshot) -> Attributes:
    return {CICD_PIPELINE_NAME: execution.pipeline_id, CICD_PIPELINE_RUN_ID: execution.run_id}


def _of_task(execution: TaskExecutionSnapshot) -> Attributes:
    attributes = _of_run(execution.pipeline_result.execution)
    attributes[CICD_PIPELINE_TASK_NAME] = execution.pipeline_task
    return attributes


def _add_result(attributes: Attributes, name: str, record: ParentSnapshot) -> None:
    outcome = outcome_of(record)
    if outcome is None:
        return
    attributes[name] = CicdPipelineResultValues(outcomes.outcome(outcome, record.completed_message)).value
    _add_error_type(attributes, record)


def _add_error_type(attributes: Attributes, record: RecordSnapshot, exception_type: str | None = None) -> None:
    outcome = outcome_of(record)
    if outcome is not None and is_error(outcome):
        attributes[ERROR_TYPE] = exception_type or outcome.value


def _add_state(attributes: Attributes, kind: str, record: RecordSnapshot) -> None:
    attributes[RECORD_KIND] = kind
    attributes[RECORD_ID] = record.id
    attributes[STATUS] = record.status.value
    if record.started is not None:
        attributes[QUEUE_TIME] = max(0.0, (record.started - record.created).total_seconds())
    if record.worker is not None:
        attributes[WORKER_HOST] = record.worker.host
        attributes[WORKER_PID] = record.worker.pid


def _add_task(attributes: Attributes, execution: TaskExecutionSnapshot, trace: RunTrace) -> None:
    attributes[TASK_ID] = execution.task_id
    attributes[RUNNER] = execution.pipeline_result.runner
    _add_object(attributes, PIPELINE_OBJECT, execution.pipeline_result.pipeline_object, trace)


def _add_object(attributes: Attributes, name: str, value: Any, trace: RunTrace) -> None:
    """A model object's identity; any other object only where it is captured."""
    if is_model_object(value):
        for part in ("app_label", "model_name", "pk"):
            attributes[f"{name}.{part}"] = str(value[part])
    elif value is not None and "objects" in trace.capture:
        attributes[f"{name}.json"] = as_json(value)
