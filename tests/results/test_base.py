"""What the contract's classes do by themselves, on records backed by a dict."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from otel_storage.results import clock, host
from otel_storage.results.base import (
    PipelineDigestItem,
    PipelineExecution,
    PipelineResult,
    PipelineStorage,
    PipelineStorageObject,
    RecordSequence,
    StatusChange,
    TaskExecution,
    TaskResult,
    changed_state,
)
from otel_storage.results.exceptions import ConfigurationError, InvalidInput, OtelStorageError
from otel_storage.results.model_objects import deserialize, is_model_object
from otel_storage.results.status import FAILED, PipelineTaskStatus
from otel_storage.testing.pipelines import RecordingReporter

PENDING, RUNNING, DONE = PipelineTaskStatus.PENDING, PipelineTaskStatus.RUNNING, PipelineTaskStatus.DONE
RUNTIME_ERROR = PipelineTaskStatus.RUNTIME_ERROR

START = datetime(2024, 2, 29, 12, tzinfo=UTC)


class Rows(list[Any]):
    """Records of the dict-backed kind; a listing in memory."""

    def all(self) -> Rows:
        """The listing itself."""
        return self


class Stored:
    """Keeps a record's fields in attributes, and what ``save`` has written in ``saved``."""

    def __init__(self, number: int = 1, above: Any = None, **fields: Any) -> None:
        self.id = number
        self.run_id = "run"
        self.pipeline_id = "shop.Orders"
        self.status = PENDING
        self.created: datetime | None = START
        self.started: datetime | None = None
        self.completed: datetime | None = None
        self.input_data: Any = {"day": 1}
        self.above = above
        self.saved: list[dict[str, Any]] = []
        for name, value in fields.items():
            setattr(self, name, value)

    def save(self) -> None:
        """Remember what the record is like now."""
        self.saved.append({"status": self.status, "started": self.started, "completed": self.completed})


class Execution(Stored, PipelineExecution):
    """An execution of two results."""

    below: Rows

    def get_pipeline_results(self) -> RecordSequence[PipelineResult]:
        """The results."""
        return self.below  # type: ignore[return-value]  # a list counts with an argument


class Result(Stored, PipelineResult):
    """A pipeline result."""

    below: Rows

    def get_pipeline_execution(self) -> PipelineExecution:
        """The execution."""
        return self.above  # type: ignore[no-any-return]

    def get_task_executions(self) -> RecordSequence[TaskExecution]:
        """The task executions."""
        return self.below  # type: ignore[return-value]  # a list counts with an argument


class Executed(Stored, TaskExecution):
    """A task execution."""

    below: Rows

    def get_pipeline_result(self) -> PipelineResult:
        """The pipeline result."""
        return self.above  # type: ignore[no-any-return]

    def get_task_results(self) -> RecordSequence[TaskResult]:
        """The task results."""
        return self.below  # type: ignore[return-value]  # a list counts with an argument


class Done(Stored, TaskResult):
    """A task result."""

    def get_task_execution(self) -> TaskExecution:
        """The task execution."""
        return self.above  # type: ignore[no-any-return]

    def get_status_changes(self) -> Sequence[StatusChange]:
        """A history of two states."""
        return [StatusChange(PENDING, START, "waiting"), StatusChange(DONE, START, "fine")]


class Broken(Stored, TaskResult):
    """A task result with an error in a property and one of its own getters and setters."""

    @property
    def colour(self) -> str:
        """Looks up something that is not there."""
        return self.paint.colour  # type: ignore[no-any-return]

    @property
    def paint(self) -> Any:
        """Raises an AttributeError of its own."""
        raise AttributeError("the pot is empty")

    def get_shape(self) -> str:
        """A getter whose attribute is something else."""
        return "round"

    def set_shape(self, value: str) -> None:
        """A setter that does not set its attribute."""
        self.carved = value

    shape = "square"


