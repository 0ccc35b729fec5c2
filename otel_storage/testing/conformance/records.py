"""Rules of what a record is and gives."""

from __future__ import annotations

import copy
import pickle
import re
import sys
from datetime import timedelta
from typing import Any

import pytest

from otel_storage.results import host
from otel_storage.results.base import PipelineStorage, StatusChange, TaskExecution
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.testing.conformance.building import WAITING
from otel_storage.testing.conformance.fixtures import (
    ALL,
    DONE,
    FAILED,
    KINDS,
    PENDING,
    RUNNING,
    RUNTIME_ERROR,
    Builder,
    StorageFixtures,
    Times,
    found,
    fresh,
    line,
    parent,
    records,
    status_id,
    statuses,
    wide_pipeline,
)
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Task


def django_is_ready() -> bool:
    """Whether ``django.setup()`` was called."""
    apps = sys.modules.get("django.apps")
    return bool(apps is not None and apps.apps.ready)


class RecordRules(StorageFixtures):
    """The parts of a record that the host's pages, runners and reporters read."""

    def test_kinds(self, build: Builder) -> None:
        """A record's ``content_type_name`` is the name of its kind."""
        assert tuple(record.content_type_name for record in build.line()) == KINDS

    def test_ids_under_every_name(self, build: Builder) -> None:
        """``id``, ``pk`` and ``get_id()`` are one."""
        for record in build.line():
            assert record.id == record.pk == record.get_id()

    def test_getters_and_attributes_agree(self, build: Builder) -> None:
        """The value of ``get_x()`` is the attribute ``x`` too, because the host's pages use both."""
        names = {
            0: ("run_id", "pipeline_id", "started", "completed", "input_data"),
            1: ("serializable_pipeline_object", "pipeline_object", "runner", "reporter"),
            2: ("pipeline_task", "task_id", "config", "serializable_pipeline_object", "pipeline_object"),
            3: ("serializable_task_object", "task_object", "pipeline_task", "task_id", "config"),
        }
        made = build.line(
            pipeline=Pipeline(Task(objects=["x"], config={"n": 1}), objects=["north"]), input_data={"day": 1}
        )

        for level, record in enumerate(made):
            for name in (*names[0], *(names[level] if level else ())):
                assert getattr(record, f"get_{name}")() == getattr(record, name)

    def test_objects_are_deserialized(self, build: Builder) -> None:
        """An object that is no model object is given as it was serialized; None stays None."""
        made = build.line(pipeline=Pipeline(Task(objects=[0], serialize=lambda n: {"n": n}), objects=[None, "north"]))

        assert made[1].get_pipeline_object() is None
        assert made[3].get_pipeline_object() is None
        assert made[3].get_task_object() == {"n": 0}

    def test_unknown_getters(self, build: Builder) -> None:
        """``get_x`` without a method or attribute behind it is an AttributeError as normal."""
        record: Any
        for record in build.line():
            assert not hasattr(record, "get_colour")
            with pytest.raises(AttributeError, match="get_colour"):
                record.get_colour()
            with pytest.raises(AttributeError, match="colour"):
                _ = record.colour

    def test_getters_of_attributes(self, build: Builder) -> None:
        """``get_x`` of an attribute that the object has gives its value at the time of the call."""
        for record in build.line():
            odd: Any = record
            odd.colour = "red"
            get_colour = odd.get_colour
            odd.colour = "blue"
            assert get_colour() == "blue"

    def test_records_are_equal_by_kind_and_id(self, storage: PipelineStorage, build: Builder) -> None:
        """Two objects of one record are equal and hash alike; those of other records are not."""
        run_id = build(wide_pipeline()).get_run_id()

        once, again = records(storage, run_id), records(storage, run_id)

        for i, a in enumerate(once):
            for j, b in enumerate(again):
                assert (a == b) is (i == j)
                assert (a != b) is (i != j)
        assert [hash(a) for a in once] == [hash(b) for b in again]
        assert len({*once, *again}) == 13

    def test_records_of_different_kinds_differ(self, build: Builder) -> None:
        """Records of two kinds are not equal, even where they have one id."""
        made = build.line()

        assert len(set(made)) == 4
        assert all(a != b for a in made for b in made if a is not b)

    def test_records_equal_nothing_else(self, build: Builder) -> None:
        """A record is not equal to its id, to None or to any other object."""
        for record in build.line():
            other: Any
            for other in (record.get_id(), str(record.get_id()), None, object(), ""):
                assert record != other

    def test_siblings_share_their_parent(self, storage: PipelineStorage, build: Builder) -> None:
        """Records of one sequence that have one parent have the same object for it, all the way up."""
        run_id = build(wide_pipeline()).get_run_id()
        execution = found(storage.get_pipeline_execution(run_id))

        first, second = execution.get_pipeline_results()
        assert first.get_pipeline_execution() is second.get_pipeline_execution()
        extract, load = first.get_task_executions()
        assert extract.get_pipeline_result() is load.get_pipeline_result()
        a, b = load.get_task_results()
        assert a.get_task_execution() is b.get_task_execution()
        assert (
            a.get_task_execution().get_pipeline_result().get_pipeline_execution()
            is b.get_task_execution().get_pipeline_result().get_pipeline_execution()
        )

    def test_parents_are_the_right_ones(self, storage: PipelineStorage, build: Builder) -> None:
        """Going down and up again leads to where one started."""
        run_id = build(wide_pipeline()).get_run_id()
        execution = found(storage.get_pipeline_execution(run_id))

        for result in execution.get_pipeline_results():
            assert result.get_pipeline_execution() == execution
            for task_execution in result.get_task_executions():
                assert task_execution.get_pipeline_result() == result
                for task_result in task_execution.get_task_results():
                    assert task_result.get_task_execution() == task_execution

    def test_a_parent_shows_what_a_child_reported(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter
    ) -> None:
        """The record a child was reached from, and the parent reached from the child, show a propagated change.

        A runner asks its own objects: were they stale, a failed run would end DONE.
        """
        execution = found(storage.get_pipeline_execution(build(wide_pipeline()).get_run_id()))
        result = execution.get_pipeline_results()[0]
        task_execution = result.get_task_executions()[0]
        task_result = task_execution.get_task_results()[0]

        task_result.report_status_change(reporter, RUNTIME_ERROR, message="broken")

        assert statuses([task_result, task_execution, result, execution]) == [RUNTIME_ERROR] * 4
        above = task_result.get_task_execution()
        assert statuses([above, above.get_pipeline_result()]) == [RUNTIME_ERROR] * 2
        assert above.get_pipeline_result().get_pipeline_execution().get_status() is RUNTIME_ERROR

    @pytest.mark.parametrize("status", ALL, ids=status_id)
    def test_status(self, storage: PipelineStorage, build: Builder, status: PipelineTaskStatus) -> None:
        """A status is the member of PipelineTaskStatus itself, and is displayed by its name."""
        record = found(storage.get_pipeline_execution(build().get_run_id()))
        record.report_status_change(RecordingReporter(), status)

        for seen in (record, fresh(storage, record)):
            assert seen.get_status() is status
            assert seen.get_status_display() == status.value

    def test_duration(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter, times: Times
    ) -> None:
        """An execution's ``duration`` is completed - started as a timedelta, and None before that."""
        execution = found(storage.get_pipeline_execution(build().get_run_id()))
        assert execution.duration is None
        execution.report_status_change(reporter, RUNNING)
        assert fresh(storage, execution).duration is None
        times.advance(100_000)
        execution.report_status_change(reporter, DONE)

        for record in (execution, fresh(storage, execution)):
            started, completed = record.get_started(), record.get_completed()
            assert started is not None
            assert completed is not None
            assert record.duration == completed - started
            assert record.duration > timedelta(0)

    def test_task_result_count(self, storage: PipelineStorage, build: Builder) -> None:
        """An execution knows how many task results its run has."""
        build()
        execution = build(wide_pipeline())

        assert execution.task_result_count == 6
        assert fresh(storage, execution).task_result_count == 6
        assert storage.get_pipeline_executions()[0].task_result_count == 6
        assert build(Pipeline()).task_result_count == 0

    def test_get_get_status(self, build: Builder) -> None:
        """A task result has the getter that the host's results page asks for by mistake."""
        task_result: Any = build.line()[3]

        assert task_result.get_get_status() is PENDING


