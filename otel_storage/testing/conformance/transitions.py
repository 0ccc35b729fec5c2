"""Rules of reporting a status: what advances, what is stored, who is told, in which order."""

from __future__ import annotations

import threading
from datetime import datetime
from itertools import product
from typing import Any

import pytest

from otel_storage.results.base import PipelineStorage, PipelineStorageObject
from otel_storage.results.exceptions import InvalidInput
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.testing.conformance.fixtures import (
    ALL,
    CANCELLED,
    DONE,
    FINAL,
    KINDS,
    PENDING,
    RUNNING,
    RUNTIME_ERROR,
    VALIDATION_ERROR,
    Builder,
    StorageFixtures,
    Times,
    case,
    fresh,
    line,
    look_up,
    statuses,
    wide_pipeline,
)
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task

ADVANCES: dict[PipelineTaskStatus, tuple[PipelineTaskStatus, ...]] = {
    PENDING: (RUNNING, *FINAL),
    RUNNING: FINAL,
    **dict.fromkeys(FINAL, ()),
}
"""The statuses that may follow each."""


class Boom(Exception):
    """Raised by a reporter of the suite."""


def told(record: PipelineStorageObject, status: PipelineTaskStatus, message: str = "") -> tuple[Any, ...]:
    """The reports that a reporter receives of a change."""
    text = f"Changed state to {status.value}" + (f" - {message}" if message else "")
    return (record.content_type_name, record.get_id(), status, text)


def state(record: PipelineStorageObject) -> tuple[PipelineTaskStatus, datetime | None, datetime | None]:
    """The effects of a transition."""
    return record.get_status(), record.get_started(), record.get_completed()