def one_of_each() -> tuple[Execution, Result, Executed, Done]:
    """A run with one record of each kind."""
    execution = Execution(1)
    result = Result(2, execution)
    task_execution = Executed(3, result)
    task_result = Done(4, task_execution)
    execution.below, result.below, task_execution.below = Rows([result]), Rows([task_execution]), Rows([task_result])
    return execution, result, task_execution, task_result


@pytest.fixture
def reporter() -> RecordingReporter:
    """A reporter that was told nothing yet."""
    return RecordingReporter()


def test_a_getter_falls_back_to_the_attribute() -> None:
    """``get_x`` without a method gives the attribute, of the class or of the object, at the time of the call."""
    record: Any = Done(4)
    record.size = 1
    get_size = record.get_size
    record.size = 2

    assert get_size() == 2
    assert record.get_above() is None
    assert record.get_content_type_name() == "TaskResult"
    assert record.get_pk() == 4


def test_a_method_wins_over_the_attribute() -> None:
    """``get_x`` and ``set_x`` are the methods where there are any."""
    record: Any = Broken()

    record.set_shape("oval")

    assert record.get_shape() == "round"
    assert record.shape == "square"
    assert record.carved == "oval"


def test_a_setter_falls_back_to_the_attribute() -> None:
    """``set_x(v)`` without a method sets the attribute, known before or not."""
    record: Any = Done()
    record.set_above("parent")
    record.set_size(3)

    assert record.above == "parent"
    assert record.get_size() == 3


@pytest.mark.parametrize("name", ["get_size", "size", "get_", "set_", "getsize", "get_get_size", "_get_size", "Get_id"])
def test_what_is_not_there(name: str) -> None:
    """Any other name is an AttributeError that says the name and the class."""
    with pytest.raises(AttributeError, match=rf"Done.*'{name}'"):
        getattr(Done(), name)


def test_hasattr_tells_the_truth() -> None:
    """A getter exists where its attribute does, and not elsewhere."""
    assert hasattr(Done(), "get_above")
    assert not hasattr(Done(), "get_size")
    assert getattr(Done(), "get_size", None) is None


@pytest.mark.parametrize("name", ["colour", "paint"])
def test_an_error_inside_a_property_surfaces(name: str) -> None:
    """An AttributeError raised inside a property is told as it is, by the attribute and by its getter."""
    record = Broken()

    with pytest.raises(AttributeError, match="the pot is empty"):
        getattr(record, name)
    with pytest.raises(AttributeError, match="the pot is empty"):
        getattr(record, f"get_{name}")()


def test_the_host_sees_its_own_classes() -> None:
    """Where the host is installed our records and storage are instances of its base classes."""
    if not host.is_installed():
        pytest.skip("django-pipelines is not installed")
    theirs = host.load("results.base")

    for ours in one_of_each():
        assert isinstance(ours, theirs.PipelineStorageObject)
        assert isinstance(ours, getattr(theirs, ours.content_type_name))
    assert issubclass(PipelineStorage, theirs.PipelineResultsStorage)
    assert issubclass(PipelineDigestItem, theirs.PipelineDigestItem)


def test_every_field_has_a_getter() -> None:
    """The documented getters are methods that read the field."""
    record: Any = Done(
        4, pipeline_task="load", task_id="shop.Load", config={"n": 1}, serializable_task_object={"obj": "x"}
    )
    record.serializable_pipeline_object = {"obj": "north"}

    assert (record.get_id(), record.pk) == (4, 4)
    assert (record.get_run_id(), record.get_pipeline_id()) == ("run", "shop.Orders")
    assert (record.get_status(), record.get_get_status(), record.get_status_display()) == (PENDING, PENDING, "PENDING")
    assert (record.get_created(), record.get_started(), record.get_completed()) == (START, None, None)
    assert record.get_input_data() == {"day": 1}
    assert (record.get_pipeline_task(), record.get_task_id(), record.get_config()) == ("load", "shop.Load", {"n": 1})
    assert record.get_serializable_task_object() == record.get_task_object() == record.task_object == {"obj": "x"}
    assert record.get_serializable_pipeline_object() == record.pipeline_object == {"obj": "north"}
    assert record.get_status_message() == "fine"
    assert record.get_trace_id() is None