class StrictRecordRules(StorageFixtures):
    """The promises of our contract about a record beyond what the host reads."""

    def test_every_record_has_every_getter(self, build: Builder, times: Times) -> None:
        """All four kinds have id, run, pipeline, status, times, input data, history and trace."""
        before = times.now()
        made = build.line(input_data={"day": 1})
        after = times.now()

        for record in made:
            created = record.get_created()
            assert created is not None
            assert before <= created <= after
            assert record.get_status() is PENDING
            assert record.get_status_display() == "PENDING"
            assert (record.get_started(), record.get_completed(), record.get_duration()) == (None, None, None)
            assert record.get_input_data() == {"day": 1}
            assert record.duration is None
            assert record.failed is False
            (change,) = record.get_status_changes()
            assert isinstance(change, StatusChange)
            assert change == (PENDING, created, WAITING[record.content_type_name])
            assert record.get_status_message() == WAITING[record.content_type_name]
            trace_id = record.get_trace_id()
            assert trace_id is None or re.fullmatch("[0-9a-f]{32}", trace_id)

    def test_all_records_of_a_run_have_one_trace(self, storage: PipelineStorage, build: Builder) -> None:
        """The trace id belongs to the run."""
        run_id = build(wide_pipeline()).get_run_id()

        assert len({record.get_trace_id() for record in records(storage, run_id)}) == 1

    @pytest.mark.parametrize("kind", range(4), ids=KINDS)
    def test_duration_of_every_kind(
        self, storage: PipelineStorage, build: Builder, times: Times, reporter: RecordingReporter, kind: int
    ) -> None:
        """Every kind of record has a duration once it has started and completed, days included."""
        record = build.line()[kind]
        record.report_status_change(reporter, RUNNING)
        times.advance(200_000)
        record.report_status_change(reporter, RUNTIME_ERROR)

        stored = fresh(storage, record)
        started, completed = stored.get_started(), stored.get_completed()
        assert started is not None
        assert completed is not None
        assert stored.get_duration() == stored.duration == completed - started > timedelta(0)

    @pytest.mark.parametrize("status", ALL, ids=status_id)
    def test_failed(self, storage: PipelineStorage, build: Builder, status: PipelineTaskStatus) -> None:
        """``failed`` is true in the four failed statuses, CANCELLED included."""
        made = build.line()
        made[3].report_status_change(RecordingReporter(), status)

        for record in line(storage, made[0].get_run_id()):
            assert record.failed is (status in FAILED)

    def test_registered_classes(self, build: Builder) -> None:
        """An id that the host's registry does not know is an IndexError; a missing registry is a ConfigurationError."""
        if host.is_installed() and not django_is_ready():
            pytest.skip("the host's registries need Django to be set up")

        for record in build.line():
            with pytest.raises((IndexError, ConfigurationError)):
                record.get_pipeline()
        with pytest.raises((IndexError, ConfigurationError)):
            build.line()[3].get_task()

    def test_setters_of_attributes(self, build: Builder) -> None:
        """``set_x(v)`` without a method of that name sets the attribute, which ``get_x`` then gives."""
        for record in build.line():
            odd: Any = record
            odd.set_colour("red")
            assert odd.colour == odd.get_colour() == "red"

    def test_errors_inside_properties_surface(self, build: Builder) -> None:
        """An AttributeError raised inside the property behind ``get_x`` is told as it is."""

        def broken(_record: Any) -> Any:
            raise AttributeError("the real cause")

        for record in build.line():
            kind = type(record)
            odd = type(f"Odd{kind.__name__}", (kind,), {"broken": property(broken)})
            made: Any = object.__new__(odd)
            with pytest.raises(AttributeError, match="the real cause"):
                made.get_broken()
            with pytest.raises(AttributeError, match="the real cause"):
                _ = made.broken

    @pytest.mark.parametrize("pick", [pickle.dumps, copy.copy, copy.deepcopy])
    def test_records_are_not_copied(self, build: Builder, pick: Any) -> None:
        """A record cannot be pickled or copied; the error says to pass its id."""
        for record in build.line():
            with pytest.raises(TypeError, match="id"):
                pick(record)

    def test_a_repr_tells_no_data(self, build: Builder) -> None:
        """A record's repr has kind, id and run; what the run was given stays out of logs and tracebacks."""
        made = build.line(
            pipeline=Pipeline(Task(objects=["secret"], config={"x": "secret"}), objects=["secret"]),
            run_id="run-77",
            input_data={"password": "secret"},
        )

        for record in made:
            assert record.content_type_name in repr(record)
            assert str(record.get_id()) in repr(record)
            assert "run-77" in repr(record)
            assert "secret" not in repr(record) + str(record)

    def test_parents_of_listed_records_are_shared(self, storage: PipelineStorage, build: Builder) -> None:
        """Siblings in a storage's listing have the same object for a parent too, all the way up."""
        run_id = build(wide_pipeline(), run_id="run").get_run_id()

        listed = [*storage.get_task_results(run_id)]
        parents: dict[int, TaskExecution] = {}
        for record in [*listed, *storage.get_task_executions(run_id), *storage.get_pipeline_results(run_id)]:
            assert parent(record) is not None
        for record in listed:
            above = record.get_task_execution()
            assert parents.setdefault(above.get_id(), above) is above
        assert len(parents) == 4
        results = {id(above.get_pipeline_result()) for above in parents.values()}
        assert len(results) == 2
        executions = {id(above.get_pipeline_result().get_pipeline_execution()) for above in parents.values()}
        assert len(executions) == 1

    def test_a_parent_shows_what_others_reported(
        self,
        storage: PipelineStorage,
        other_storage: PipelineStorage,
        build: Builder,
        reporter: RecordingReporter,
    ) -> None:
        """A parent reached from a newly read child shows its status as another process has left it."""
        run_id = build(wide_pipeline()).get_run_id()
        stale = storage.get_task_results(run_id)
        assert stale[0].get_task_execution().get_status() is PENDING
        other_storage.get_task_results(run_id)[0].report_status_change(reporter, RUNTIME_ERROR)

        child = storage.get_task_results(run_id)[0]

        above = child.get_task_execution()
        assert statuses([above, above.get_pipeline_result()]) == [RUNTIME_ERROR] * 2
        assert above.get_pipeline_result().get_pipeline_execution().get_status() is RUNTIME_ERROR
