"""Plain pipelines, tasks, runners and reporters for a storage, without the host.

pipeline = Pipeline(Task("extract"), Task("load", objects=["a", "b"]), objects=["north", "south"])
storage.build_pipeline_execution(pipeline, run_id, Runner(), RecordingReporter(), {"day": "2024-02-29"})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date
from typing import Any, NamedTuple

from otel_storage.results.base import PipelineStorageObject
from otel_storage.results.status import PipelineTaskStatus

Objects = Iterable[Any] | Callable[[], Iterable[Any] | None] | None
"""The objects to start with, a function that returns an iterator of them, or None for a single start without an
object."""


def wrap(obj: Any) -> Any:
    """Serialize an object as the host's plain pipelines and tasks do."""
    return None if obj is None else {"obj": obj}


class Config:
    """A task's configuration with the methods of a pydantic 2 model, and pydantic 1's ``dict``, which it deprecates."""

    def __init__(self, **values: Any) -> None:
        self._values = values

    def model_dump(self, *, mode: str = "python") -> Mapping[str, Any]:
        """The values; with ``mode="json"`` dates are text."""
        if mode == "json":
            return {name: v.isoformat() if isinstance(v, date) else v for name, v in self._values.items()}
        return dict(self._values)

    def dict(self) -> Mapping[str, Any]:
        """The values, as they are."""
        return dict(self._values)


class LegacyConfig:
    """A task's configuration with the methods of a pydantic 1 model."""

    def __init__(self, **values: Any) -> None:
        self._values = values

    def dict(self) -> Mapping[str, Any]:
        """The values, as they are."""
        return dict(self._values)


class Task:
    """A task of a :class:`Pipeline`.

    Args:
        pipeline_task: The name it has in its pipeline.
        task_id: The id of its class; made from the name if None.
        objects: What it is started with, one task result each.
        config: Its configuration: a model, or a mapping.
        serialize: Turns an object (or None) into what JSON can hold.
    """

    def __init__(
        self,
        pipeline_task: Any = "extract",
        *,
        task_id: Any = None,
        objects: Objects = None,
        config: Any = None,
        serialize: Callable[[Any], Any] = wrap,
    ) -> None:
        self.pipeline_task = pipeline_task
        self.task_id = f"tests.{pipeline_task}" if task_id is None else task_id
        self.cleaned_config = Config() if config is None else config
        self._objects = objects
        self._serialize = serialize

    def get_iterator(self) -> Iterable[Any] | None:
        """The objects to start the task with; None for a single start with no object."""
        return _objects(self._objects)

    def get_serializable_task_object(self, obj: Any) -> Any:
        """The object as JSON holds it."""
        return self._serialize(obj)


class Pipeline:
    """A pipeline of tasks.

    Args:
        tasks: Its tasks, in their order; given none, its mapping of tasks is empty.
        id: The id it is registered under.
        objects: What it is started with, one pipeline result each.
        serialize: Turns an object (or None) into what JSON can hold.
    """

    def __init__(
        self,
        *tasks: Task,
        id: Any = "tests.Orders",
        objects: Objects = None,
        serialize: Callable[[Any], Any] = wrap,
    ) -> None:
        self.id = id
        self.tasks: dict[str, Task] | None = {task.pipeline_task: task for task in tasks}
        self._objects = objects
        self._serialize = serialize

    def get_iterator(self) -> Iterable[Any] | None:
        """The objects to start the pipeline with; None for a single start with no object."""
        return _objects(self._objects)

    def get_serializable_pipeline_object(self, obj: Any) -> Any:
        """The object as JSON holds it."""
        return self._serialize(obj)


class Runner:
    """Runs nothing, because a storage stores only the path of a runner's class."""


class Report(NamedTuple):
    """A report that a reporter received."""

    kind: str
    id: int
    status: PipelineTaskStatus
    message: str


class RecordingReporter:
    """Keeps the reports that it receives, in order.

    Args:
        on_report: Called with the record of each report, while the reporter receives the report.
    """

    def __init__(self, on_report: Callable[[PipelineStorageObject], object] | None = None) -> None:
        self.reports: list[Report] = []
        self.records: list[PipelineStorageObject] = []
        """The record of each of :attr:`reports`."""
        self._on_report = on_report

    def report_context_object(
        self, context_object: PipelineStorageObject, status: PipelineTaskStatus, message: str
    ) -> None:
        """Keep the report."""
        self.reports.append(Report(context_object.content_type_name, context_object.get_id(), status, message))
        self.records.append(context_object)
        if self._on_report is not None:
            self._on_report(context_object)

    # The host's own storage calls one of these four, by the kind of record.
    report_pipeline_execution = report_context_object
    report_pipeline_result = report_context_object
    report_task_execution = report_context_object
    report_task_result = report_context_object

    def clear(self) -> None:
        """Forget the reports so far."""
        self.reports.clear()
        self.records.clear()


def _objects(objects: Objects) -> Iterable[Any] | None:
    return objects() if callable(objects) else objects