def test_a_status_may_be_kept_as_text() -> None:
    """A storage that keeps a status by its name gives the member."""
    assert Done(status="RUNNING").get_status() is RUNNING


def test_setters_of_the_contract() -> None:
    """The documented setters set the field, a status by its name too."""
    record = Done()
    record.set_status("DONE")
    record.set_started(START)
    record.set_completed(START + timedelta(days=2, seconds=3))
    record.set_input_data([1])

    assert (record.status, record.input_data) == (DONE, [1])
    assert record.get_duration() == record.duration == timedelta(days=2, seconds=3)
    with pytest.raises(InvalidInput):
        record.set_status("nonsense")


@pytest.mark.parametrize("missing", ["started", "completed"])
def test_no_duration_without_both_times(missing: str) -> None:
    """A record that has not started, or not completed, has no duration."""
    fields: dict[str, Any] = {"started": START, "completed": START, missing: None}

    assert Done(**fields).get_duration() is None


@pytest.mark.parametrize("status", list(PipelineTaskStatus), ids=lambda status: str(status.value))
def test_failed(status: PipelineTaskStatus) -> None:
    """A record is failed in the failed statuses."""
    assert Done(status=status).failed is (status in FAILED)


def test_equality_is_by_kind_and_id() -> None:
    """Two objects of one kind and id are equal, whatever their other values."""
    assert Done(1) == Done(1, run_id="other")
    assert hash(Done(1)) == hash(Done(1, run_id="other"))
    assert Done(1) != Done(2)
    assert Done(1) != Executed(1)
    assert len({Done(1), Done(1), Done(2), Executed(1), Result(1), Execution(1)}) == 5
    for other in (1, "1", None, ("TaskResult", 1)):
        assert Done(1) != other


@pytest.mark.parametrize("copier", [pickle.dumps, copy.copy, copy.deepcopy])
def test_records_are_not_copied(copier: Any) -> None:
    """Pickling and copying are refused, and the error says what to pass instead."""
    with pytest.raises(TypeError, match="a TaskResult cannot be pickled; pass its id"):
        copier(Done())


def test_repr() -> None:
    """A repr has kind, id and run, and no data."""
    assert repr(Done(4, input_data={"password": "secret"})) == "<TaskResult 4 of run run>"


def test_related_managers() -> None:
    """The names of the host's related managers give the children."""
    execution, result, task_execution, task_result = one_of_each()

    assert list(execution.results.all()) == [result]
    assert list(result.task_executions.all()) == [task_execution]
    assert list(task_execution.results.all()) == [task_result]
    assert execution.task_result_count == 1


@pytest.mark.parametrize("status", [RUNNING, *PipelineTaskStatus.final_statuses()], ids=lambda status: status.value)
def test_a_report_by_default(
    reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch, status: PipelineTaskStatus
) -> None:
    """A record that only has ``save`` reports as the contract says: parents first, with times, message and status."""
    monkeypatch.setattr(clock, "now", lambda: START + timedelta(seconds=5))
    run = one_of_each()

    run[3].report_status_change(reporter, status, message="because")

    expected = f"Changed state to {status.value} - because"
    assert reporter.reports == [(r.content_type_name, r.id, status, expected) for r in run]
    assert reporter.records == list(run)
    moment = START + timedelta(seconds=5)
    times = {"started": moment, "completed": None} if status is RUNNING else {"started": None, "completed": moment}
    assert [record.saved for record in run] == [[{"status": status, **times}]] * 4


def test_a_report_by_name(reporter: RecordingReporter) -> None:
    """A status may be its name; the reporter gets the member."""
    run = one_of_each()
    name: Any = "DONE"

    run[0].report_status_change(reporter, name)

    assert run[0].status is DONE
    assert reporter.reports == [("PipelineExecution", 1, DONE, "Changed state to DONE")]


