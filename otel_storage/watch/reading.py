"""Reads a wrapped storage's records by the standard interface, to copy them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from otel_storage.ports.copies import PipelineResultCopy, RecordChange, RunCopy, TaskExecutionCopy, TaskResultCopy
from otel_storage.ports.traces import is_sampled
from otel_storage.results.clock import utc
from otel_storage.results.model_objects import is_model_object
from otel_storage.results.status import FINAL
from otel_storage.watch.hooks import Noted


def read_run(execution: Any, trace: dict[str, Any], created: datetime) -> RunCopy:
    """The copy of a run that was just built.

    The copy has input data, configuration and objects only as far as ``capture`` lets them leave the process.
    """
    capture: Collection[str] = trace.get("capture", ())

    def task_result(record: Any) -> TaskResultCopy:
        return TaskResultCopy(id=_id(record), task_object=_object(record.get_serializable_task_object(), capture))

    def task_execution(record: Any) -> TaskExecutionCopy:
        return TaskExecutionCopy(
            id=_id(record),
            pipeline_task=str(record.get_pipeline_task()),
            task_id=str(record.get_task_id()),
            config=record.get_config() if "config" in capture else None,
            task_results=[task_result(child) for child in record.get_task_results()],
        )

    def pipeline_result(record: Any) -> PipelineResultCopy:
        return PipelineResultCopy(
            id=_id(record),
            pipeline_object=_object(record.get_serializable_pipeline_object(), capture),
            runner=str(record.get_runner()),
            reporter=str(record.get_reporter()),
            task_executions=[task_execution(child) for child in record.get_task_executions()],
        )

    # A run that is not sampled has no spans, so nothing below its execution is copied.
    children = execution.get_pipeline_results() if is_sampled(trace) else ()
    return RunCopy(
        id=_id(execution),
        run_id=str(execution.get_run_id()),
        pipeline_id=str(execution.get_pipeline_id()),
        created=created,
        trace=trace,
        input_data=execution.get_input_data() if "input_data" in capture else None,
        pipeline_results=[pipeline_result(child) for child in children],
    )


def read_change(noted: Noted, now: datetime) -> RecordChange:
    """The noted change, at the record's own time if that is clear, otherwise at ``now``."""
    record = noted.record
    started, completed = utc(record.get_started()), utc(record.get_completed())
    is_final = noted.status in FINAL
    return RecordChange(
        run_id=str(record.get_run_id()),
        kind=record.content_type_name,
        record_id=_id(record),
        status=noted.status,
        at=(completed if is_final else started) or now,
        message=noted.message,
        started=started if is_final else None,
        failure=noted.failure,
    )


def _id(record: Any) -> int:
    return int(record.get_id())


def _object(value: Any, capture: Collection[str]) -> Any:
    return value if is_model_object(value) or "objects" in capture else None
