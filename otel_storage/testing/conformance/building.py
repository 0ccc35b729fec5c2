"""Rules of building a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest

from otel_storage.results.base import PipelineStorage, PipelineStorageObject
from otel_storage.results.exceptions import InvalidInput, RunExists
from otel_storage.testing.conformance.fixtures import (
    CONFIG_ERROR,
    DONE,
    KINDS,
    PENDING,
    RUNNING,
    Builder,
    StorageFixtures,
    Times,
    found,
    fresh,
    line,
    parent,
    records,
    statuses,
    wide_pipeline,
)
from otel_storage.testing.pipelines import Config, LegacyConfig, Pipeline, RecordingReporter, Runner, Task

WAITING = {
    "PipelineExecution": "Pipeline is waiting to start",
    "PipelineResult": "Pipeline is waiting to start",
    "TaskExecution": "Task is waiting to start",
    "TaskResult": "Task is waiting to start",
}

TEN_MEGABYTES = 10 * 1024 * 1024


class Boom(Exception):
    """Raised by a pipeline of the suite."""


IDS = [("run_id", "run"), ("pipeline", "pipeline"), ("task_id", "task"), ("pipeline_task", "task")]
"""The ids that a run is built with, and what an error about one has to name."""


class BuildingRules(StorageFixtures):
    """How many records there are, what they hold, and who is told."""

    @pytest.mark.parametrize(
        ("pipeline_objects", "task_objects", "expected"),
        [
            pytest.param(None, None, (1, 2, 2), id="no iterator"),
            pytest.param(["a", "b", "c"], None, (3, 6, 6), id="iterator of the pipeline"),
            pytest.param(None, ["x", "y"], (1, 2, 3), id="iterator of a task"),
            pytest.param(["a", "b", "c"], ["x", "y"], (3, 6, 9), id="iterators at both levels"),
            pytest.param([], ["x", "y"], (0, 0, 0), id="empty iterator of the pipeline"),
            pytest.param(["a", "b"], [], (2, 4, 2), id="empty iterator of a task"),
            pytest.param(lambda: iter("ab"), lambda: (c for c in "xyz"), (2, 4, 8), id="one-shot iterators"),
        ],
    )
    def test_one_record_per_object(
        self,
        storage: PipelineStorage,
        build: Builder,
        pipeline_objects: Any,
        task_objects: Any,
        expected: tuple[int, int, int],
    ) -> None:
        """One pipeline result per object, one task execution per task of each, one task result per object of each.

        A level without an iterator counts as one object, an empty iterator as none.
        """
        pipeline = Pipeline(Task("extract", objects=task_objects), Task("load"), objects=pipeline_objects)

        run_id = build(pipeline).get_run_id()

        assert len(storage.get_pipeline_executions()) == 1
        assert (
            len(storage.get_pipeline_results(run_id)),
            len(storage.get_task_executions(run_id)),
            len(storage.get_task_results(run_id)),
        ) == expected

    def test_a_pipeline_without_tasks(self, storage: PipelineStorage, build: Builder) -> None:
        """Without tasks there are pipeline results and nothing below them."""
        run_id = build(Pipeline(objects=["a", "b"])).get_run_id()

        assert len(storage.get_pipeline_results(run_id)) == 2
        assert len(storage.get_task_executions(run_id)) == 0
        assert len(storage.get_task_results(run_id)) == 0

    def test_tasks_may_be_none(self, storage: PipelineStorage, build: Builder) -> None:
        """A pipeline whose ``tasks`` is None has none."""
        pipeline = Pipeline()
        pipeline.tasks = None

        run_id = build(pipeline).get_run_id()

        assert len(storage.get_pipeline_results(run_id)) == 1
        assert len(storage.get_task_executions(run_id)) == 0

    def test_records_hold_what_they_were_built_from(self, storage: PipelineStorage, build: Builder) -> None:
        """Each record holds its part: ids, tasks, configuration, objects, runner, reporter and input data."""
        pipeline = Pipeline(
            Task("extract", config=Config(limit=3)),
            Task("load", task_id="shop.Load", objects=["x"]),
            id="shop.Orders",
            objects=["north"],
        )

        run_id = build(pipeline, input_data={"day": 1}).get_run_id()

        execution = found(storage.get_pipeline_execution(run_id))
        (result,) = execution.get_pipeline_results()
        extract, load = result.get_task_executions()
        ((extracted,), (loaded,)) = extract.get_task_results(), load.get_task_results()
        for record in (execution, result, extract, load, extracted, loaded):
            assert record.get_run_id() == run_id
            assert record.get_pipeline_id() == "shop.Orders"
            assert record.get_input_data() == {"day": 1}
            assert record.get_status() is PENDING
            assert (record.get_started(), record.get_completed()) == (None, None)
        assert [r.get_serializable_pipeline_object() for r in (result, extract, load, extracted, loaded)] == [
            {"obj": "north"}
        ] * 5
        assert [(t.get_pipeline_task(), t.get_task_id()) for t in (extract, extracted, load, loaded)] == [
            ("extract", "tests.extract"),
            ("extract", "tests.extract"),
            ("load", "shop.Load"),
            ("load", "shop.Load"),
        ]
        assert [t.get_config() for t in (extract, extracted, load, loaded)] == [{"limit": 3}] * 2 + [{}] * 2
        assert extracted.get_serializable_task_object() is None
        assert loaded.get_serializable_task_object() == {"obj": "x"}

    def test_without_an_iterator_there_is_no_object(self, storage: PipelineStorage, build: Builder) -> None:
        """Where nothing is iterated over, the serialized object is None."""
        _, result, execution, task_result = build.line()

        assert result.get_serializable_pipeline_object() is None
        assert execution.get_serializable_pipeline_object() is None
        assert task_result.get_serializable_pipeline_object() is None
        assert task_result.get_serializable_task_object() is None

    def test_runner_and_reporter_are_paths(self, build: Builder) -> None:
        """A pipeline result holds the dotted paths of the classes of its runner and reporter."""
        result = build.line()[1]

        assert result.get_runner() == f"{Runner.__module__}.Runner"
        assert result.get_reporter() == f"{RecordingReporter.__module__}.RecordingReporter"

    @pytest.mark.parametrize(
        "input_data",
        [
            pytest.param(None, id="None"),
            pytest.param({}, id="empty"),
            pytest.param({"a": {"b": [1, 2.5, True, None, "x", [], {}]}}, id="nested"),
            pytest.param({"größe": "naïve – 日本語 – 🚀 – \u202e"}, id="unicode"),
            pytest.param({"quotes": "\"'\\%s %(a)s :name ? \n\t"}, id="quotes"),
            pytest.param([1, 2], id="list"),
            pytest.param("text", id="text"),
            pytest.param(0, id="zero"),
            pytest.param(False, id="false"),
        ],
    )
    def test_input_data_comes_back(self, storage: PipelineStorage, build: Builder, input_data: Any) -> None:
        """Every JSON value is returned unchanged, at every level."""
        run_id = build(input_data=input_data).get_run_id()

        for record in records(storage, run_id):
            stored = record.get_input_data()
            assert stored == input_data
            assert type(stored) is type(input_data)

    def test_every_record_is_reported_pending(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter
    ) -> None:
        """PENDING is reported once for every record, with the message of its kind, parents before children."""
        run_id = build(wide_pipeline(), reporter=reporter).get_run_id()

        expected = {(r.content_type_name, r.get_id()) for r in records(storage, run_id)}
        assert len(expected) == 1 + 2 + 4 + 6
        assert len(reporter.reports) == len(expected)
        assert {(report.kind, report.id) for report in reporter.reports} == expected
        seen: set[PipelineStorageObject] = set()
        for report, record in zip(reporter.reports, reporter.records, strict=True):
            above = parent(record)
            assert above is None or above in seen
            seen.add(record)
            assert (report.status, report.message) == (PENDING, WAITING[report.kind])

    def test_the_run_is_stored_before_it_is_reported(self, storage: PipelineStorage, build: Builder) -> None:
        """A reporter that looks up the record of its report finds it."""
        seen: list[str] = []

        def look(record: PipelineStorageObject) -> None:
            assert fresh(storage, record) == record
            seen.append(record.content_type_name)

        build(reporter=RecordingReporter(look))

        assert seen == list(KINDS)

    def test_the_execution_is_returned(self, storage: PipelineStorage, build: Builder) -> None:
        """Building returns the run's execution, with the requested id."""
        execution = build(run_id="my run")

        assert execution.get_run_id() == "my run"
        assert execution == storage.get_pipeline_execution("my run")

    @pytest.mark.parametrize("build_all", [False, None])
    def test_without_build_all_there_is_an_execution_alone(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter, build_all: bool | None
    ) -> None:
        """For a badly configured pipeline the execution is stored, and reported PENDING first; nothing is below it."""
        execution = build(wide_pipeline(), build_all=build_all, reporter=reporter)

        assert storage.get_pipeline_execution(execution.get_run_id()) == execution
        assert len(storage.get_pipeline_results()) == 0
        assert len(storage.get_task_executions()) == 0
        assert len(storage.get_task_results()) == 0
        assert reporter.reports == [("PipelineExecution", execution.get_id(), PENDING, "Pipeline is waiting to start")]

    def test_ids_are_integers_that_increase(self, storage: PipelineStorage, build: Builder) -> None:
        """Ids are positive integers, and later records have greater ones."""
        first, second = build(wide_pipeline()).get_run_id(), build(wide_pipeline()).get_run_id()

        for kind in KINDS:
            earlier = [r.get_id() for r in records(storage, first) if r.content_type_name == kind]
            later = [r.get_id() for r in records(storage, second) if r.content_type_name == kind]
            assert all(type(i) is int and i > 0 for i in earlier + later)
            assert len(set(earlier)) == len(earlier)
            assert max(earlier) < min(later)

    def test_runs_are_kept_apart(self, storage: PipelineStorage, build: Builder) -> None:
        """Records of one run are not found under another."""
        first, second = build(wide_pipeline()), build()

        assert len(records(storage, first.get_run_id())) == 13
        assert len(records(storage, second.get_run_id())) == 4
        assert not set(records(storage, first.get_run_id())) & set(records(storage, second.get_run_id()))