def test_a_report_without_propagation(reporter: RecordingReporter) -> None:
    """The record alone advances."""
    run = one_of_each()

    run[3].report_status_change(reporter, DONE, propagate=False)

    assert [record.status for record in run] == [PENDING, PENDING, PENDING, DONE]
    assert reporter.reports == [("TaskResult", 4, DONE, "Changed state to DONE")]


@pytest.mark.parametrize(
    ("old", "new"), [(RUNNING, PENDING), (RUNNING, RUNNING), (DONE, RUNTIME_ERROR), (DONE, DONE), (PENDING, PENDING)]
)
def test_a_report_that_does_not_advance(
    reporter: RecordingReporter, old: PipelineTaskStatus, new: PipelineTaskStatus
) -> None:
    """The report is ignored: nothing is saved, no reporter is told, and no parent advances."""
    run = one_of_each()
    run[3].status = old

    run[3].report_status_change(reporter, new, message="late")

    assert [record.saved for record in run] == [[], [], [], []]
    assert [record.status for record in run] == [PENDING, PENDING, PENDING, old]
    assert reporter.reports == []


def test_a_report_of_no_status(reporter: RecordingReporter) -> None:
    """What is no status is refused before anything happens, on a final record too."""
    run = one_of_each()
    run[0].status = DONE
    bad: Any = "nonsense"

    for record in run:
        with pytest.raises(InvalidInput):
            record.report_status_change(reporter, bad)
        assert record.saved == []
    assert reporter.reports == []


@pytest.mark.parametrize("message", ["", None])
def test_changed_state(message: str | None) -> None:
    """Without a message the reporter is told the status alone."""
    assert changed_state(DONE, message) == "Changed state to DONE"
    assert changed_state(DONE, "all of it") == "Changed state to DONE - all of it"


@pytest.mark.parametrize("empty", [None, {}, "", []])
def test_deserializing_nothing(empty: Any) -> None:
    """Nothing stored is no object."""
    assert deserialize(empty) is None


@pytest.mark.parametrize("plain", [{"obj": 1}, [1], "text", {"pk": 1, "app_label": "shop"}])
def test_deserializing_plain_objects(plain: Any) -> None:
    """What does not name a model object is given as it is."""
    assert deserialize(plain) == plain


def test_a_model_object_without_django(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Django is not configured a model object's identity is given as it is stored."""
    monkeypatch.setattr(host, "django_is_configured", lambda: False)
    identity = {"pk": 1, "app_label": "shop", "model_name": "order"}

    assert is_model_object(identity)
    assert deserialize(identity) == identity


def test_no_registry_without_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the host knows registered classes; without it the error says what to install."""
    monkeypatch.setattr(host, "is_installed", lambda: False)
    record: Any = Done(4, pipeline_task="load", task_id="shop.Load", config={})

    for ask in (record.get_pipeline, record.get_task):
        with pytest.raises(ConfigurationError, match=r"pip install '\.\[django\]'"):
            ask()


def test_the_bare_contract_promises_nothing() -> None:
    """What a storage has to write itself raises NotImplementedError until it does."""
    storage, record = PipelineStorage(), PipelineStorageObject()

    for unwritten in (
        storage.get_pipeline_digest,
        storage.get_pipeline_executions,
        storage.get_pipeline_results,
        storage.get_task_executions,
        storage.get_task_results,
        storage.cleanup,
        record.save,
        record.get_status_changes,
    ):
        with pytest.raises(NotImplementedError):
            unwritten()


def test_an_error_explains_itself() -> None:
    """An error raised without a message has its docstring for one, on one line; all have one root."""
    from otel_storage.results import exceptions

    errors = [e for e in vars(exceptions).values() if isinstance(e, type) and issubclass(e, OtelStorageError)]

    assert len(errors) > 5
    for error in errors:
        text = str(error())
        assert len(text) > 20
        assert "\n" not in text
        assert str(error("this happened")) == "this happened"
