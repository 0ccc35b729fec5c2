"""The contract: four kinds of record, and the storage that keeps them.

A pipeline's run is one :class:`PipelineExecution`, with a :class:`PipelineResult` per object the pipeline iterates
over, a :class:`TaskExecution` per task of each, and a :class:`TaskResult` per object the task iterates over.

Properties are read with ``get_x()`` and written with ``set_x(v)``, so that a storage is free in how it keeps them.
Where django-pipelines (the host) is installed the classes are subclasses of the host's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar, cast, overload

from otel_storage.results import clock, host
from otel_storage.results.exceptions import ConfigurationError, InvalidInput
from otel_storage.results.extras import to_install
from otel_storage.results.kinds import PIPELINE_EXECUTION, PIPELINE_RESULT, TASK_EXECUTION, TASK_RESULT
from otel_storage.results.model_objects import deserialize
from otel_storage.results.status import FAILED, FINAL, PipelineTaskStatus, as_status

if TYPE_CHECKING:
    from otel_storage.results.protocols import PipelineLike, Reporter

if TYPE_CHECKING or not host.is_installed():

    class _HostObject:
        pass

    class _HostPipelineExecution(_HostObject):
        pass

    class _HostPipelineResult(_HostObject):
        pass

    class _HostTaskExecution(_HostObject):
        pass

    class _HostTaskResult(_HostObject):
        pass

    class _HostStorage:
        pass

    @dataclass
    class _HostDigestItem:
        total_runs: int = 0
        total_success: int = 0
        total_failure: int = 0
        last_ran: datetime | None = None
        average_runtime: timedelta | None = None

else:
    _base = host.load("results.base")
    _HostObject = _base.PipelineStorageObject
    _HostPipelineExecution = _base.PipelineExecution
    _HostPipelineResult = _base.PipelineResult
    _HostTaskExecution = _base.TaskExecution
    _HostTaskResult = _base.TaskResult
    _HostStorage = _base.PipelineResultsStorage
    _HostDigestItem = _base.PipelineDigestItem


HostRecord: type = _HostObject
"""The base class of all records, also of other storages: the host's class where the host is installed."""

BADLY_CONFIGURED = "Pipeline is badly configured"
"""The message of an execution that was built without ``build_all``."""


class StatusChange(NamedTuple):
    """One step in the life of a record."""

    status: PipelineTaskStatus
    at: datetime
    message: str
    """What was reported with the change; empty if nothing was."""


@dataclass
class PipelineDigestItem(_HostDigestItem):
    """The figures of one pipeline, counted over its executions.

    ``total_runs`` counts every execution, running ones too; ``total_success`` those that are DONE; ``total_failure``
    those in a failed status (CANCELLED too). ``last_ran`` is the latest start, None if none has started.
    ``average_runtime`` is the mean of completed - started as a timedelta, None if no run has both.
    """


PipelineDigest = dict[str, PipelineDigestItem]
"""The figures of each pipeline that has a run, by pipeline id."""

Record = TypeVar("Record", bound="PipelineStorageObject", covariant=True)


class RecordSequence(Protocol, Generic[Record]):
    """Records, read when first needed; iterating twice gives the same objects.

    What is below records that were listed together may be read together, when the first of them is asked for it; each
    of them gives what was read then to the first that reads records from its ``get_pipeline_results()``,
    ``get_task_executions()`` or ``get_task_results()``. A sequence that is got later reads anew, as does a look-up:
    ask again to see what others have changed.
    """

    def __len__(self) -> int:
        """How many there are."""

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...

    def __iter__(self) -> Iterator[Record]:
        """The records in the order of their ids; executions newest first."""

    def count(self) -> int:
        """How many there are; takes no argument, as Django's paginator requires."""

    def all(self) -> RecordSequence[Record]:
        """The sequence itself: templates written for Django's related managers call it."""