def endless_list() -> list[Any]:
    """A list that contains itself."""
    items: list[Any] = []
    items.append(items)
    return items


def deep_list(depth: int = 100_000) -> list[Any]:
    """A list in a list in a list."""
    items: list[Any] = []
    for _ in range(depth):
        items = [items]
    return items


UNSTORABLE = [
    pytest.param(math.nan, id="NaN"),
    pytest.param([{"x": math.inf}], id="Infinity"),
    pytest.param({"x": -math.inf}, id="-Infinity"),
    pytest.param({1, 2}, id="set"),
    pytest.param(b"bytes", id="bytes"),
    pytest.param(object(), id="object"),
    pytest.param({"at": datetime(2024, 1, 1, tzinfo=UTC)}, id="datetime"),
    pytest.param({("a", "b"): 1}, id="key that is no string"),
    pytest.param(endless_list(), id="circular"),
]


def raising(*, before: int = 1, error: type[BaseException] = Boom) -> Callable[[], Iterator[int]]:
    """An iterator that gives some objects and then raises."""

    def objects() -> Iterator[int]:
        yield from range(before)
        raise error("no more")

    return objects


def refuse(_obj: Any) -> Any:
    """Raises, whatever is to be serialized."""
    raise Boom("cannot serialize")


def refuse_second(obj: Any) -> Any:
    """Serializes one object and raises at the next."""
    return refuse(obj) if obj else obj


