"""Protocols of the objects that a storage gets: any object with these methods works, with or without the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from otel_storage.results.base import PipelineStorageObject
    from otel_storage.results.status import PipelineTaskStatus


class Reporter(Protocol):
    """Receives every change of state, after it is stored."""

    def report_context_object(
        self, context_object: PipelineStorageObject, status: PipelineTaskStatus, message: str
    ) -> object:
        """Receive that ``context_object`` has reached ``status``; ``message`` is for people."""


class TaskLike(Protocol):
    """A task of a pipeline."""

    pipeline_task: str
    """The name the task has in its pipeline."""

    task_id: str
    """The id the task's class is registered under."""

    cleaned_config: Any
    """A pydantic model (1 or 2) of the task's configuration, or a mapping."""

    @property
    def get_iterator(self) -> Callable[[], Iterable[Any] | None]:
        """The objects to start the task with, one task result each; None for a single task result without an object."""

    @property
    def get_serializable_task_object(self) -> Callable[[Any], Any]:
        """Turns an object of the iterator (or None) into what JSON can hold."""


class PipelineLike(Protocol):
    """A pipeline that a run is built from."""

    @property
    def id(self) -> str:
        """The id the pipeline is registered under."""

    @property
    def tasks(self) -> Mapping[str, Any] | None:
        """The pipeline's tasks (:class:`TaskLike`) by name, in their order."""

    @property
    def get_iterator(self) -> Callable[[], Iterable[Any] | None]:
        """The objects to start the pipeline with, one pipeline result each; None for a single one without an object."""

    @property
    def get_serializable_pipeline_object(self) -> Callable[[Any], Any]:
        """Turns an object of the iterator (or None) into what JSON can hold."""


class StorageListener(Protocol):
    """The telemetry that listens to a storage; no method may raise, and none is called inside a transaction."""

    def run_building(self, run_id: str, pipeline_id: str) -> dict[str, Any] | None:
        """Called before a run is built; returns what the run stores about its trace, None without telemetry.

        References are written for the run if the value of ``sampled`` in it is true.
        """

    def run_built(self, run_id: str, execution_id: int, trace: dict[str, Any]) -> None:
        """Called when the run with this ``trace`` is committed."""

    def running(self, task_result: PipelineStorageObject, sampled: bool) -> None:
        """Called when RUNNING was reported for the task result, whether or not it advanced; user code runs next.

        Called only for runs built with telemetry; ``sampled`` says whether the run has spans.
        """

    def finished(self, task_result: PipelineStorageObject) -> None:
        """Called when a final status was reported for the task result, whether or not it advanced or was stored."""

    def committed(self) -> None:
        """Called when a transaction that inserted references into the outbox is committed."""

    def trace_id(self, run_id: str) -> str:
        """The id of the run's trace: 32 hexadecimal digits."""

    def trace_url(self, run_id: str) -> str | None:
        """The address of the run's trace; None if no ``trace_url`` is configured."""