class PipelineStorageObject(_HostObject):
    """A record: its state, and the only way to change it.

    Two records are equal if they are of one kind and have one id. A record is not thread-safe, and cannot be pickled:
    pass its id.

    ``get_foo`` resolves to the method where one is defined, else, where the object has an attribute ``foo``, to a
    callable that returns it. ``set_foo(v)`` calls the method where one is defined, else sets ``foo`` on the object.
    """

    content_type_name: ClassVar[str]
    """The kind: PipelineExecution, PipelineResult, TaskExecution or TaskResult."""

    id: int
    """The record's id, a positive integer that is never used again; storages accept it as a decimal string too."""
    run_id: str
    pipeline_id: str
    status: PipelineTaskStatus
    created: datetime | None
    started: datetime | None
    completed: datetime | None
    input_data: Any

    # The host's own fallback intercepts every access and hides an AttributeError raised inside a property.
    __getattribute__ = object.__getattribute__

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("set_") and len(name) > 4:
                return lambda value: setattr(self, name[4:], value)
            if name.startswith("get_") and len(name) > 4 and _has_attribute(self, name[4:]):
                return lambda: getattr(self, name[4:])
            # Raises again what a property raised, or that there is no such attribute.
            return object.__getattribute__(self, name)

    @property
    def pk(self) -> int:
        """The id, under the name Django's templates use."""
        return self.id

    @property
    def failed(self) -> bool:
        """Whether the status is a failed one; CANCELLED is."""
        return self.get_status() in FAILED

    @property
    def duration(self) -> timedelta | None:
        """completed - started; None while one of them is missing."""
        return self.get_duration()

    def get_id(self) -> int:
        """The record's id."""
        return self.id

    def get_run_id(self) -> str:
        """The id of the run the record belongs to."""
        return self.run_id

    def get_pipeline_id(self) -> str:
        """The id the pipeline's class is registered under."""
        return self.pipeline_id

    def get_status(self) -> PipelineTaskStatus:
        """The current status."""
        return as_status(self.status)

    def get_status_display(self) -> str:
        """The status as the host's pages print it: its name."""
        return self.get_status().value

    def get_created(self) -> datetime | None:
        """When the record was built."""
        return self.created

    def get_started(self) -> datetime | None:
        """When RUNNING was reported; None before that, and for a record that became final without it."""
        return self.started

    def get_completed(self) -> datetime | None:
        """When a final status was reported; None before that."""
        return self.completed

    def get_duration(self) -> timedelta | None:
        """completed - started; None while one of them is missing.

        The clocks of two processes differ, and a clock can be set back: no duration is less than 0 for that.
        """
        started, completed = self.get_started(), self.get_completed()
        return None if started is None or completed is None else max(completed - started, timedelta())

    def get_input_data(self) -> Any:
        """What the run was started with, as JSON holds it."""
        return self.input_data

    def get_status_changes(self) -> Sequence[StatusChange]:
        """The record's history, oldest first: one to three changes."""
        raise NotImplementedError

    def get_status_message(self) -> str:
        """What was reported with the last change; empty if nothing was."""
        return self.get_status_changes()[-1].message

    def get_trace_id(self) -> str | None:
        """The id of the run's trace, 32 hexadecimal digits; None if no trace is recorded for the run."""
        return None

    def get_trace_url(self) -> str | None:
        """Where people see the run's trace; None without a trace, or where no viewer's address is configured."""
        return None

    def get_pipeline(self) -> Any:
        """The registered pipeline class.

        Raises:
            ConfigurationError: django-pipelines, whose registry it is, is not installed.
            IndexError: no pipeline of that id is registered (as the host's own records do).
        """
        return _registry("registry", "pipeline_registry").get_by_id(self.get_pipeline_id())

    def set_status(self, status: PipelineTaskStatus | str) -> None:
        """Buffer a new status for :meth:`save`."""
        self.status = as_status(status)

    def set_started(self, moment: datetime) -> None:
        """Buffer a new start for :meth:`save`."""
        self.started = moment

    def set_completed(self, moment: datetime) -> None:
        """Buffer a new completion for :meth:`save`."""
        self.completed = moment

    def set_input_data(self, input_data: Any) -> None:
        """Buffer new input data for :meth:`save`."""
        self.input_data = input_data

    def save(self) -> None:
        """Write what was set since the last save, and that alone."""
        raise NotImplementedError

    def _by_name(self, get_children: Callable[[], Any]) -> Any:
        """The children as they were when they were first asked for by the name of the host's related manager."""
        if "_children_by_name" not in self.__dict__:
            self.__dict__["_children_by_name"] = get_children()
        return self.__dict__["_children_by_name"]

    def _deserialized(self, _name: str, serializable_object: Any) -> Any:
        """The object of that attribute, from how it was serialized."""
        return deserialize(serializable_object)

    def _get_propagate_parent(self) -> PipelineStorageObject | None:
        """The record a propagated change is reported to first; None for an execution. The name is the host's."""
        return None

    def report_status_change(
        self,
        reporter: Reporter | None,
        status: PipelineTaskStatus,
        message: str | None = "",
        propagate: bool = True,
    ) -> None:
        """Advance the status, store it with the message, and tell the reporter.

        A report that does not advance the status is ignored, silently and without its message, as is one on a record
        that was deleted.

        Args:
            reporter: Is told "Changed state to <STATUS>[ - message]" for this record, and before it for each parent
                that advanced too. None for no reporter.
            status: The new status, or its name.
            message: What there is to say about the change.
            propagate: Whether the parents are advanced to the same status first.

        Raises:
            InvalidInput: ``status`` is no status, or ``reporter`` has no method ``report_context_object()``.
        """
        status = as_status(status)
        tell = telling(reporter)
        if not self.get_status().has_advanced(status):
            return
        parent = self._get_propagate_parent()
        if propagate and parent is not None:
            parent.report_status_change(reporter, status, message=message, propagate=propagate)
        if status is PipelineTaskStatus.RUNNING:
            self.set_started(clock.now())
        if status in FINAL:
            self.set_completed(clock.now())
        self.set_status(status)
        self.save()
        tell(self, status, changed_state(status, message))

    def __eq__(self, other: object) -> bool:
        """Whether ``other`` is a record of the same kind and id."""
        if not isinstance(other, PipelineStorageObject):
            return NotImplemented
        return (self.content_type_name, self.get_id()) == (other.content_type_name, other.get_id())

    def __hash__(self) -> int:
        """By kind and id."""
        return hash((self.content_type_name, self.get_id()))

    def __reduce__(self) -> Any:
        """Refuse to be pickled."""
        raise TypeError(f"a {self.content_type_name} cannot be pickled; pass its id and look it up again")

    def __repr__(self) -> str:
        """Kind, id and run: never input data."""
        return f"<{self.content_type_name} {self.get_id()} of run {self.get_run_id()}>"


