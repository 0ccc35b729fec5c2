"""A run's snapshots, to make spans of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from otel_storage.ports.snapshots import (
    ExecutionSnapshot,
    Failure,
    PipelineResultSnapshot,
    RunSnapshot,
    TaskExecutionSnapshot,
    TaskResultSnapshot,
)
from otel_storage.results.status import PipelineTaskStatus as Status
from otel_storage.runtime.worker import Worker
from otel_storage.telemetry.spans.run_trace import Limits, RunTrace

RUN_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
CREATED = datetime(2024, 5, 1, 12, 0, 0, 1, tzinfo=UTC)
RESOURCE = {"service.name": "billing", "telemetry.sdk.name": "opentelemetry"}


def after(seconds: float) -> datetime:
    """A time after the run was built."""
    return CREATED + timedelta(seconds=seconds)


def nanoseconds(seconds: int) -> int:
    """The same as spans have it; 1 714 564 800 is noon of the day, by ``date -d 2024-05-01T12:00Z +%s``."""
    return (1_714_564_800 + seconds) * 10**9 + 1_000


def run_trace(**changes: Any) -> RunTrace:
    """A decision as a run has it."""
    return RunTrace(**{"sampled": True, "resource": RESOURCE, "scope_version": "1.2.3", **changes})


def state(id_: int, status: Status = Status.DONE, **changes: Any) -> dict[str, Any]:
    """The fields that all records have: built, started a second later, and completed ten seconds later."""
    return {
        "id": id_,
        "status": status,
        "created": CREATED,
        "started": after(1),
        "completed": after(10),
        "started_message": "",
        "completed_message": "",
        "worker": Worker(host="worker-1", pid=4711, started=None),
        **changes,
    }


def execution(status: Status = Status.DONE, trace: RunTrace | None = None, **changes: Any) -> ExecutionSnapshot:
    """A run; what is given replaces what it has."""
    return ExecutionSnapshot(
        **{
            **state(11, status),
            "run_id": RUN_ID,
            "pipeline_id": "shop.Orders",
            "input_data": {"day": "monday"},
            "trace": (trace or run_trace()).as_json(),
            "span_start": after(1),
            "span_end": after(20),
            "outcome": status,
            **changes,
        }
    )


def pipeline_result(
    status: Status = Status.DONE, of: ExecutionSnapshot | None = None, **changes: Any
) -> PipelineResultSnapshot:
    """A pipeline result of the run."""
    return PipelineResultSnapshot(
        **{
            **state(22, status),
            "execution": of or execution(),
            "pipeline_object": {"pk": 7, "app_label": "shop", "model_name": "region"},
            "runner": "pipelines.runners.eager.Runner",
            "span_start": after(1),
            "span_end": after(19),
            "outcome": status,
            **changes,
        }
    )


def task_execution(
    status: Status = Status.DONE, of: PipelineResultSnapshot | None = None, **changes: Any
) -> TaskExecutionSnapshot:
    """A task execution of the pipeline result."""
    return TaskExecutionSnapshot(
        **{
            **state(33, status),
            "pipeline_result": of or pipeline_result(),
            "pipeline_task": "load",
            "task_id": "shop.Load",
            "config": {"chunk": 5},
            "span_start": after(2),
            "span_end": after(18),
            "outcome": status,
            **changes,
        }
    )


def task_result(
    status: Status = Status.DONE,
    of: TaskExecutionSnapshot | None = None,
    trace: RunTrace | None = None,
    **changes: Any,
) -> TaskResultSnapshot:
    """A final task result of the task execution."""
    parent = of or task_execution(of=pipeline_result(of=execution(trace=trace)))
    return TaskResultSnapshot(
        **{**state(44, status), "task_execution": parent, "task_object": {"obj": "order 5"}, "failure": None, **changes}
    )


def whole_run(status: Status = Status.DONE, trace: RunTrace | None = None, **changes: Any) -> RunSnapshot:
    """The three parent levels, all of one status; what is given replaces what each of them has."""
    root = execution(status, trace, **changes)
    result = pipeline_result(status, root, **changes)
    return RunSnapshot(
        execution=root, pipeline_results=(result,), task_executions=(task_execution(status, result, **changes),)
    )


def failure(message: str = "boom", type_: str = "shop.Broken", stack: str | None = None) -> Failure:
    """An exception with a stack trace of one frame."""
    if stack is None:
        frame = '  File "/app/shop/tasks.py", line 5, in run\n    raise Broken(message)\n'
        stack = f"Traceback (most recent call last):\n{frame}{type_}: {message}\n"
    return Failure(type=type_, message=message, stacktrace=stack)


def limits(**changes: Any) -> RunTrace:
    """A decision with these limits."""
    return run_trace(limits=Limits(**changes))
