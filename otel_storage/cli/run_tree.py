"""The records of one run as a tree, with what each level counts as and the time it spans."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from otel_storage.cli import text
from otel_storage.ports.extents import Extent, extent
from otel_storage.ports.snapshots import Failure
from otel_storage.privacy.lines import one_line
from otel_storage.results.base import PipelineExecution, PipelineStorageObject
from otel_storage.results.kinds import PIPELINE_EXECUTION, PIPELINE_RESULT, TASK_EXECUTION
from otel_storage.results.status import PipelineTaskStatus as Status

if TYPE_CHECKING:
    from otel_storage.sql.storage import SqlPipelineStorage

_CHILDREN_KEY = {
    PIPELINE_EXECUTION: "pipeline_results",
    PIPELINE_RESULT: "task_executions",
    TASK_EXECUTION: "task_results",
}


@dataclass
class Node:
    """One record and those below it. All times are aware and in UTC."""

    kind: str
    id: int
    name: str
    """What tells it from its siblings; empty for the single instance of something with no iterator."""
    status: Status
    """As it is stored."""
    created: datetime | None
    started: datetime | None
    completed: datetime | None
    message: str
    """What was reported with the last change of state."""
    failure: Failure | None = None
    """The exception it failed with, where one was stored."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the kind of record has beside its state, as JSON shows it."""
    children: list[Node] = field(default_factory=list)
    extent: Extent = field(init=False)
    """What it comes to with those below it."""
    ran: bool = field(init=False)
    """Whether it was started, or something below it."""

    def __post_init__(self) -> None:
        """Add up the nodes below."""
        below = [child.extent for child in self.children]
        self.extent = extent(self.kind, self.status, self.started, self.completed, below)
        self.ran = self.started is not None or any(child.ran for child in self.children)

    @property
    def outcome(self) -> Status:
        """What it counts as: a task whose results are all final is final, though the eager runner never says so."""
        return self.extent.outcome

    @property
    def start(self) -> datetime | None:
        """The earliest time of its own and of those below; None if it was never started nor ended."""
        return self.extent.start

    @property
    def end(self) -> datetime | None:
        """The latest time; None while something of it is still to come."""
        return None if self.extent.is_open else self.extent.end


def duration(status: Status, started: datetime | None, completed: datetime | None, now: datetime) -> timedelta | None:
    """How long a record took by its own times, or has been running until now; None for one that never started."""
    if status is Status.RUNNING and started is not None:
        return max(now - started, timedelta())
    return _between(started, completed)


def read_run(storage: SqlPipelineStorage, execution: PipelineExecution) -> Node:
    """Read the run's records: a few queries, whatever its size."""
    run_id = execution.get_run_id()
    failures = storage.get_failures(run_id)
    task_results: dict[int, list[Node]] = defaultdict(list)
    for task_result in storage.get_task_results(run_id=run_id):
        task_object = task_result.get_serializable_task_object()
        node = _node(task_result, text.object_name(task_object), [], task_object=task_object)
        node.failure = failures.get(task_result.get_id())
        task_results[task_result.get_task_execution().get_id()].append(node)

    task_executions: dict[int, list[Node]] = defaultdict(list)
    for task_execution in storage.get_task_executions(run_id=run_id):
        name = task_execution.get_pipeline_task()
        node = _node(
            task_execution,
            one_line(name),
            task_results[task_execution.get_id()],
            pipeline_task=name,
            task_id=task_execution.get_task_id(),
        )
        task_executions[task_execution.get_pipeline_result().get_id()].append(node)

    pipeline_results: list[Node] = []
    for pipeline_result in storage.get_pipeline_results(run_id=run_id):
        pipeline_object = pipeline_result.get_serializable_pipeline_object()
        pipeline_results.append(
            _node(
                pipeline_result,
                text.object_name(pipeline_object),
                task_executions[pipeline_result.get_id()],
                pipeline_object=pipeline_object,
                runner=pipeline_result.get_runner(),
                reporter=pipeline_result.get_reporter(),
            )
        )
    return _node(
        execution,
        one_line(execution.get_pipeline_id()),
        pipeline_results,
        run_id=run_id,
        pipeline_id=execution.get_pipeline_id(),
        trace_id=execution.get_trace_id(),
    )


def as_json(node: Node) -> dict[str, Any]:
    """The node and all below it, as ``show --json`` documents it."""
    document: dict[str, Any] = {
        "kind": node.kind,
        "id": node.id,
        **node.facts,
        "status": node.status.value,
        "outcome": node.outcome.value,
        "created": text.iso(node.created),
        "started": text.iso(node.started),
        "completed": text.iso(node.completed),
        "start": text.iso(node.start),
        "end": text.iso(node.end),
        "duration": text.seconds(_between(node.started, node.completed)),
        "elapsed": text.seconds(_between(node.start, node.end)),
        "message": node.message,
        "exception": None if node.failure is None else asdict(node.failure),
    }
    if node.kind in _CHILDREN_KEY:
        document[_CHILDREN_KEY[node.kind]] = [as_json(child) for child in node.children]
    return document


def _node(record: PipelineStorageObject, name: str, children: list[Node], **facts: Any) -> Node:
    return Node(
        kind=record.content_type_name,
        # Of a copy, the id in the storage it is a copy from, as spans have it.
        id=getattr(record, "source_id", record.get_id()),
        name=name,
        status=record.get_status(),
        created=text.aware(record.get_created()),
        started=text.aware(record.get_started()),
        completed=text.aware(record.get_completed()),
        message=record.get_status_message(),
        facts=facts,
        children=children,
    )


def _between(start: datetime | None, end: datetime | None) -> timedelta | None:
    return None if start is None or end is None else max(end - start, timedelta())