class TransitionRules(StorageFixtures):
    """The effects of a report in any storage of the host."""

    def test_from_each_status_to_each(self, storage: PipelineStorage, build: Builder, times: Times) -> None:
        """PENDING -> RUNNING -> a final one is stored with its time and reported; all else is ignored silently."""
        for first, second in product(ALL, ALL):
            with case(first, second):
                made = build.line()
                for each in made:
                    each.report_status_change(RecordingReporter(), first, propagate=False)
                record: PipelineStorageObject
                for record in line(storage, made[0].get_run_id()):
                    reporter = RecordingReporter()
                    earlier = state(record)
                    assert earlier[0] is first
                    times.advance(1)

                    before = times.now()
                    record.report_status_change(reporter, second, propagate=False)
                    after = times.now()

                    stored = fresh(storage, record)
                    assert state(record) == state(stored)
                    if second not in ADVANCES[first]:
                        assert state(stored) == earlier
                        assert reporter.reports == []
                        continue
                    assert reporter.reports == [told(record, second)]
                    assert reporter.records == [record]
                    status, started, completed = state(stored)
                    assert status is second
                    moment, kept = (started, completed) if second is RUNNING else (completed, started)
                    assert kept == (earlier[2] if second is RUNNING else earlier[1])
                    assert moment is not None
                    assert before <= moment <= after

    def test_a_whole_life(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter, times: Times
    ) -> None:
        """Started and completed are the times of RUNNING and of the final status."""
        task_result = build.line()[3]
        t0 = times.now()
        task_result.report_status_change(reporter, RUNNING)
        t1 = times.now()
        times.advance(7)
        t2 = times.now()
        task_result.report_status_change(reporter, DONE)
        t3 = times.now()

        _, started, completed = state(fresh(storage, task_result))
        assert started is not None
        assert completed is not None
        assert t0 <= started <= t1 < t2 <= completed <= t3

    def test_propagation(self, storage: PipelineStorage, build: Builder) -> None:
        """A change goes to every parent too, the execution first, and not to children; all get the message."""
        for kind, status in product(range(4), (RUNNING, *FINAL)):
            with case(KINDS[kind], status):
                made, reporter = build.line(), RecordingReporter()

                made[kind].report_status_change(reporter, status, message="because")

                assert reporter.reports == [told(record, status, "because") for record in made[: kind + 1]]
                assert statuses(line(storage, made[0].get_run_id())) == [status] * (kind + 1) + [PENDING] * (3 - kind)

    def test_no_propagation(self, storage: PipelineStorage, build: Builder) -> None:
        """Without propagation the record alone changes."""
        for kind, status in product(range(4), (RUNNING, *FINAL)):
            with case(KINDS[kind], status):
                made, reporter = build.line(), RecordingReporter()

                made[kind].report_status_change(reporter, status, propagate=False)

                assert reporter.reports == [told(made[kind], status)]
                expected = [PENDING] * 4
                expected[kind] = status
                assert statuses(line(storage, made[0].get_run_id())) == expected

    def test_a_failure_after_running_reaches_every_parent(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter
    ) -> None:
        """Parents that are RUNNING fail with their child."""
        made = build.line()
        made[3].report_status_change(RecordingReporter(), RUNNING)

        made[3].report_status_change(reporter, RUNTIME_ERROR, message="broken")

        assert reporter.reports == [told(record, RUNTIME_ERROR, "broken") for record in made]
        assert statuses(line(storage, made[0].get_run_id())) == [RUNTIME_ERROR] * 4

    def test_siblings_are_left_alone(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter
    ) -> None:
        """A change reaches the record's own parents, and no other record of the run."""
        run_id = build(wide_pipeline()).get_run_id()
        first, second = storage.get_pipeline_results(run_id)
        _, load = second.get_task_executions()

        load.get_task_results()[1].report_status_change(reporter, RUNTIME_ERROR)

        assert fresh(storage, first).get_status() is PENDING
        assert statuses(storage.get_task_executions(run_id)) == [PENDING] * 3 + [RUNTIME_ERROR]
        assert statuses(storage.get_task_results(run_id)) == [PENDING] * 5 + [RUNTIME_ERROR]

    def test_parents_that_run_already_are_not_told_again(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter
    ) -> None:
        """The second task result that starts is reported alone: its parents are RUNNING, and stay as they were."""
        run_id = build(Pipeline(Task(objects=["a", "b"]))).get_run_id()
        a, b = storage.get_task_results(run_id)
        a.report_status_change(RecordingReporter(), RUNNING)
        above = [state(record) for record in line(storage, run_id)[:3]]

        b.report_status_change(reporter, RUNNING)

        assert reporter.reports == [told(b, RUNNING)]
        assert [state(record) for record in line(storage, run_id)[:3]] == above

    def test_only_parents_that_advance_are_told(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter
    ) -> None:
        """Below an execution that is final a later result still starts: its own parents change, the final one not."""
        run_id = build(Pipeline(Task(), objects=["a", "b"])).get_run_id()
        a, b = storage.get_task_results(run_id)
        a.report_status_change(RecordingReporter(), RUNTIME_ERROR, message="broken")

        b.report_status_change(reporter, RUNNING)

        above = b.get_task_execution()
        assert reporter.reports == [
            told(above.get_pipeline_result(), RUNNING),
            told(above, RUNNING),
            told(b, RUNNING),
        ]
        assert statuses(storage.get_pipeline_results(run_id)) == [RUNTIME_ERROR, RUNNING]
        assert line(storage, run_id)[0].get_status() is RUNTIME_ERROR

    @pytest.mark.parametrize("message", ["", None])
    def test_no_message(self, build: Builder, reporter: RecordingReporter, message: Any) -> None:
        """Without a message the reporter is told the new status alone."""
        made = build.line()

        made[0].report_status_change(reporter, DONE, message=message)

        assert reporter.reports == [told(made[0], DONE)]
        assert reporter.reports[0].message == "Changed state to DONE"

    def test_a_change_is_stored_before_it_is_reported(self, storage: PipelineStorage, build: Builder) -> None:
        """A reporter that looks the record up, or asks it, sees the new status."""
        seen: list[tuple[str, PipelineTaskStatus, PipelineTaskStatus]] = []

        def look(record: PipelineStorageObject) -> None:
            seen.append((record.content_type_name, record.get_status(), fresh(storage, record).get_status()))

        build.line()[3].report_status_change(RecordingReporter(look), VALIDATION_ERROR)

        assert seen == [(kind, VALIDATION_ERROR, VALIDATION_ERROR) for kind in KINDS]

    def test_a_failed_eager_run_does_not_end_done(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter
    ) -> None:
        """The host's eager runner reports DONE on its result and execution after a failure; the failure stands."""
        execution = build(Pipeline(Task("a", objects=[1, 2]), Task("b")))
        for pipeline_result in execution.get_pipeline_results():
            failed = False
            for task_execution in pipeline_result.get_task_executions():
                for task_result in task_execution.get_task_results():
                    if failed:
                        task_result.report_status_change(reporter, CANCELLED, message="skipped")
                        continue
                    task_result.report_status_change(reporter, RUNNING)
                    task_result.report_status_change(reporter, RUNTIME_ERROR, message="broken")
                    failed = True
            pipeline_result.report_status_change(reporter, DONE, propagate=False)
        execution.report_status_change(reporter, DONE)

        run_id = execution.get_run_id()
        assert statuses(storage.get_pipeline_executions()) == [RUNTIME_ERROR]
        assert statuses(storage.get_pipeline_results(run_id)) == [RUNTIME_ERROR]
        assert statuses(storage.get_task_executions(run_id)) == [RUNTIME_ERROR, CANCELLED]
        assert statuses(storage.get_task_results(run_id)) == [RUNTIME_ERROR, CANCELLED, CANCELLED]
        assert DONE not in [report.status for report in reporter.reports]

    def test_a_successful_eager_run(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter
    ) -> None:
        """A run whose tasks all succeed ends DONE; the runner never reports its task executions final."""
        execution = build(wide_pipeline())
        for pipeline_result in execution.get_pipeline_results():
            for task_execution in pipeline_result.get_task_executions():
                for task_result in task_execution.get_task_results():
                    task_result.report_status_change(reporter, RUNNING)
                    task_result.report_status_change(reporter, DONE, propagate=False)
            pipeline_result.report_status_change(reporter, DONE, propagate=False)
        execution.report_status_change(reporter, DONE)

        run_id = execution.get_run_id()
        assert statuses(storage.get_pipeline_executions()) == [DONE]
        assert statuses(storage.get_pipeline_results(run_id)) == [DONE, DONE]
        assert statuses(storage.get_task_executions(run_id)) == [RUNNING] * 4
        assert statuses(storage.get_task_results(run_id)) == [DONE] * 6
        assert len(reporter.reports) == len(set(reporter.reports)) == 1 + 2 + 4 + 6 + 6 + 2 + 1


