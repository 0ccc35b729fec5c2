"""Rules of finding records: by id, by run, by what they are part of."""

from __future__ import annotations

import math
from typing import Any

import pytest

from otel_storage.results.base import PipelineStorage, PipelineStorageObject
from otel_storage.testing.conformance.fixtures import (
    DONE,
    KINDS,
    Builder,
    StorageFixtures,
    line,
    look_up,
    records,
    wide_pipeline,
)
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Task

BELOW = KINDS[1:]
"""The kinds that are looked up by id; an execution is looked up by its run."""

NO_NUMBERS = ["x", "", "1.5", "1e0", "0x1", "None", "-", "--1", "1;", "' OR 1=1 --", "é"]
"""Strings that are no decimal integer."""

NO_IDS: list[Any] = [0, -1, "0", "-1", 10**9, *NO_NUMBERS]
"""Values that are no record's id."""

STRANGE_IDS = [
    pytest.param(None, id="None"),
    pytest.param(True, id="True"),
    pytest.param(1.0, id="1.0"),
    pytest.param(1.5, id="1.5"),
    pytest.param(math.nan, id="nan"),
    pytest.param(math.inf, id="inf"),
    pytest.param(2**63, id="2**63"),
    pytest.param(-(2**63) - 1, id="-2**63-1"),
    pytest.param(10**30, id="10**30"),
    pytest.param(str(10**30), id="'10**30'"),
    pytest.param("1" * 5000, id="5000 digits"),
    pytest.param("1\x00", id="NUL"),
    pytest.param("1\ud800", id="lone surrogate"),
    pytest.param("²", id="superscript"),
    pytest.param(b"1", id="bytes"),
    pytest.param([1], id="list"),
    pytest.param({}, id="dict"),
    pytest.param(object(), id="object"),
]
"""The same, from callers that are not careful."""

STRANGE_RUN_IDS = [
    pytest.param("a\x00b", id="NUL"),
    pytest.param("a\ud800b", id="lone surrogate"),
    pytest.param("x" * 100_000, id="100 000 characters"),
    pytest.param(5, id="int"),
    pytest.param(1.5, id="float"),
    pytest.param(True, id="True"),
    pytest.param(b"run", id="bytes"),
    pytest.param(["run"], id="list"),
    pytest.param(object(), id="object"),
]
"""Values that are no run's id, as careless callers may pass them."""


def wide_run(storage: PipelineStorage) -> list[PipelineStorageObject]:
    """Build a run of 13 records named "run"."""
    Builder(storage)(wide_pipeline(), run_id="run")
    return records(storage, "run")