class Lacking:
    """An object like another, but for one attribute."""

    def __init__(self, like: object, name: str) -> None:
        self._like, self._name = like, name

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            raise AttributeError(f"no {name}", name=name, obj=self)
        return getattr(self._like, name)


class StrictBuildingRules(StorageFixtures):
    """All of a run is stored, or nothing; what cannot be stored is refused."""

    @pytest.mark.parametrize("build_all", [False, None])
    def test_without_build_all_the_run_is_a_config_error(
        self, storage: PipelineStorage, build: Builder, times: Times, build_all: bool | None
    ) -> None:
        """The lone execution is stored as CONFIG_ERROR with its message; it is final and never started."""
        before = times.now()
        execution = build(build_all=build_all)
        after = times.now()

        for record in (execution, fresh(storage, execution)):
            assert record.get_status() is CONFIG_ERROR
            assert record.get_status_message() == "Pipeline is badly configured"
            assert record.get_started() is None
            completed = record.get_completed()
            assert completed is not None
            assert before <= completed <= after
            assert [change.status for change in record.get_status_changes()] == [PENDING, CONFIG_ERROR]

    def test_without_build_all_no_iterator_is_asked(self, build: Builder) -> None:
        """A badly configured pipeline is not iterated over: that may be what is wrong with it."""
        build(Pipeline(Task(objects=raising()), objects=raising(before=0)), build_all=False)

    def test_a_config_error_is_final(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter
    ) -> None:
        """A later report on the lone execution is ignored."""
        execution = build(build_all=False)

        execution.report_status_change(reporter, CONFIG_ERROR, message="again")
        execution.report_status_change(reporter, RUNNING)

        assert fresh(storage, execution).get_status_message() == "Pipeline is badly configured"
        assert reporter.reports == []

    @pytest.mark.parametrize(
        "pipeline",
        [
            pytest.param(Pipeline(Task(), objects=raising(before=0)), id="pipeline iterator at once"),
            pytest.param(Pipeline(Task(), objects=raising(before=3)), id="pipeline iterator on its way"),
            pytest.param(Pipeline(Task(), Task("b", objects=raising(before=0))), id="task iterator at once"),
            pytest.param(
                Pipeline(Task(), Task("b", objects=raising(before=3)), objects=["a", "b"]),
                id="task iterator on its way",
            ),
            pytest.param(Pipeline(Task(), serialize=refuse), id="pipeline serializer"),
            pytest.param(
                Pipeline(Task(), objects=[0, 1], serialize=refuse_second), id="pipeline serializer on its way"
            ),
            pytest.param(Pipeline(Task(), Task("b", serialize=refuse)), id="task serializer"),
            pytest.param(
                Pipeline(Task(), Task("b", objects=[0, 1], serialize=refuse_second)),
                id="task serializer on its way",
            ),
        ],
    )
    def test_what_raises_leaves_nothing_behind(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter, pipeline: Pipeline
    ) -> None:
        """An error of the pipeline reaches the caller; nothing is stored, nobody is told, the run id is still free."""
        with pytest.raises(Boom):
            build(pipeline, run_id="run", reporter=reporter)

        self.assert_empty(storage)
        assert reporter.reports == []
        assert build(run_id="run") == storage.get_pipeline_execution("run")

    def test_an_interrupt_leaves_nothing_behind(self, storage: PipelineStorage, build: Builder) -> None:
        """Ctrl-C while the pipeline iterates is as good as an error, and the storage goes on working."""
        with pytest.raises(KeyboardInterrupt):
            build(Pipeline(Task(), objects=raising(error=KeyboardInterrupt)), run_id="run")

        self.assert_empty(storage)
        build(run_id="run")

    def test_an_iterator_may_read_the_storage(self, storage: PipelineStorage, build: Builder) -> None:
        """A pipeline may iterate over what earlier runs left."""
        build(wide_pipeline(), run_id="first")
        objects = lambda: (r.get_id() for r in storage.get_task_results("first"))  # noqa: E731 - two short lines

        build(Pipeline(Task(objects=objects)), run_id="second")

        assert [r.get_serializable_task_object()["obj"] for r in storage.get_task_results("second")] == [
            r.get_id() for r in storage.get_task_results("first")
        ]

    def test_a_reporter_that_raises_undoes_no_run(self, storage: PipelineStorage, build: Builder) -> None:
        """Records are reported after they are stored: an error of the reporter comes too late to lose them."""
        with pytest.raises(Boom):
            build(run_id="run", reporter=RecordingReporter(refuse))

        assert statuses(records(storage, "run")) == [PENDING] * 4

    def test_a_run_id_is_used_once(self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter) -> None:
        """A second run of one id is refused, by name; the first is left as it was, and nobody is told."""
        execution = build(wide_pipeline(), run_id="run-77", input_data={"first": True})
        execution.report_status_change(RecordingReporter(), DONE, message="fine")

        for build_all in (True, False):
            with pytest.raises(RunExists, match="run-77"):
                build(run_id="run-77", input_data={"second": True}, reporter=reporter, build_all=build_all)

        assert len(records(storage, "run-77")) == 13
        assert len(storage.get_pipeline_executions()) == 1
        first = fresh(storage, execution)
        assert first.get_input_data() == {"first": True}
        assert first.get_status_message() == "fine"
        assert reporter.reports == []

    def test_run_ids_are_told_apart_by_case(self, storage: PipelineStorage, build: Builder) -> None:
        """Ids are compared exactly, not as people read them."""
        ids = ["run", "RUN", "run ", "rún"]
        for run_id in ids:
            build(run_id=run_id)

        assert [found(storage.get_pipeline_execution(i)).get_run_id() for i in ids] == ids

    @pytest.mark.parametrize("value", UNSTORABLE)
    def test_input_data_that_is_not_json_is_refused(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter, value: Any
    ) -> None:
        """A value that JSON cannot hold is refused, with an error that names the value's place; nothing is written."""
        with pytest.raises(InvalidInput, match="input"):
            build(input_data=value, reporter=reporter)

        self.assert_empty(storage)
        assert reporter.reports == []

    def test_input_data_too_deep_for_json_is_refused(self, storage: PipelineStorage, build: Builder) -> None:
        """Data nested deeper than can be written is refused like any other."""
        with pytest.raises(InvalidInput, match="input"):
            build(input_data=deep_list())

        self.assert_empty(storage)

    @pytest.mark.parametrize("value", UNSTORABLE)
    def test_a_config_that_is_not_json_is_refused(self, storage: PipelineStorage, build: Builder, value: Any) -> None:
        """The same for a task's configuration."""
        with pytest.raises(InvalidInput, match="config"):
            build(Pipeline(Task(), Task("b", config={"x": value})))

        self.assert_empty(storage)

    @pytest.mark.parametrize("value", UNSTORABLE)
    def test_objects_that_are_not_json_are_refused(self, storage: PipelineStorage, build: Builder, value: Any) -> None:
        """The same for the objects of both levels."""
        with pytest.raises(InvalidInput, match="object"):
            build(Pipeline(Task(), objects=["a", value]))
        with pytest.raises(InvalidInput, match="object"):
            build(Pipeline(Task(), Task("b", objects=["a", value])))

        self.assert_empty(storage)

    @pytest.mark.parametrize("name", ["id", "tasks", "get_iterator", "get_serializable_pipeline_object"])
    def test_a_pipeline_that_lacks_an_attribute(self, storage: PipelineStorage, build: Builder, name: str) -> None:
        """What the pipeline lacks is named, and nothing is written."""
        pipeline = Lacking(Pipeline(Task("extract")), name)

        with pytest.raises(InvalidInput, match=f"pipeline.*{name}"):
            build(pipeline)

        assert len(storage.get_pipeline_executions()) == 0

    @pytest.mark.parametrize(
        "name", ["pipeline_task", "task_id", "cleaned_config", "get_iterator", "get_serializable_task_object"]
    )
    def test_a_task_that_lacks_an_attribute(self, storage: PipelineStorage, build: Builder, name: str) -> None:
        """What a task lacks is named, and nothing is written."""
        pipeline = Pipeline()
        lacking: Any = Lacking(Task("extract"), name)
        pipeline.tasks = {"extract": lacking}

        with pytest.raises(InvalidInput, match=f"task.*{name}"):
            build(pipeline)

        assert len(storage.get_pipeline_executions()) == 0

    @pytest.mark.parametrize("bad", [None, 5, b"x", ["x"]], ids=repr)
    @pytest.mark.parametrize(("name", "named"), IDS)
    def test_ids_that_are_no_strings_are_refused(
        self, storage: PipelineStorage, build: Builder, name: str, named: str, bad: Any
    ) -> None:
        """Run, pipeline and task ids are strings; the error says which one is not."""
        with pytest.raises(InvalidInput, match=named):
            self.build_with(storage, name, bad)

        self.assert_empty(storage)

    @pytest.mark.parametrize(("name", "named"), IDS)
    def test_ids_have_255_characters_at_most(
        self, storage: PipelineStorage, build: Builder, name: str, named: str
    ) -> None:
        """255 characters of any alphabet are stored; one more is refused, not cut."""
        with pytest.raises(InvalidInput, match=named):
            self.build_with(storage, name, "é" * 256)
        self.assert_empty(storage)

        run_id = self.build_with(storage, name, "é" * 255)

        execution, _, task_execution, _ = line(storage, run_id)
        assert "é" * 255 in (
            execution.get_run_id(),
            execution.get_pipeline_id(),
            task_execution.get_task_id(),
            task_execution.get_pipeline_task(),
        )

    @pytest.mark.parametrize(("name", "named"), IDS)
    @pytest.mark.parametrize("bad", ["a\x00b", "a\ud800b"], ids=["NUL", "lone surrogate"])
    def test_odd_ids_are_stored_or_refused(
        self, storage: PipelineStorage, build: Builder, name: str, named: str, bad: str
    ) -> None:
        """An id with characters that not every database can hold is kept as it is, or refused by name."""
        refused: InvalidInput | None = None
        try:
            self.build_with(storage, name, bad)
        except InvalidInput as error:
            refused = error

        if refused is not None:
            assert named in str(refused)
            self.assert_empty(storage)
        else:
            (execution,) = storage.get_pipeline_executions()
            assert len(records(storage, execution.get_run_id())) == 4

    @pytest.mark.parametrize(
        "input_data",
        [
            pytest.param({"nul": "a\x00b"}, id="NUL"),
            pytest.param({"surrogate": "a\ud800b"}, id="lone surrogate"),
            pytest.param({"big": 2**70, "small": -(2**70)}, id="big integers"),
            pytest.param({"tiny": 5e-324, "large": 1.7976931348623157e308, "third": 1 / 3}, id="floats"),
            pytest.param({"b": 1, "a": {"d": 1, "c": 2}}, id="order of keys"),
        ],
    )
    def test_odd_input_data_comes_back(self, storage: PipelineStorage, build: Builder, input_data: Any) -> None:
        """Every JSON value is returned complete, however the database would convert it."""
        execution = build(input_data=input_data)

        stored = fresh(storage, execution).get_input_data()
        assert stored == input_data
        assert list(stored) == list(input_data)

    def test_stored_input_data_is_a_copy(self, storage: PipelineStorage, build: Builder) -> None:
        """Changing what the run was built from does not change the run."""
        data = {"items": [1]}
        execution = build(input_data=data)
        data["items"].append(2)

        assert fresh(storage, execution).get_input_data() == {"items": [1]}

    def test_ten_megabytes_of_input_data(self, storage: PipelineStorage, build: Builder) -> None:
        """Large input data is stored whole."""
        data = {"x": "é" * (TEN_MEGABYTES // 2)}

        run_id = build(input_data=data).get_run_id()

        assert line(storage, run_id)[3].get_input_data() == data

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            pytest.param(Config(day=date(2024, 2, 29), n=1), {"day": "2024-02-29", "n": 1}, id="pydantic 2"),
            pytest.param(LegacyConfig(n=1), {"n": 1}, id="pydantic 1"),
            pytest.param({"n": 1}, {"n": 1}, id="mapping"),
        ],
    )
    def test_configs_of_every_shape(self, build: Builder, config: Any, expected: Any) -> None:
        """A task's configuration may be a model of pydantic 1 or 2 or a mapping; it is stored as JSON holds it."""
        task_execution = build.line(Pipeline(Task(config=config)))[2]

        assert task_execution.get_config() == expected

    def test_a_record_knows_when_it_was_built(self, storage: PipelineStorage, build: Builder, times: Times) -> None:
        """Every record has the time it was built."""
        before = times.now()
        run_id = build(wide_pipeline()).get_run_id()
        after = times.now()

        for record in records(storage, run_id):
            created = record.get_created()
            assert created is not None
            assert before <= created <= after

    def test_ids_are_never_used_again(self, storage: PipelineStorage, build: Builder) -> None:
        """After a cleanup new records get new ids: a queued job must not find another run's record under its id."""
        removed = {(r.content_type_name, r.get_id()) for r in build.line()}
        storage.cleanup()

        assert not removed & {(r.content_type_name, r.get_id()) for r in build.line()}

    def assert_empty(self, storage: PipelineStorage) -> None:
        """No record of any kind is stored."""
        assert len(storage.get_pipeline_executions()) == 0
        assert len(storage.get_pipeline_results()) == 0
        assert len(storage.get_task_executions()) == 0
        assert len(storage.get_task_results()) == 0

    def build_with(self, storage: PipelineStorage, name: str, value: Any) -> str:
        """Build a small run in which one id is replaced; return its run id."""
        ids: dict[str, Any] = {
            "run_id": "run",
            "pipeline": "shop.Orders",
            "task_id": "shop.Load",
            "pipeline_task": "load",
            name: value,
        }
        task = Task()
        pipeline = Pipeline(task, id=ids["pipeline"])
        task.pipeline_task, task.task_id = ids["pipeline_task"], ids["task_id"]
        return storage.build_pipeline_execution(
            pipeline, ids["run_id"], Runner(), RecordingReporter(), None
        ).get_run_id()