class PipelineExecution(PipelineStorageObject, _HostPipelineExecution):
    """The overall state of one run of a pipeline."""

    content_type_name = PIPELINE_EXECUTION

    @property
    def task_result_count(self) -> int:
        """How many task results the run has."""
        return sum(
            len(task_execution.get_task_results())
            for pipeline_result in self.get_pipeline_results()
            for task_execution in pipeline_result.get_task_executions()
        )

    @property
    def results(self) -> RecordSequence[PipelineResult]:
        """The pipeline results, under the name of the host's related manager: the same sequence each time.

        So are its records, once it was read; :meth:`get_pipeline_results` reads them anew.
        """
        return self._by_name(self.get_pipeline_results)  # type: ignore[no-any-return]  # what is given is kept

    def get_pipeline_results(self) -> RecordSequence[PipelineResult]:
        """The run's pipeline results; empty for a run built without ``build_all``."""
        raise NotImplementedError


class PipelineResult(PipelineStorageObject, _HostPipelineResult):
    """The state of one pipeline instance inside a run."""

    content_type_name = PIPELINE_RESULT

    serializable_pipeline_object: Any
    runner: str
    reporter: str

    @property
    def pipeline_object(self) -> Any:
        """What :meth:`get_pipeline_object` gives."""
        return self.get_pipeline_object()

    @property
    def task_executions(self) -> RecordSequence[TaskExecution]:
        """The task executions, under the name of the host's related manager: the same sequence each time.

        So are its records, once it was read; :meth:`get_task_executions` reads them anew.
        """
        return self._by_name(self.get_task_executions)  # type: ignore[no-any-return]  # what is given is kept

    def get_serializable_pipeline_object(self) -> Any:
        """The object this instance was started with, as JSON holds it; None without an iterator."""
        return self.serializable_pipeline_object

    def get_pipeline_object(self) -> Any:
        """The object this instance was started with: the model object where Django's is stored; None without one.

        One record gives the same instance each time. A record that is only read may share it with others, and have it
        loaded together with theirs; a record that a change was reported on has one of its own, loaded after its first
        report: a task sees what the tasks before it have changed.

        Raises:
            ObjectDoesNotExist: the model object is gone; Django's templates show that as nothing.
        """
        return self._deserialized("pipeline_object", self.get_serializable_pipeline_object())

    def get_runner(self) -> str:
        """The dotted path of the runner's class."""
        return self.runner

    def get_reporter(self) -> str:
        """The dotted path of the reporter's class."""
        return self.reporter

    def get_pipeline_execution(self) -> PipelineExecution:
        """The execution this is part of."""
        raise NotImplementedError

    def get_task_executions(self) -> RecordSequence[TaskExecution]:
        """The executions of the pipeline's tasks, in the tasks' order."""
        raise NotImplementedError

    def _get_propagate_parent(self) -> PipelineExecution:
        return self.get_pipeline_execution()


