"""Rules of the sequences that listings are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from otel_storage.results.base import (
    PipelineExecution,
    PipelineResult,
    PipelineStorage,
    PipelineStorageObject,
    RecordSequence,
    TaskExecution,
)
from otel_storage.testing.conformance.fixtures import (
    DONE,
    PENDING,
    Builder,
    StorageFixtures,
    found,
    parent,
    statuses,
    wide_pipeline,
)
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Task

SLICES = [
    slice(None),
    slice(0, 2),
    slice(1, None),
    slice(2, 4),
    slice(None, 3),
    slice(4, 100),
    slice(100, 200),
    slice(3, 3),
    slice(3, 1),
    slice(0, 5, 2),
    slice(None, None, 3),
    slice(1, 4, 10),
]

BACKWARD_SLICES = [
    slice(-2, None),
    slice(None, -1),
    slice(-4, -2),
    slice(-100, 2),
    slice(None, None, -1),
    slice(4, 1, -1),
    slice(-1, None, -2),
]

LISTINGS: list[Any] = [
    pytest.param(lambda s: s.get_pipeline_executions(), id="executions"),
    pytest.param(lambda s: s.get_pipeline_results(), id="pipeline results"),
    pytest.param(lambda s: s.get_task_executions("run"), id="task executions of a run"),
    pytest.param(lambda s: s.get_task_results("run"), id="task results of a run"),
    pytest.param(lambda s: s.get_pipeline_execution("run").get_pipeline_results(), id="results of an execution"),
    pytest.param(lambda s: s.get_pipeline_results("run")[0].get_task_executions(), id="executions of a result"),
    pytest.param(lambda s: s.get_task_executions("run")[0].get_task_results(), id="results of a task execution"),
]
"""Each gives five records or more."""

PARENTS: list[Any] = [
    pytest.param(lambda s: s.get_pipeline_executions(), id="executions"),
    pytest.param(lambda s: s.get_pipeline_results("run"), id="pipeline results of a run"),
    pytest.param(lambda s: s.get_pipeline_execution("run").get_pipeline_results(), id="results of an execution"),
    pytest.param(lambda s: s.get_pipeline_results("run")[1].get_task_executions(), id="executions of a result"),
    pytest.param(lambda s: s.get_task_executions("run"), id="task executions of a run"),
    pytest.param(lambda s: s.get_task_executions("run")[1:3], id="some task executions"),
    pytest.param(lambda s: [s.get_task_executions("run")[1]], id="a task execution by its index"),
    pytest.param(lambda s: [s.get_pipeline_execution("run")], id="an execution that was looked up"),
]
"""Listings of records that have others below them."""


def children(record: PipelineStorageObject) -> RecordSequence[PipelineStorageObject]:
    """The records below, as the getter of the kind gives them."""
    if isinstance(record, PipelineExecution):
        return record.get_pipeline_results()
    return record.get_task_executions() if isinstance(record, PipelineResult) else task_results(record)


def children_by_name(record: PipelineStorageObject) -> RecordSequence[PipelineStorageObject]:
    """The records below, under the name of the host's related manager."""
    return record.task_executions if isinstance(record, PipelineResult) else _with_results(record).results


def task_results(record: PipelineStorageObject) -> RecordSequence[PipelineStorageObject]:
    """The results of a task execution."""
    assert isinstance(record, TaskExecution)
    return record.get_task_results()


def _with_results(record: PipelineStorageObject) -> PipelineExecution | TaskExecution:
    assert isinstance(record, (PipelineExecution, TaskExecution))
    return record


