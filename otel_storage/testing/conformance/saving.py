"""Rules of ``set_x(v)`` and ``save()``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from typing import Any

import pytest

from otel_storage.results import host
from otel_storage.results.base import PipelineStorage, PipelineStorageObject
from otel_storage.results.exceptions import InvalidInput, RecordDeleted, RecordIsFinal, StatusConflict
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.testing.conformance.building import UNSTORABLE
from otel_storage.testing.conformance.fixtures import (
    ALL,
    CANCELLED,
    DONE,
    KINDS,
    PENDING,
    RUNNING,
    RUNTIME_ERROR,
    Builder,
    StorageFixtures,
    Times,
    case,
    fresh,
    line,
    status_id,
    statuses,
)
from otel_storage.testing.conformance.transitions import ADVANCES, state
from otel_storage.testing.pipelines import RecordingReporter

MOMENT = datetime(2024, 3, 1, 6, 30, 15, 123456, tzinfo=UTC)
"""A time with microseconds, which has to come back whole."""


def save_status(record: PipelineStorageObject, status: PipelineTaskStatus) -> None:
    """Set the status and save."""
    record.set_status(status)
    record.save()


def save_field(record: PipelineStorageObject, name: str, value: Any) -> None:
    """Set the field and save."""
    getattr(record, f"set_{name}")(value)
    record.save()


class SavingRules(StorageFixtures):
    """Values that were set are written by ``save()``."""

    @pytest.mark.parametrize("kind", range(4), ids=KINDS)
    def test_times_are_saved(self, storage: PipelineStorage, build: Builder, kind: int) -> None:
        """Started and completed can be set; other zones are the same moment."""
        record = build.line()[kind]
        elsewhere = MOMENT.astimezone(timezone(timedelta(hours=-9, minutes=-30)))

        record.set_started(MOMENT)
        record.set_completed(elsewhere + timedelta(seconds=1))
        record.save()

        stored = fresh(storage, record)
        assert stored.get_started() == host.present(MOMENT)
        assert stored.get_completed() == host.present(MOMENT + timedelta(seconds=1))

    def test_input_data_is_saved(self, storage: PipelineStorage, build: Builder) -> None:
        """An execution's input data can be set; every record of the run then has it."""
        made = build.line(input_data={"old": 1})

        save_field(made[0], "input_data", {"new": [2]})

        assert [r.get_input_data() for r in line(storage, made[0].get_run_id())] == [{"new": [2]}] * 4

    @pytest.mark.parametrize("kind", range(4), ids=KINDS)
    def test_nothing_is_written_before_save(self, storage: PipelineStorage, build: Builder, kind: int) -> None:
        """Values that were set and not saved are not stored."""
        record = build.line()[kind]

        record.set_started(MOMENT)
        record.set_status(RUNNING)

        assert state(fresh(storage, record)) == (PENDING, None, None)

    @pytest.mark.parametrize("kind", range(4), ids=KINDS)
    def test_a_status_is_saved_for_the_record_alone(self, storage: PipelineStorage, build: Builder, kind: int) -> None:
        """A saved status is not propagated."""
        made = build.line()

        save_status(made[kind], RUNNING)
        save_status(made[kind], RUNTIME_ERROR)

        expected = [PENDING] * 4
        expected[kind] = RUNTIME_ERROR
        assert statuses(line(storage, made[0].get_run_id())) == expected