class LookupRules(StorageFixtures):
    """Look-ups that find a record, and look-ups that find nothing."""

    @pytest.mark.parametrize("kind", BELOW)
    def test_by_integer_and_by_decimal_string(self, storage: PipelineStorage, kind: str) -> None:
        """A record is found by its id, given as an int or as a decimal string."""
        for record in wide_run(storage):
            if record.content_type_name == kind:
                assert look_up(storage, kind)(record.get_id()) == record
                assert look_up(storage, kind)(str(record.get_id())) == record

    @pytest.mark.parametrize("kind", BELOW)
    def test_an_id_that_no_record_has(self, storage: PipelineStorage, kind: str) -> None:
        """An id that is unknown, or no number, gives None: it may come from a URL."""
        wide_run(storage)

        for bad in NO_IDS:
            assert look_up(storage, kind)(bad) is None, f"found by {bad!r}"

    def test_an_execution_by_its_run(self, storage: PipelineStorage, build: Builder) -> None:
        """An execution is found by the id of its run."""
        first, second = build(run_id="first"), build(run_id="second")

        assert storage.get_pipeline_execution("first") == first
        assert storage.get_pipeline_execution("second") == second

    @pytest.mark.parametrize("bad", ["unknown", "", "RUN", "run ", "%", "ru_", None])
    def test_a_run_that_does_not_exist(self, storage: PipelineStorage, build: Builder, bad: Any) -> None:
        """A run id that is unknown, empty or None gives None."""
        build(run_id="run")

        assert storage.get_pipeline_execution(bad) is None

    def test_an_empty_storage(self, storage: PipelineStorage) -> None:
        """A new storage holds nothing."""
        assert list(storage.get_pipeline_executions()) == []
        assert list(storage.get_pipeline_results()) == []
        assert list(storage.get_task_executions()) == []
        assert list(storage.get_task_results()) == []
        assert storage.get_pipeline_execution("run") is None
        assert storage.get_task_result(1) is None

    def test_without_a_filter_everything_is_listed(self, storage: PipelineStorage, build: Builder) -> None:
        """Listings without conditions hold the records of all runs."""
        build(wide_pipeline())
        build(wide_pipeline())

        assert len(list(storage.get_pipeline_executions())) == 2
        assert len(list(storage.get_pipeline_results())) == 4
        assert len(list(storage.get_task_executions())) == 8
        assert len(list(storage.get_task_results())) == 12

    def test_executions_of_a_pipeline(self, storage: PipelineStorage, build: Builder) -> None:
        """Executions are filtered by the pipeline's id, compared exactly."""
        orders = build(Pipeline(id="shop.Orders"))
        build(Pipeline(id="shop.Stock"))
        again = build(Pipeline(id="shop.Orders"))

        assert list(storage.get_pipeline_executions("shop.Orders")) == [again, orders]
        assert list(storage.get_pipeline_executions(pipeline_id="shop.Orders")) == [again, orders]
        assert list(storage.get_pipeline_executions("shop.orders")) == []
        assert list(storage.get_pipeline_executions("shop.%")) == []
        assert len(storage.get_pipeline_executions(None)) == 3

    def test_filters_alone(self, storage: PipelineStorage, build: Builder) -> None:
        """Each condition selects what is below that record, and nothing else."""
        build(wide_pipeline(), run_id="other")
        wide_run(storage)

        for result in storage.get_pipeline_results(run_id="run"):
            executions = storage.get_task_executions(pipeline_result_id=result.get_id())
            assert list(executions) == list(result.get_task_executions())
            assert len(executions) == 2
            below = [r for e in result.get_task_executions() for r in e.get_task_results()]
            assert list(storage.get_task_results(pipeline_result_id=result.get_id())) == below
            assert len(below) == 3
            for execution in executions:
                of_execution = storage.get_task_results(task_execution_id=execution.get_id())
                assert list(of_execution) == list(execution.get_task_results())

    def test_filters_take_decimal_strings(self, storage: PipelineStorage) -> None:
        """Ids in conditions may be decimal strings, as URLs carry them."""
        wide_run(storage)
        result = storage.get_pipeline_results("run")[1]
        execution = result.get_task_executions()[1]

        assert len(storage.get_task_executions(pipeline_result_id=str(result.get_id()))) == 2
        assert len(storage.get_task_results(pipeline_result_id=str(result.get_id()))) == 3
        assert len(storage.get_task_results(task_execution_id=str(execution.get_id()))) == 2

    def test_filters_combined(self, storage: PipelineStorage) -> None:
        """A record has to meet every condition."""
        wide_run(storage)
        result = storage.get_pipeline_results("run")[1]
        execution = result.get_task_executions()[1]

        assert list(storage.get_task_executions("run", result.get_id())) == list(result.get_task_executions())
        assert list(
            storage.get_task_results(
                run_id="run", pipeline_result_id=result.get_id(), task_execution_id=execution.get_id()
            )
        ) == list(execution.get_task_results())

    def test_contradictory_filters(self, storage: PipelineStorage, build: Builder) -> None:
        """Conditions that no record meets together give nothing."""
        build(run_id="other")
        wide_run(storage)
        first, second = storage.get_pipeline_results("run")
        below_second = second.get_task_executions()[0].get_id()

        assert list(storage.get_task_executions("other", first.get_id())) == []
        assert list(storage.get_task_results("other", pipeline_result_id=first.get_id())) == []
        assert list(storage.get_task_results("other", task_execution_id=below_second)) == []
        assert list(storage.get_task_results(pipeline_result_id=first.get_id(), task_execution_id=below_second)) == []
        assert len(storage.get_task_results("other", pipeline_result_id=first.get_id())) == 0

    def test_an_unknown_run_lists_nothing(self, storage: PipelineStorage) -> None:
        """The records of a run that does not exist are none, not all."""
        wide_run(storage)

        for sequence in (
            storage.get_pipeline_executions("unknown"),
            storage.get_pipeline_results("unknown"),
            storage.get_task_executions("unknown"),
            storage.get_task_results("unknown"),
        ):
            assert len(sequence) == 0
            assert list(sequence) == []

    @pytest.mark.parametrize("bad", ["x", "1.5", "1e0", "-1", 10**9], ids=repr)
    def test_an_id_that_is_none_lists_nothing(self, storage: PipelineStorage, bad: Any) -> None:
        """A condition on an id that is unknown, or no number, is met by no record."""
        wide_run(storage)

        for sequence in (
            storage.get_task_executions(pipeline_result_id=bad),
            storage.get_task_results(pipeline_result_id=bad),
            storage.get_task_results(task_execution_id=bad),
            storage.get_task_results("run", task_execution_id=bad),
        ):
            assert len(sequence) == 0
            assert list(sequence) == []

    def test_records_of_separate_look_ups_are_equal(self, storage: PipelineStorage, build: Builder) -> None:
        """Looking up twice gives equal records, and what one changes the next look-up shows."""
        run_id = build().get_run_id()
        for record in line(storage, run_id):
            record.report_status_change(RecordingReporter(), DONE, propagate=False)

        for record in line(storage, run_id):
            assert record.get_status() is DONE