class StrictTransitionRules(StorageFixtures):
    """Messages, history, races, and reports that come too late."""

    @pytest.mark.parametrize("kind", range(4), ids=KINDS)
    def test_history(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter, times: Times, kind: int
    ) -> None:
        """A record keeps each state with its time and message; its message is the last one."""
        record = build.line()[kind]
        times.advance(1)
        record.report_status_change(reporter, RUNNING, message="off we go")
        assert fresh(storage, record).get_status_message() == "off we go"
        times.advance(1)
        record.report_status_change(reporter, VALIDATION_ERROR, message="naïve – 日本 🚀")

        for seen in (record, fresh(storage, record)):
            changes = seen.get_status_changes()
            assert [(c.status, c.at) for c in changes] == [
                (PENDING, seen.get_created()),
                (RUNNING, seen.get_started()),
                (VALIDATION_ERROR, seen.get_completed()),
            ]
            assert [c.message for c in changes[1:]] == ["off we go", "naïve – 日本 🚀"]
            assert seen.get_status_message() == "naïve – 日本 🚀"
            assert changes[0].at < changes[1].at < changes[2].at

    def test_history_without_running(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter
    ) -> None:
        """A record that became final before it started has two states and no start."""
        for status in FINAL:
            with case(status):
                record = build.line()[3]
                record.report_status_change(reporter, status, message="early")

                stored = fresh(storage, record)
                assert [c.status for c in stored.get_status_changes()] == [PENDING, status]
                assert stored.get_status_changes()[1].at == stored.get_completed()
                assert stored.get_status_message() == "early"
                assert stored.get_started() is None

    @pytest.mark.parametrize("message", ["", None])
    def test_no_message_is_stored_as_empty(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter, message: Any
    ) -> None:
        """A change without a message has an empty one, also after one with a message."""
        record = build.line()[3]
        record.report_status_change(reporter, RUNNING, message="started")
        record.report_status_change(reporter, DONE, message=message)

        for seen in (record, fresh(storage, record)):
            assert seen.get_status_message() == ""
            assert [c.message for c in seen.get_status_changes()[1:]] == ["started", ""]

    def test_a_propagated_message_is_kept_by_every_parent(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter
    ) -> None:
        """Each parent that advances keeps the message; one that does not keeps its own."""
        made = build.line()
        made[1].report_status_change(reporter, RUNTIME_ERROR, message="first", propagate=False)

        made[2].report_status_change(reporter, CANCELLED, message="second", propagate=False)
        made[3].report_status_change(reporter, CANCELLED, message="third", propagate=False)
        made[0].report_status_change(reporter, CANCELLED, message="fourth")

        stored = line(storage, made[0].get_run_id())
        assert [r.get_status_message() for r in stored] == ["fourth", "first", "second", "third"]

    def test_an_ignored_report_leaves_no_message(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter
    ) -> None:
        """A report that does not advance changes neither the message nor the parents."""
        for second in ALL:
            with case(second):
                made = build.line()
                made[3].report_status_change(RecordingReporter(), DONE, message="fine", propagate=False)

                made[3].report_status_change(reporter, second, message="too late")

                stored = line(storage, made[0].get_run_id())
                assert stored[3].get_status_message() == "fine"
                assert statuses(stored) == [PENDING, PENDING, PENDING, DONE]
                assert reporter.reports == []

    def test_a_status_may_be_its_name(self, storage: PipelineStorage, build: Builder) -> None:
        """A status given as a string counts as the member of that name; the reporter gets the member."""
        for status in (RUNNING, *FINAL):
            with case(status):
                made, reporter = build.line(), RecordingReporter()
                name: Any = status.value

                made[3].report_status_change(reporter, name)

                assert statuses(line(storage, made[0].get_run_id())) == [status] * 4
                assert all(report.status is status for report in reporter.reports)
                assert len(reporter.reports) == 4

    @pytest.mark.parametrize("bad", ["", "done", "FINISHED", "DONE ", None, 0, True, Ellipsis, ["DONE"]], ids=repr)
    def test_a_status_that_is_none(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter, bad: Any
    ) -> None:
        """A value that is no status is refused with an error that says so; nothing is written or reported."""
        made = build.line()

        with pytest.raises(InvalidInput, match="status"):
            made[3].report_status_change(reporter, bad)

        assert statuses(line(storage, made[0].get_run_id())) == [PENDING] * 4
        assert reporter.reports == []
        made[3].report_status_change(reporter, DONE)
        assert statuses(line(storage, made[0].get_run_id())) == [DONE] * 4

    def test_ten_megabytes_of_message(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter
    ) -> None:
        """A long message costs no state, at no level: its start and its end are stored at least."""
        made = build.line()
        message = "begun " + "é" * (10 * 1024 * 1024 // 2) + " ended"

        made[3].report_status_change(reporter, RUNTIME_ERROR, message=message)

        assert statuses(line(storage, made[0].get_run_id())) == [RUNTIME_ERROR] * 4
        for record in line(storage, made[0].get_run_id()):
            kept = record.get_status_message()
            assert kept.startswith("begun ééé")
            assert kept.endswith("ééé ended")

    def test_without_a_reporter(self, storage: PipelineStorage) -> None:
        """A reporter is optional, for building and for reporting."""
        storage.build_pipeline_execution(Pipeline(Task("extract")), "run", Runner(), None, None)
        made = line(storage, "run")
        made[3].report_status_change(None, RUNNING)
        made[3].report_status_change(None, RUNTIME_ERROR, message="broken")

        stored = line(storage, made[0].get_run_id())
        assert statuses(stored) == [RUNTIME_ERROR] * 4
        assert stored[1].get_reporter() == ""

    def test_what_is_no_reporter_is_refused(self, storage: PipelineStorage, build: Builder) -> None:
        """An object that cannot be told is refused before anything is written."""
        odd: Any = object()
        made = build.line()

        with pytest.raises(InvalidInput, match="report_context_object"):
            build(reporter=odd)
        with pytest.raises(InvalidInput, match="report_context_object"):
            made[3].report_status_change(odd, RUNNING)

        assert len(storage.get_pipeline_executions()) == 1
        assert statuses(line(storage, made[0].get_run_id())) == [PENDING] * 4

    def test_a_message_without_a_text(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter
    ) -> None:
        """A message that is any object costs no state, even if it has no text."""

        class Mute:
            def __str__(self) -> str:
                raise Boom("no text")

        message: Any = Mute()
        made = build.line()

        made[3].report_status_change(reporter, RUNTIME_ERROR, message=message)

        assert statuses(line(storage, made[0].get_run_id())) == [RUNTIME_ERROR] * 4
        assert len(reporter.reports) == 4

    @pytest.mark.parametrize(
        "message", ["a\x00b", "a\ud800b", "%s %(x)s :y ? {} \\ ' \""], ids=["NUL", "lone surrogate", "quotes"]
    )
    def test_odd_messages_cost_no_state(
        self, storage: PipelineStorage, build: Builder, reporter: RecordingReporter, message: str
    ) -> None:
        """A change is stored with any message; characters that no database can store may be replaced in the message."""
        made = build.line()

        made[3].report_status_change(reporter, RUNTIME_ERROR, message=message)

        stored = line(storage, made[0].get_run_id())
        assert statuses(stored) == [RUNTIME_ERROR] * 4
        kept = stored[3].get_status_message()
        assert kept == message if message.isprintable() else kept.startswith("a") and kept.endswith("b")

    def test_a_reporter_that_raises_undoes_no_change(self, storage: PipelineStorage, build: Builder) -> None:
        """A change is reported after it is stored: an error of the reporter comes too late to lose it."""
        made = build.line()

        def refuse(_record: PipelineStorageObject) -> None:
            raise Boom("no")

        with pytest.raises(Boom):
            made[3].report_status_change(RecordingReporter(refuse), RUNTIME_ERROR)

        assert statuses(line(storage, made[0].get_run_id())) == [RUNTIME_ERROR] * 4

    def test_a_reporter_may_report(self, storage: PipelineStorage, build: Builder) -> None:
        """A reporter may change other records while it receives a report."""
        made, others = build.line(), build.line()

        def pass_on(_record: PipelineStorageObject) -> None:
            others[3].report_status_change(RecordingReporter(), CANCELLED, message="the other one started")

        made[3].report_status_change(RecordingReporter(pass_on), RUNNING)

        assert statuses(line(storage, made[0].get_run_id())) == [RUNNING] * 4
        assert statuses(line(storage, others[0].get_run_id())) == [CANCELLED] * 4

    def test_a_report_on_a_removed_record(
        self, storage: PipelineStorage, other_storage: PipelineStorage, build: Builder, reporter: RecordingReporter
    ) -> None:
        """A report on a record whose run was removed is ignored: a queued job may come late."""
        for status in (RUNNING, *FINAL):
            with case(status):
                made = build.line()
                other_storage.cleanup()

                for record in reversed(made):
                    record.report_status_change(reporter, status, message="late")

                assert reporter.reports == []
                assert len(storage.get_pipeline_executions()) == 0

    def test_the_first_of_two_reports_wins(
        self, storage: PipelineStorage, other_storage: PipelineStorage, build: Builder
    ) -> None:
        """Of two PENDING objects of one record, the second to report succeeds only if it really advances the record."""
        for first, late in product((RUNNING, *FINAL), repeat=2):
            with case(first, late):
                run_id = build().get_run_id()
                winner: PipelineStorageObject
                loser: PipelineStorageObject
                for winner, loser in zip(line(other_storage, run_id), line(storage, run_id), strict=True):
                    reporter = RecordingReporter()
                    winner.report_status_change(RecordingReporter(), first, message="first", propagate=False)
                    stored = state(fresh(storage, loser))

                    loser.report_status_change(reporter, late, message="late", propagate=False)

                    now = fresh(storage, loser)
                    assert loser.get_status() is now.get_status(), "an object that has reported knows better"
                    if late in ADVANCES[first]:
                        assert now.get_status() is late
                        assert now.get_started() == stored[1]
                        assert now.get_status_message() == "late"
                        assert reporter.reports == [told(loser, late, "late")]
                    else:
                        assert state(now) == stored
                        assert now.get_status_message() == "first"
                        assert reporter.reports == []

    def test_the_loser_of_a_race_changes_no_parent(
        self, storage: PipelineStorage, other_storage: PipelineStorage, build: Builder, reporter: RecordingReporter
    ) -> None:
        """A propagated report that turns out not to advance its record is ignored whole."""
        for late in (RUNNING, *FINAL):
            with case(late):
                run_id = build().get_run_id()
                winner, loser = other_storage.get_task_results(run_id)[0], storage.get_task_results(run_id)[0]
                winner.report_status_change(RecordingReporter(), DONE, propagate=False)

                loser.report_status_change(reporter, late, message="late")

                assert statuses(line(storage, run_id)) == [PENDING, PENDING, PENDING, DONE]
                assert reporter.reports == []

    def test_a_stale_parent_does_not_win(
        self,
        storage: PipelineStorage,
        other_storage: PipelineStorage,
        build: Builder,
        reporter: RecordingReporter,
    ) -> None:
        """A child's parent object may be stale: a parent that is final in the storage does not change."""
        run_id = build().get_run_id()
        task_result = storage.get_task_results(run_id)[0]
        assert task_result.get_task_execution().get_pipeline_result().get_pipeline_execution().get_status() is PENDING
        found_by_other = other_storage.get_pipeline_execution(run_id)
        assert found_by_other is not None
        found_by_other.report_status_change(RecordingReporter(), CANCELLED, message="by hand")

        task_result.report_status_change(reporter, RUNTIME_ERROR, message="broken")

        stored = line(storage, run_id)
        assert statuses(stored) == [CANCELLED, RUNTIME_ERROR, RUNTIME_ERROR, RUNTIME_ERROR]
        assert stored[0].get_status_message() == "by hand"
        assert reporter.reports == [told(record, RUNTIME_ERROR, "broken") for record in stored[1:]]
        above = task_result.get_task_execution().get_pipeline_result().get_pipeline_execution()
        assert above.get_status() is CANCELLED

    def test_parents_of_parallel_tasks_start_once(
        self,
        storage: PipelineStorage,
        other_storage: PipelineStorage,
        build: Builder,
        reporter: RecordingReporter,
    ) -> None:
        """Two processes that start task results of one run report its parents RUNNING once in all."""
        run_id = build(Pipeline(Task(objects=["a", "b"]))).get_run_id()
        a, b = storage.get_task_results(run_id)[0], other_storage.get_task_results(run_id)[1]
        assert b.get_task_execution().get_status() is PENDING

        a.report_status_change(reporter, RUNNING)
        started = [state(record) for record in line(storage, run_id)]
        b.report_status_change(reporter, RUNNING)

        above = line(storage, run_id)[:3]
        assert reporter.reports == [*(told(r, RUNNING) for r in above), told(a, RUNNING), told(b, RUNNING)]
        assert [state(record) for record in line(storage, run_id)] == started

    def test_of_many_threads_one_wins(
        self, storage: PipelineStorage, other_storage: PipelineStorage, build: Builder
    ) -> None:
        """If threads report at once on their own objects, one succeeds, and only that one tells the reporter."""
        run_id = build().get_run_id()
        task_result_id = line(storage, run_id)[3].get_id()
        reporters = [RecordingReporter() for _ in range(8)]
        start = threading.Barrier(len(reporters), timeout=30)
        errors: list[BaseException] = []

        def report(number: int) -> None:
            try:
                record = look_up((storage, other_storage)[number % 2], "TaskResult")(task_result_id)
                assert record is not None
                start.wait()
                record.report_status_change(reporters[number], FINAL[number % len(FINAL)], message=str(number))
            except BaseException as error:  # noqa: BLE001 - it is raised again in the test's own thread
                errors.append(error)

        threads = [threading.Thread(target=report, args=(number,)) for number in range(len(reporters))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert errors == []
        winners = [(number, r.reports) for number, r in enumerate(reporters) if r.reports]
        assert len(winners) == 1
        ((number, reports),) = winners
        stored = line(storage, run_id)
        status = FINAL[number % len(FINAL)]
        assert reports == [told(record, status, str(number)) for record in stored]
        assert statuses(stored) == [status] * 4
        assert [record.get_status_message() for record in stored] == [str(number)] * 4

    def test_parallel_tasks_of_one_run(
        self, storage: PipelineStorage, other_storage: PipelineStorage, build: Builder
    ) -> None:
        """Threads that run the tasks of one run lose no state, and every change is reported once."""
        run_id = build(Pipeline(Task(objects=range(16)))).get_run_id()
        ids = [record.get_id() for record in storage.get_task_results(run_id)]
        reporter = RecordingReporter()
        errors: list[BaseException] = []

        def work(own: list[int], of: PipelineStorage) -> None:
            try:
                for number in own:
                    record = look_up(of, "TaskResult")(number)
                    assert record is not None
                    record.report_status_change(reporter, RUNNING)
                    status = RUNTIME_ERROR if number == ids[5] else DONE
                    record.report_status_change(reporter, status, propagate=status is not DONE)
            except BaseException as error:  # noqa: BLE001 - it is raised again in the test's own thread
                errors.append(error)

        threads = [
            threading.Thread(target=work, args=(ids[part::4], (storage, other_storage)[part % 2])) for part in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert errors == []
        stored = line(storage, run_id)
        assert statuses(stored[:3]) == [RUNTIME_ERROR] * 3
        assert statuses(storage.get_task_results(run_id)) == [
            RUNTIME_ERROR if number == ids[5] else DONE for number in ids
        ]
        assert len(reporter.reports) == len(set(reporter.reports))
        for record in stored[:3]:
            own = [r.status for r in reporter.reports if (r.kind, r.id) == (record.content_type_name, record.get_id())]
            assert own.count(RUNTIME_ERROR) == 1
            assert set(own) <= {RUNNING, RUNTIME_ERROR}