class _OfTask(PipelineStorageObject):
    """What records of a task have in common."""

    pipeline_task: str
    task_id: str
    config: Any
    serializable_pipeline_object: Any

    @property
    def pipeline_object(self) -> Any:
        """What :meth:`get_pipeline_object` gives."""
        return self.get_pipeline_object()

    def get_pipeline_task(self) -> str:
        """The name the task has in its pipeline."""
        return self.pipeline_task

    def get_task_id(self) -> str:
        """The id the task's class is registered under."""
        return self.task_id

    def get_config(self) -> Any:
        """The task's configuration, as JSON holds it."""
        return self.config

    def get_serializable_pipeline_object(self) -> Any:
        """The object the pipeline instance was started with, as JSON holds it; None without an iterator."""
        return self.serializable_pipeline_object

    def get_pipeline_object(self) -> Any:
        """The object the pipeline instance was started with; see :meth:`PipelineResult.get_pipeline_object`."""
        return self._deserialized("pipeline_object", self.get_serializable_pipeline_object())

    def get_task(self) -> Any:
        """A new task of the registered class, with the stored configuration.

        Raises:
            ConfigurationError: django-pipelines, whose registry it is, is not installed.
            IndexError: no task of that id is registered (as the host's own records do).
        """
        return _registry("tasks", "task_registry").load_task_from_id(
            pipeline_task=self.get_pipeline_task(), task_id=self.get_task_id(), config=self.get_config()
        )


class TaskExecution(_OfTask, _HostTaskExecution):
    """The overall state of one task inside a pipeline result."""

    content_type_name = TASK_EXECUTION

    @property
    def results(self) -> RecordSequence[TaskResult]:
        """The task results, under the name of the host's related manager: the same sequence each time.

        So are its records, once it was read; :meth:`get_task_results` reads them anew.
        """
        return self._by_name(self.get_task_results)  # type: ignore[no-any-return]  # what is given is kept

    def get_pipeline_result(self) -> PipelineResult:
        """The pipeline result this is part of."""
        raise NotImplementedError

    def get_task_results(self) -> RecordSequence[TaskResult]:
        """The task's results, in the order of its iterator."""
        raise NotImplementedError

    def _get_propagate_parent(self) -> PipelineResult:
        return self.get_pipeline_result()


class TaskResult(_OfTask, _HostTaskResult):
    """The state of one task instance."""

    content_type_name = TASK_RESULT

    serializable_task_object: Any

    @property
    def task_object(self) -> Any:
        """What :meth:`get_task_object` gives."""
        return self.get_task_object()

    def get_get_status(self) -> PipelineTaskStatus:
        """The current status: the host's results page asks for it by this name."""
        return self.get_status()

    def get_serializable_task_object(self) -> Any:
        """The object this instance was started with, as JSON holds it; None without an iterator."""
        return self.serializable_task_object

    def get_task_object(self) -> Any:
        """The object this instance was started with; see :meth:`PipelineResult.get_pipeline_object`."""
        return self._deserialized("task_object", self.get_serializable_task_object())

    def get_task_execution(self) -> TaskExecution:
        """The task execution this is part of."""
        raise NotImplementedError

    def _get_propagate_parent(self) -> TaskExecution:
        return self.get_task_execution()