class SequenceRules(StorageFixtures):
    """Every use that the host's pages and runners make of a listing works."""

    @pytest.fixture
    def many(self, storage: PipelineStorage, build: Builder) -> None:
        """Five runs, and in one of them five records or more at every level."""
        for number in range(4):
            build(run_id=f"other-{number}")
        build(Pipeline(*(Task(f"t{n}", objects=range(5)) for n in range(5)), objects=range(5)), run_id="run")

    @pytest.mark.usefixtures("many")
    @pytest.mark.parametrize("listing", LISTINGS)
    def test_length(self, storage: PipelineStorage, listing: Any) -> None:
        """``len`` and ``count()``, which takes no argument, give the number of records, read or not."""
        sequence = listing(storage)
        size = len(list(sequence))

        assert size >= 5
        assert len(sequence) == sequence.count() == size
        assert len(listing(storage)) == listing(storage).count() == size

    @pytest.mark.usefixtures("many")
    @pytest.mark.parametrize("listing", LISTINGS)
    def test_index(self, storage: PipelineStorage, listing: Any) -> None:
        """``[i]`` gives the i-th record, read or not, and raises IndexError beyond the last."""
        sequence = listing(storage)
        everything = list(sequence)

        for number, record in enumerate(everything):
            assert sequence[number] == record
            assert listing(storage)[number] == record
        for unread in (sequence, listing(storage)):
            with pytest.raises(IndexError):
                unread[len(everything)]

    @pytest.mark.usefixtures("many")
    @pytest.mark.parametrize("listing", LISTINGS)
    def test_slices(self, storage: PipelineStorage, listing: Any) -> None:
        """A slice holds what the slice of a list would, read or not."""
        sequence = listing(storage)
        everything = list(sequence)

        for part in SLICES:
            for unread in (sequence, listing(storage)):
                rows = unread[part]
                assert len(rows) == len(everything[part]), part
                assert list(rows) == everything[part], part

    @pytest.mark.usefixtures("many")
    @pytest.mark.parametrize("listing", LISTINGS)
    def test_iteration_gives_the_same_objects(self, storage: PipelineStorage, listing: Any) -> None:
        """Iterating twice gives the same objects: a runner that reports on one sees its state the next time."""
        sequence = listing(storage)

        first, second = list(sequence), list(sequence)

        assert all(a is b for a, b in zip(first, second, strict=True))
        assert len({id(record) for record in first}) == len(first)

    @pytest.mark.usefixtures("many")
    @pytest.mark.parametrize("listing", LISTINGS)
    def test_nested_iteration(self, storage: PipelineStorage, listing: Any) -> None:
        """Iterations of one sequence do not disturb each other."""
        sequence = listing(storage)
        size = len(sequence)

        pairs = [(a, b) for a in sequence for b in sequence]

        assert len(pairs) == size * size
        assert len(set(pairs)) == size * size

    @pytest.mark.usefixtures("many")
    @pytest.mark.parametrize("listing", LISTINGS)
    def test_a_page_and_its_records(self, storage: PipelineStorage, listing: Any) -> None:
        """Breaking off an iteration, and starting again, starts at the first record."""
        sequence = listing(storage)

        first = next(iter(sequence))

        assert first == next(iter(sequence)) == sequence[0]

    @pytest.mark.usefixtures("many")
    @pytest.mark.parametrize("listing", LISTINGS)
    def test_truth_and_membership(self, storage: PipelineStorage, listing: Any) -> None:
        """A sequence is true if it holds a record; ``in`` looks by kind and id."""
        sequence = listing(storage)

        assert sequence
        assert list(sequence)[2] in listing(storage)
        assert found(storage.get_pipeline_execution("other-0")) in storage.get_pipeline_executions()
        assert not storage.get_pipeline_results("unknown")

    def test_executions_are_newest_first(self, storage: PipelineStorage, build: Builder) -> None:
        """The runs page shows the last run at the top, whatever has started since."""
        runs = [build(run_id=f"run-{number}") for number in range(5)]
        runs[1].report_status_change(RecordingReporter(), DONE)

        assert list(storage.get_pipeline_executions()) == runs[::-1]
        assert storage.get_pipeline_executions()[0] == runs[-1]

    def test_children_are_in_build_order(self, storage: PipelineStorage, build: Builder) -> None:
        """Results are in the order of their objects, task executions in that of the tasks, whatever has started."""
        pipeline = Pipeline(
            *(Task(name, objects=["x", "y", "z"]) for name in ("c", "a", "b")), objects=["north", "east", "west"]
        )
        run_id = build(pipeline).get_run_id()
        storage.get_pipeline_results(run_id)[1].report_status_change(RecordingReporter(), DONE)

        execution = found(storage.get_pipeline_execution(run_id))
        for results in (execution.get_pipeline_results(), storage.get_pipeline_results(run_id)):
            assert [r.get_serializable_pipeline_object()["obj"] for r in results] == ["north", "east", "west"]
        for result in execution.get_pipeline_results():
            assert [e.get_pipeline_task() for e in result.get_task_executions()] == ["c", "a", "b"]
            for task_execution in result.get_task_executions():
                objects = [r.get_serializable_task_object() for r in task_execution.get_task_results()]
                assert objects == [{"obj": "x"}, {"obj": "y"}, {"obj": "z"}]

    @pytest.fixture
    def two_runs(self, build: Builder) -> None:
        """Two runs of a pipeline that has two records or more at every level."""
        build(wide_pipeline(), run_id="other")
        build(wide_pipeline(), run_id="run")

    @pytest.mark.usefixtures("two_runs")
    @pytest.mark.parametrize("listing", PARENTS)
    def test_each_record_has_its_own_children(self, storage: PipelineStorage, listing: Any) -> None:
        """Children of records that were listed together are those of each alone, however they are asked for."""
        whole = {
            record: [child for child in below if parent(child) == record]
            for level, below in (
                (storage.get_pipeline_executions(), storage.get_pipeline_results()),
                (storage.get_pipeline_results(), storage.get_task_executions()),
                (storage.get_task_executions(), storage.get_task_results()),
            )
            for record in level
        }

        for ask in (list, len, bool, lambda s: s[0], lambda s: list(s[:1])):
            for record in listing(storage):
                assert ask(children(record)) == ask(whole[record])
                assert list(children(record)) == whole[record]
        for record in reversed(list(listing(storage))):
            sequence, size = children(record), len(whole[record])
            assert (len(sequence), list(sequence), len(sequence)) == (size, whole[record], size)
            with pytest.raises(IndexError):
                sequence[size]

    def test_all_on_records(self, storage: PipelineStorage, build: Builder) -> None:
        """Templates written for related managers work: ``results.all`` and ``task_executions.all``, called."""
        run_id = build(wide_pipeline()).get_run_id()
        execution = found(storage.get_pipeline_execution(run_id))
        result = storage.get_pipeline_results(run_id)[0]
        task_execution = storage.get_task_executions(run_id)[0]

        assert list(execution.results.all()) == list(execution.get_pipeline_results())
        assert list(result.task_executions.all()) == list(result.get_task_executions())
        assert list(task_execution.results.all()) == list(task_execution.get_task_results())

    def test_all_on_listings(self, storage: PipelineStorage, build: Builder) -> None:
        """``all()`` of a listing gives its records."""
        build()

        for listing in (
            storage.get_pipeline_executions(),
            storage.get_pipeline_results(),
            storage.get_task_executions(),
            storage.get_task_results(),
        ):
            assert list(listing.all()) == list(listing)
            assert len(listing.all()) == 1

    @pytest.mark.usefixtures("many")
    @pytest.mark.parametrize("listing", LISTINGS)
    def test_the_paginator_of_django(self, storage: PipelineStorage, listing: Any) -> None:
        """Django's paginator, which the host's runs page uses, takes a listing as it is."""
        paginator = pytest.importorskip("django.core.paginator", reason="Django is not installed").Paginator(
            listing(storage), 2
        )
        everything = list(listing(storage))

        assert paginator.count == len(everything)
        assert [r for page in paginator for r in page.object_list] == everything
        assert len(paginator.page(1)) == 2
        assert list(paginator.get_page(10_000)) == everything[(len(everything) - 1) // 2 * 2 :]


class StrictSequenceRules(StorageFixtures):
    """Listings are sequences in full, and lazy."""

    @pytest.fixture
    def runs(self, build: Builder) -> None:
        """Five runs."""
        for number in range(5):
            build(run_id=f"run-{number}")

    @pytest.mark.usefixtures("runs")
    def test_negative_indexes(self, storage: PipelineStorage) -> None:
        """Negative indexes count from the end, read or not."""
        sequence = storage.get_pipeline_executions()
        everything = list(sequence)

        for number in range(-5, 0):
            assert sequence[number] == everything[number]
            assert storage.get_pipeline_executions()[number] == everything[number]
        for unread in (sequence, storage.get_pipeline_executions()):
            with pytest.raises(IndexError):
                unread[-6]

    @pytest.mark.usefixtures("runs")
    def test_backward_slices(self, storage: PipelineStorage) -> None:
        """Slices from the end, and backward ones, hold what those of a list would, read or not."""
        sequence = storage.get_pipeline_executions()
        everything = list(sequence)

        for part in BACKWARD_SLICES:
            for unread in (sequence, storage.get_pipeline_executions()):
                assert list(unread[part]) == everything[part], part
                assert len(unread[part]) == len(everything[part]), part

    @pytest.mark.usefixtures("runs")
    def test_what_is_no_index_is_refused(self, storage: PipelineStorage) -> None:
        """An index of another type raises TypeError and a step of 0 ValueError, as those of a list."""
        bad: Any
        for unread in (list(storage.get_pipeline_executions()), storage.get_pipeline_executions()):
            for bad in ("0", 1.0, None):
                with pytest.raises(TypeError):
                    unread[bad]
            with pytest.raises(ValueError, match="step"):
                unread[::0]

    @pytest.mark.usefixtures("runs")
    def test_slices_of_slices(self, storage: PipelineStorage) -> None:
        """A slice is a sequence itself: it has a length, indexes, slices and more than one iteration."""
        everything = list(storage.get_pipeline_executions())

        rows = storage.get_pipeline_executions()[1:4]

        assert len(rows) == 3
        assert rows[0] == everything[1]
        assert rows[-1] == everything[3]
        assert list(rows[1:]) == everything[2:4]
        assert all(a is b for a, b in zip(rows, rows, strict=True))
        assert list(storage.get_pipeline_executions()[9:]) == []

    @pytest.mark.usefixtures("runs")
    def test_indexes_and_slices_give_the_objects_of_iteration(self, storage: PipelineStorage) -> None:
        """Once a sequence is read, its indexes and slices give the same objects as its iteration."""
        sequence = storage.get_pipeline_executions()
        everything = list(sequence)

        assert all(sequence[n] is record for n, record in enumerate(everything))
        assert all(a is b for a, b in zip(sequence[1:3], everything[1:3], strict=True))
        assert all(a is b for a, b in zip(sequence.all(), everything, strict=True))

    def test_sequences_are_read_when_needed(self, storage: PipelineStorage, build: Builder) -> None:
        """Getting a sequence reads nothing: a record built afterwards is in it."""
        execution = build(wide_pipeline(), run_id="first")
        sequences: list[RecordSequence[Any]] = [
            storage.get_pipeline_executions(),
            storage.get_pipeline_results(),
            storage.get_task_executions(),
            storage.get_task_results(),
        ]
        later: Sequence[RecordSequence[Any]] = [
            storage.get_pipeline_results("second"),
            storage.get_task_executions("second"),
            storage.get_task_results("second"),
        ]
        build(wide_pipeline(), run_id="second")

        assert [len(list(sequence)) for sequence in sequences] == [2, 4, 8, 12]
        assert [len(list(sequence)) for sequence in later] == [2, 4, 6]
        assert len(execution.get_pipeline_results()) == 2

    @pytest.fixture
    def run(self, build: Builder) -> None:
        """A run that has two records or more at every level, after another one."""
        build(wide_pipeline(), run_id="other")
        build(wide_pipeline(), run_id="run")

    @pytest.mark.usefixtures("run")
    @pytest.mark.parametrize("listing", PARENTS)
    def test_children_have_the_listed_records_for_parents(self, storage: PipelineStorage, listing: Any) -> None:
        """A child's parent is the object that it was asked of: what a runner reports on one, the other shows."""
        for record in listing(storage):
            below = list(children(record))
            assert below
            assert all(parent(child) is record for child in below)
            assert all(parent(child) is record for child in children(record))

    @pytest.mark.usefixtures("run")
    @pytest.mark.parametrize("listing", PARENTS)
    def test_children_are_read_anew_by_each_later_call(
        self, storage: PipelineStorage, other_storage: PipelineStorage, listing: Any
    ) -> None:
        """A repeated request for a record's children sees the reports of other processes since then."""
        for record in listing(storage):
            first = [child.get_status() for child in children(record)]
            stored = {child.get_id(): child for child in _level_below(other_storage, record)}
            for child in children(record):
                stored[child.get_id()].report_status_change(RecordingReporter(), DONE, propagate=False)

            assert first == [PENDING] * len(first)
            assert statuses(children(record)) == [DONE] * len(first)
            assert len(children(record)) == len(first)

    @pytest.mark.usefixtures("run")
    @pytest.mark.parametrize("listing", PARENTS)
    @pytest.mark.parametrize("name_first", [True, False], ids=["the name first", "the getter first"])
    def test_related_managers_are_read_once(
        self, storage: PipelineStorage, other_storage: PipelineStorage, listing: Any, name_first: bool
    ) -> None:
        """Under the related manager's name a record gives one sequence, as it was; its getter is not bound to that."""
        for record in listing(storage):
            if not name_first:
                assert list(children(record))
            by_name = children_by_name(record)
            before = [(child, child.get_status()) for child in by_name]
            if name_first:
                # The first call may give what was read already.
                assert list(children(record)) == list(by_name)
            stored = {child.get_id(): child for child in _level_below(other_storage, record)}
            for child, _status in before:
                stored[child.get_id()].report_status_change(RecordingReporter(), DONE, propagate=False)

            assert children_by_name(record) is by_name
            assert children_by_name(record).all() is by_name
            assert [(child, child.get_status()) for child in by_name] == before
            assert statuses(children(record)) == [DONE] * len(before)

    @pytest.mark.usefixtures("run")
    def test_a_run_is_walked_and_reported_on(self, storage: PipelineStorage) -> None:
        """A walk over a run, as the eager runner does it, reports on the objects it walks, and all of it is stored."""
        walked = []
        for pipeline_result in found(storage.get_pipeline_execution("run")).get_pipeline_results():
            for task_execution in pipeline_result.get_task_executions():
                for task_result in task_execution.get_task_results():
                    task_result.report_status_change(RecordingReporter(), DONE)
                    walked.append(task_result)
                assert task_execution.get_status() is DONE
            assert pipeline_result.get_status() is DONE

        assert walked == list(storage.get_task_results("run"))
        assert statuses(walked) == statuses(storage.get_task_results("run")) == [DONE] * len(walked)

    def test_a_sequence_that_was_read_stays_as_it_was(self, storage: PipelineStorage, build: Builder) -> None:
        """A sequence reads its records only once, so its length fits its records."""
        build()
        sequence = storage.get_pipeline_executions()
        before = list(sequence)
        build()

        assert len(sequence) == sequence.count() == len(list(sequence)) == 1
        assert list(sequence) == before


def _level_below(storage: PipelineStorage, record: PipelineStorageObject) -> RecordSequence[Any]:
    run_id = record.get_run_id()
    if isinstance(record, PipelineExecution):
        return storage.get_pipeline_results(run_id)
    if isinstance(record, PipelineResult):
        return storage.get_task_executions(run_id)
    return storage.get_task_results(run_id)