class StrictSavingRules(StorageFixtures):
    """``save()`` writes what was set and that alone, or raises and writes nothing."""

    def test_saving_from_each_status_to_each(self, storage: PipelineStorage, build: Builder, times: Times) -> None:
        """A saved status takes the same transition as a reported one, times included; else StatusConflict."""
        for first, second in product(ALL, ALL):
            with case(first, second):
                made = build.line()
                made[3].report_status_change(RecordingReporter(), first, propagate=False)
                record = fresh(storage, made[3])
                earlier = state(record)
                times.advance(1)

                before = times.now()
                if second not in ADVANCES[first]:
                    with pytest.raises(StatusConflict):
                        save_status(record, second)
                    assert state(fresh(storage, record)) == earlier
                    continue
                save_status(record, second)
                after = times.now()

                status, started, completed = state(fresh(storage, record))
                assert status is second
                moment, kept = (started, completed) if second is RUNNING else (completed, started)
                assert kept == (earlier[2] if second is RUNNING else earlier[1])
                assert moment is not None
                assert before <= moment <= after
                assert statuses(line(storage, made[0].get_run_id())[:3]) == [PENDING] * 3

    def test_a_status_with_its_time(self, storage: PipelineStorage, build: Builder) -> None:
        """A time that is set with the status is stored instead of the present."""
        record = build.line()[3]
        record.set_started(MOMENT)
        save_status(record, RUNNING)
        record.set_completed(MOMENT + timedelta(hours=1))
        save_status(record, DONE)

        assert fresh(storage, record).get_duration() == timedelta(hours=1)
        assert fresh(storage, record).get_started() == host.present(MOMENT)

    def test_a_saved_status_may_be_its_name(self, storage: PipelineStorage, build: Builder) -> None:
        """The host's base class sets a status by its value."""
        record = build.line()[3]
        record.set_status("RUNNING")
        record.save()

        assert fresh(storage, record).get_status() is RUNNING

    @pytest.mark.parametrize("bad", ["", "done", None, 1])
    def test_saving_a_status_that_is_none(self, storage: PipelineStorage, build: Builder, bad: Any) -> None:
        """A value that is no status is refused, and nothing is written."""
        record = build.line()[3]

        with pytest.raises(InvalidInput, match="status"):
            save_field(record, "status", bad)

        assert state(fresh(storage, record)) == (PENDING, None, None)

    def test_saved_changes_are_in_the_history(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter
    ) -> None:
        """A saved status is a change like any other, and has no message."""
        record = build.line()[3]
        record.report_status_change(reporter, RUNNING, message="started")
        save_status(record, DONE)

        stored = fresh(storage, record)
        assert [c.status for c in stored.get_status_changes()] == [PENDING, RUNNING, DONE]
        assert stored.get_status_message() == ""

    @pytest.mark.parametrize("kind", range(4), ids=KINDS)
    def test_what_was_not_set_is_not_written(
        self,
        storage: PipelineStorage,
        other_storage: PipelineStorage,
        build: Builder,
        reporter: RecordingReporter,
        kind: int,
    ) -> None:
        """A save leaves alone what another process has changed since the record was read."""
        run_id = build().get_run_id()
        ours, theirs = line(storage, run_id)[kind], line(other_storage, run_id)[kind]
        theirs.report_status_change(reporter, RUNNING, message="they started it", propagate=False)

        save_field(ours, "started", MOMENT)

        stored = fresh(storage, ours)
        assert stored.get_status() is RUNNING
        assert stored.get_status_message() == "they started it"
        assert stored.get_started() == host.present(MOMENT)

    def test_what_was_saved_is_not_written_again(
        self, storage: PipelineStorage, other_storage: PipelineStorage, build: Builder
    ) -> None:
        """A second save writes what was set since the first, and nothing else."""
        run_id = build(input_data={"n": 0}).get_run_id()
        ours, theirs = line(storage, run_id)[0], line(other_storage, run_id)[0]
        save_field(ours, "input_data", {"n": 1})
        save_field(theirs, "input_data", {"n": 2})

        save_field(ours, "started", MOMENT)
        ours.save()

        assert fresh(storage, ours).get_input_data() == {"n": 2}

    @pytest.mark.parametrize("kind", range(4), ids=KINDS)
    def test_nothing_set_nothing_saved(self, storage: PipelineStorage, build: Builder, kind: int) -> None:
        """A save without anything set does nothing, final or not."""
        record = build.line()[kind]
        record.save()
        record.report_status_change(RecordingReporter(), DONE)
        earlier = state(fresh(storage, record))

        record.save()

        assert state(fresh(storage, record)) == earlier

    @pytest.mark.parametrize("name", ["started", "completed"])
    @pytest.mark.parametrize("kind", range(4), ids=KINDS)
    def test_naive_times_are_refused(self, storage: PipelineStorage, build: Builder, kind: int, name: str) -> None:
        """A time without a zone could be any of 38 moments: it is refused, and nothing is written."""
        record = build.line()[kind]

        with pytest.raises(InvalidInput, match=name):
            save_field(record, name, MOMENT.replace(tzinfo=None))

        assert state(fresh(storage, record)) == (PENDING, None, None)

    @pytest.mark.parametrize("bad", ["2024-03-01", 1709274600, MOMENT.date()], ids=["text", "number", "date"])
    def test_what_is_no_time_is_refused(self, storage: PipelineStorage, build: Builder, bad: Any) -> None:
        """A start that is no datetime is refused, and nothing is written."""
        record = build.line()[3]

        with pytest.raises(InvalidInput, match="started"):
            save_field(record, "started", bad)

        assert state(fresh(storage, record)) == (PENDING, None, None)

    @pytest.mark.parametrize("value", UNSTORABLE)
    def test_saving_input_data_that_is_not_json(self, storage: PipelineStorage, build: Builder, value: Any) -> None:
        """A value that JSON cannot hold is refused, and nothing is written."""
        record = build.line(input_data={"n": 1})[0]

        with pytest.raises(InvalidInput, match="input"):
            save_field(record, "input_data", value)

        assert fresh(storage, record).get_input_data() == {"n": 1}

    def test_a_conflict_writes_nothing(
        self, storage: PipelineStorage, other_storage: PipelineStorage, build: Builder
    ) -> None:
        """A status that another process has overtaken is refused, and with it everything set beside it."""
        run_id = build(input_data={"n": 1}).get_run_id()
        ours, theirs = line(storage, run_id)[0], line(other_storage, run_id)[0]
        theirs.report_status_change(RecordingReporter(), RUNNING, message="they started it")
        earlier = state(fresh(storage, ours))

        ours.set_input_data({"n": 2})
        ours.set_started(MOMENT)
        with pytest.raises(StatusConflict):
            save_status(ours, RUNNING)

        stored = fresh(storage, ours)
        assert state(stored) == earlier
        assert stored.get_input_data() == {"n": 1}
        assert stored.get_status_message() == "they started it"

    @pytest.mark.parametrize("status", [DONE, CANCELLED], ids=status_id)
    @pytest.mark.parametrize(
        ("kind", "name", "value"),
        [
            *((kind, name, MOMENT) for kind in range(4) for name in ("started", "completed")),
            (0, "input_data", {"n": 2}),
        ],
    )
    def test_a_final_record_is_written_no_more(
        self,
        storage: PipelineStorage,
        build: Builder,
        kind: int,
        name: str,
        value: Any,
        status: PipelineTaskStatus,
    ) -> None:
        """Changes of a span's data are refused once the record is final, because the span may have been sent."""
        record = build.line(input_data={"n": 1})[kind]
        record.report_status_change(RecordingReporter(), status)
        earlier = state(fresh(storage, record))

        for again in (record, fresh(storage, record)):
            with pytest.raises(RecordIsFinal):
                save_field(again, name, value)

        stored = fresh(storage, record)
        assert state(stored) == earlier
        assert stored.get_input_data() == {"n": 1}

    @pytest.mark.parametrize("kind", range(4), ids=KINDS)
    def test_a_record_that_others_made_final(
        self, storage: PipelineStorage, other_storage: PipelineStorage, build: Builder, kind: int
    ) -> None:
        """The same where the record became final after it was read."""
        run_id = build().get_run_id()
        ours, theirs = line(storage, run_id)[kind], line(other_storage, run_id)[kind]
        theirs.report_status_change(RecordingReporter(), DONE)
        earlier = state(fresh(storage, ours))

        with pytest.raises(RecordIsFinal):
            save_field(ours, "started", MOMENT)

        assert state(fresh(storage, ours)) == earlier

    @pytest.mark.parametrize("change", ["started", "status"])
    @pytest.mark.parametrize("kind", range(4), ids=KINDS)
    def test_a_removed_record(
        self, storage: PipelineStorage, other_storage: PipelineStorage, build: Builder, kind: int, change: str
    ) -> None:
        """Saving a record whose run was removed raises, and brings nothing back."""
        record = build.line()[kind]
        other_storage.cleanup()

        with pytest.raises(RecordDeleted):
            save_field(record, change, MOMENT if change == "started" else RUNNING)

        assert len(storage.get_pipeline_executions()) == 0
        assert len(storage.get_task_results()) == 0

    @pytest.mark.parametrize(
        "spoil",
        [
            pytest.param(lambda r: save_field(r, "started", MOMENT.replace(tzinfo=None)), id="naive time"),
            pytest.param(lambda r: save_field(r, "status", "nonsense"), id="no status"),
            pytest.param(lambda r: save_status(r, PENDING), id="conflict"),
        ],
    )
    def test_a_refused_value_does_not_stay(
        self,
        storage: PipelineStorage,
        build: Builder,
        reporter: RecordingReporter,
        spoil: Callable[[PipelineStorageObject], None],
    ) -> None:
        """After an error the record works on: what was refused is not in its next change."""
        record = build.line()[3]
        with pytest.raises((InvalidInput, StatusConflict)):
            spoil(record)

        record.report_status_change(reporter, RUNNING, propagate=False)
        record.report_status_change(reporter, DONE, propagate=False)

        assert fresh(storage, record).get_status() is DONE
        assert [report.status for report in reporter.reports] == [RUNNING, DONE]

    def test_times_from_before_1970_and_after_2038(self, storage: PipelineStorage, build: Builder) -> None:
        """Every time that Python has comes back to the microsecond."""
        record = build.line()[3]
        early = datetime(1900, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
        late = datetime(2500, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
        record.set_started(early)
        record.set_completed(late)
        record.save()

        stored = fresh(storage, record)
        assert (stored.get_started(), stored.get_completed()) == (host.present(early), host.present(late))