class PipelineStorage(_HostStorage):
    """Keeps the records of pipeline runs. The host calls the same class ``PipelineResultsStorage``.

    A look-up that finds nothing returns None, a listing that finds nothing is empty; a record id that is no decimal
    integer finds nothing. Listings are read when first needed.
    """

    def build_pipeline_execution(
        self,
        pipeline: PipelineLike,
        run_id: str,
        runner: object,
        reporter: Reporter | None,
        input_data: Any,
        build_all: bool | None = True,
    ) -> PipelineExecution:
        """Store a new run: its execution, and all records below it.

        All of it is stored, or nothing: an iterator that raises leaves nothing behind. PENDING is then reported for
        every record, parents first.

        Args:
            pipeline: What is run; see :class:`~otel_storage.results.protocols.PipelineLike`.
            run_id: The run's id, unique in the storage; a UUID becomes the trace id. At most 255 characters.
            runner: Its class is stored as a dotted path.
            reporter: Its class is stored as a dotted path, and it is told of every record; None for no reporter.
            input_data: What the run is started with; anything JSON can hold.
            build_all: False or None stores the execution alone, as CONFIG_ERROR, for a badly configured pipeline.

        Raises:
            InvalidInput: an id or a value cannot be stored.
            RunExists: there is a run of this id.
        """
        raise NotImplementedError

    def get_pipeline_digest(self) -> PipelineDigest:
        """The figures of each pipeline that has a run, by pipeline id."""
        raise NotImplementedError

    def get_pipeline_executions(self, pipeline_id: str | None = None) -> RecordSequence[PipelineExecution]:
        """All executions, newest first; only those of one pipeline if ``pipeline_id`` is given."""
        raise NotImplementedError

    def get_pipeline_execution(self, run_id: Any) -> PipelineExecution | None:
        """The execution of the run; None if there is none."""
        raise NotImplementedError

    def get_pipeline_results(self, run_id: str | None = None) -> RecordSequence[PipelineResult]:
        """All pipeline results, or those of one run."""
        raise NotImplementedError

    def get_pipeline_result(self, _id: Any) -> PipelineResult | None:
        """The pipeline result of that id; None if there is none."""
        raise NotImplementedError

    def get_task_executions(
        self, run_id: str | None = None, pipeline_result_id: Any = None
    ) -> RecordSequence[TaskExecution]:
        """All task executions that meet every condition given."""
        raise NotImplementedError

    def get_task_execution(self, _id: Any) -> TaskExecution | None:
        """The task execution of that id; None if there is none."""
        raise NotImplementedError

    def get_task_results(
        self, run_id: str | None = None, pipeline_result_id: Any = None, task_execution_id: Any = None
    ) -> RecordSequence[TaskResult]:
        """All task results that meet every condition given."""
        raise NotImplementedError

    def get_task_result(self, _id: Any) -> TaskResult | None:
        """The task result of that id; None if there is none."""
        raise NotImplementedError

    def cleanup(self, before: datetime | None = None) -> Sequence[str]:
        """Remove runs, in whatever state, with all their records.

        Args:
            before: Remove the runs built before it; None removes all. A naive time is read in the process's zone
                (under Django that of ``TIME_ZONE``), as the host's ``clear_tasks_and_logs`` gives one.

        Returns:
            The ids of the runs removed.
        """
        raise NotImplementedError


def telling(reporter: Reporter | None) -> Callable[[PipelineStorageObject, PipelineTaskStatus, str], object]:
    """The method of the reporter that gets changes of state; without a reporter, one that does nothing.

    Raises:
        InvalidInput: the reporter has no such method.
    """
    if reporter is None:
        return _tell_nobody
    tell = getattr(reporter, "report_context_object", None)
    if not callable(tell):
        raise InvalidInput(
            f"the reporter, a {type(reporter).__name__}, has no method report_context_object(); "
            "give an object that has it, or None for no reporter"
        )
    return cast("Callable[[PipelineStorageObject, PipelineTaskStatus, str], object]", tell)


def _tell_nobody(_object: PipelineStorageObject, _status: PipelineTaskStatus, _message: str) -> None:
    """Tell nobody: there is no reporter."""


def changed_state(status: PipelineTaskStatus, message: str | None) -> str:
    """The message of a change that a reporter gets: "Changed state to <STATUS>[ - message]"."""
    return f"Changed state to {status.value}{f' - {message}' if message else ''}"


def _has_attribute(record: PipelineStorageObject, name: str) -> bool:
    return name in record.__dict__ or hasattr(type(record), name)


def _registry(module: str, name: str) -> Any:
    if not host.is_installed():
        raise ConfigurationError(
            f"only django-pipelines knows the registered pipelines and tasks; {to_install('django')}"
        )
    return getattr(host.load(module), name)