class StrictLookupRules(StorageFixtures):
    """No value that a caller could give raises."""

    @pytest.mark.parametrize("bad", STRANGE_IDS)
    def test_strange_ids_find_nothing(self, storage: PipelineStorage, bad: Any) -> None:
        """A value that is neither a positive integer nor its decimal digits finds nothing, including True and 1.0."""
        wide_run(storage)

        for kind in BELOW:
            assert look_up(storage, kind)(bad) is None, f"a {kind} is found"

    @pytest.mark.parametrize("bad", STRANGE_RUN_IDS)
    def test_strange_run_ids_find_nothing(self, storage: PipelineStorage, build: Builder, bad: Any) -> None:
        """A value that is no string, or has characters that a database refuses, is the id of no run."""
        build(run_id="run")

        assert storage.get_pipeline_execution(bad) is None

    @pytest.mark.parametrize("bad", [p for p in STRANGE_IDS if p.id != "None"])
    def test_strange_ids_list_nothing(self, storage: PipelineStorage, bad: Any) -> None:
        """The same for the ids in conditions; None alone means no condition."""
        wide_run(storage)

        for sequence in (
            storage.get_task_executions(pipeline_result_id=bad),
            storage.get_task_results(pipeline_result_id=bad),
            storage.get_task_results(task_execution_id=bad),
            storage.get_task_results("run", task_execution_id=bad),
        ):
            assert len(sequence) == 0
            assert list(sequence) == []
            assert not sequence

    @pytest.mark.parametrize("bad", STRANGE_RUN_IDS)
    def test_strange_run_ids_list_nothing(self, storage: PipelineStorage, bad: Any) -> None:
        """The same for run ids in conditions."""
        wide_run(storage)

        for sequence in (
            storage.get_pipeline_results(bad),
            storage.get_task_executions(bad),
            storage.get_task_results(bad),
        ):
            assert len(sequence) == 0
            assert list(sequence) == []

    @pytest.mark.parametrize("bad", STRANGE_RUN_IDS)
    def test_strange_pipeline_ids_list_nothing(self, storage: PipelineStorage, build: Builder, bad: Any) -> None:
        """The same for pipeline ids."""
        build()

        assert list(storage.get_pipeline_executions(bad)) == []

    @pytest.mark.parametrize("kind", BELOW)
    def test_ids_of_another_kind(self, storage: PipelineStorage, build: Builder, kind: str) -> None:
        """An id finds a record of the kind that was asked for, or nothing."""
        build(Pipeline(Task(objects=range(5)), objects=range(3)))

        for number in range(1, 40):
            record = look_up(storage, kind)(number)
            assert record is None or (record.content_type_name, record.get_id()) == (kind, number)
