"""A state machine of the contract: changes of every kind in any order, each with the outcome that the contract gives.

Hypothesis makes sequences of steps: runs are built, reported on, saved and removed, by records that were just read and
by ones that others have overtaken. After each step every record of the storage is compared with a model in plain
Python (:mod:`~otel_storage.testing.conformance.model`). A sequence that comes to something else is made as short as it
can be, and printed.

Both suites run the machine, as their rule ``test_changes_in_any_order``. By itself it takes a few lines::

    def test_changes(tmp_path):
        clock = ManualClock()
        check_changes(StrictStorageMachine, Subject(MyStorage(tmp_path, clock=clock), clock=clock))

What a storage has beyond the contract takes part where the class of tests gives it in its fixture ``extras``: see
:class:`~otel_storage.testing.conformance.fixtures.Extras`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from otel_storage.results.extras import to_install

try:
    import hypothesis
except ImportError as error:
    raise ImportError(f"the state machine of the conformance suite needs Hypothesis; {to_install('test')}") from error

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from otel_storage.results import host
from otel_storage.results.base import BADLY_CONFIGURED, PipelineStorage, PipelineStorageObject
from otel_storage.results.exceptions import RecordDeleted, RecordIsFinal, StatusConflict
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.testing.clock import ManualClock
from otel_storage.testing.conformance.fixtures import (
    ALL,
    CONFIG_ERROR,
    DONE,
    FAILED,
    FINAL,
    PENDING,
    RUNNING,
    RUNTIME_ERROR,
    Builder,
    Extras,
    Times,
    found,
    look_up,
    parent,
)
from otel_storage.testing.conformance.model import (
    EXECUTION,
    TASK_RESULT,
    Between,
    Expected,
    Key,
    Run,
    Shape,
    outcomes,
)
from otel_storage.testing.conformance.transitions import ADVANCES, state
from otel_storage.testing.pipelines import RecordingReporter

SHAPES = (
    Shape(None, (None,)),
    Shape(0, (None,)),
    Shape(None, ()),
    Shape(2, (None,)),
    Shape(None, (2, None)),
    Shape(2, (None, 2)),
    Shape(None, (0, 2)),
)
"""The runs that are built. One record of each kind comes first: Hypothesis reduces what fails to that."""

PIPELINES = ("shop.Orders", "shop.Stock")

places = st.integers(min_value=0, max_value=999)
"""Picks one of those that are there: the remainder of a division by their number."""
statuses = st.sampled_from((*ALL, RUNNING, RUNNING))
"""RUNNING more often: what is final has no further state."""
messages = st.sampled_from(("", "because", "naïve – 日本 🚀"))


def several(*parts: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """A few changes of one kind, made in one step: all records are compared after it, and each change by itself."""
    return st.lists(st.tuples(*parts), min_size=1, max_size=8)


FEW = 2
MANY = 4
"""A run is built where there are fewer; each is compared after every step, which takes its time."""


class Subject:
    """The storage under test, and its known features.

    Args:
        storage: The storage; its records are removed.
        other_storage: A second storage on the same data, like that of another process; None if there is none.
        clock: The clock that they were made with; None if they take none.
        extras: What the storage has beyond the contract.
    """

    def __init__(
        self,
        storage: PipelineStorage,
        other_storage: PipelineStorage | None = None,
        *,
        clock: ManualClock | None = None,
        extras: Extras | None = None,
    ) -> None:
        self.storage = storage
        self.other_storage = storage if other_storage is None else other_storage
        self.times = Times(clock)
        self.extras = Extras() if extras is None else extras


@dataclass(eq=False, slots=True)
class Held:
    """An object of a record."""

    expected: Expected
    record: PipelineStorageObject
    known: dict[Expected, PipelineTaskStatus]
    """The statuses of the record and its parents as the object read them, or wrote them since."""


class StorageMachine(RuleBasedStateMachine):
    """The rules for any storage of the host: every record is read before it is changed, and changed at once."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.storage = subject.storage
        self.other_storage = subject.other_storage
        self.times = subject.times
        self.extras = subject.extras
        self.runs: list[Run] = []
        """The runs that are there, oldest first."""
        self.seen: dict[Key, tuple[Any, ...]] = {}
        """The states of the records after the step before."""
        self.number_built = 0
        self.storage.cleanup()

    @precondition(lambda self: len(self.runs) < MANY)
    @rule(shape=st.sampled_from(SHAPES), pipeline_id=st.sampled_from(PIPELINES), later=st.booleans())
    def build(self, shape: Shape, pipeline_id: str, later: bool) -> None:
        """Build a run, perhaps an hour later: each record is reported PENDING once, after the record above it."""
        if later:
            self.times.advance(3600)
        execution, reporter, _ = self._build(shape, pipeline_id)
        expected = _expect(execution, None)
        results = list(execution.get_pipeline_results())
        assert len(results) == shape.pipeline_results
        for result in results:
            tasks = list(result.get_task_executions())
            assert [task.get_pipeline_task() for task in tasks] == [f"task {n}" for n in range(len(tasks))]
            assert [len(task.get_task_results()) for task in tasks] == shape.task_results
            above = _expect(result, expected)
            for task in tasks:
                _expect_all(task.get_task_results(), _expect(task, above))
        self._add(execution, expected, reporter)

    @precondition(lambda self: self.runs)
    @rule(changes=several(places, st.booleans(), statuses, messages, st.booleans()))
    def report(self, changes: Sequence[tuple[int, bool, PipelineTaskStatus, str, bool]]) -> None:
        """Report statuses on records that were just read, with and without propagation."""
        for record, by_other, status, message, propagate in changes:
            self._report(self._read(self._pick(record), by_other), status, message, propagate)

    @precondition(lambda self: self.runs)
    @rule(changes=several(places, st.booleans(), statuses))
    def save_statuses(self, changes: Sequence[tuple[int, bool, PipelineTaskStatus]]) -> None:
        """Save statuses of records that were just read."""
        for record, by_other, status in changes:
            self._save_status(self._read(self._pick(record), by_other), status)

    @precondition(lambda self: len(self.runs) > FEW)
    @rule()
    def clean_up(self) -> None:
        """Remove all runs."""
        self._clean_up(None, self.runs)

    @invariant()
    def what_is_stored_is_expected(self) -> None:
        """The records are those of the runs, each as expected; none went back, and none that was final changed."""
        # By the other storage: as another process sees them.
        stored = {(each.content_type_name, each.get_id()): each for each in _all_records(self.other_storage)}
        expected = {record.key: record for run in self.runs for record in run.records()}
        assert stored.keys() == expected.keys()
        states = {key: state(record) for key, record in stored.items()}
        for key in self.seen.keys() & states.keys():
            before, now = self.seen[key], states[key]
            assert now == before or before[0] not in FINAL, f"{key} was final"
            assert now[0] is before[0] or now[0] in ADVANCES[before[0]], f"{key} went back"
        self.seen = states
        for key, record in stored.items():
            self._compare(expected[key], record)

    def _build(
        self, shape: Shape, pipeline_id: str, *, build_all: bool = True
    ) -> tuple[Any, RecordingReporter, Between]:
        """Build a run; returns its execution, newly read, what was told of it, and when it was built."""
        self.number_built += 1
        run_id, reporter, before = f"run-{self.number_built}", RecordingReporter(), self.times.now()
        built = Builder(self.storage)(
            shape.pipeline(pipeline_id), run_id=run_id, reporter=reporter, build_all=build_all
        )
        moment = Between(before, self.times.now())
        execution = found(self.storage.get_pipeline_execution(run_id))
        assert execution == built
        return execution, reporter, moment

    def _add(self, execution: Any, expected: Expected, reporter: RecordingReporter) -> None:
        records = list(expected.below())
        keys = [(report.kind, report.id) for report in reporter.reports]
        assert {report.status for report in reporter.reports} == {PENDING}
        assert sorted(keys) == sorted(record.key for record in records)
        assert all(keys.index(each.parent.key) < keys.index(each.key) for each in records if each.parent is not None)
        self.runs.append(Run(execution.get_run_id(), execution.get_pipeline_id(), expected))

    def _pick(self, place: int) -> Expected:
        records = [record for run in self.runs for record in run.records()]
        expected = records[place % len(records)]
        hypothesis.note(f"# {expected.kind} {expected.id}, {expected.status.value}:")
        return expected

    def _read(self, expected: Expected, by_other: bool) -> Held:
        storage = self.other_storage if by_other else self.storage
        record: PipelineStorageObject | None
        if expected.kind == EXECUTION:
            [run_id] = [run.run_id for run in self.runs if run.execution is expected]
            record = storage.get_pipeline_execution(run_id)
        else:
            record = look_up(storage, expected.kind)(expected.id)
        held = Held(expected, found(record), {each: each.status for each in (expected, *expected.parents())})
        self._compare(expected, held.record)
        return held

    def _compare(self, expected: Expected, record: PipelineStorageObject) -> None:
        expected.compare(record)

    def _save_status(self, held: Held, status: PipelineTaskStatus) -> None:
        """Save a status that advances the record, which alone changes; storages may leave its times to those who save.

        The contract does not define the effect of another status.
        """
        if status in ADVANCES[held.expected.status]:
            # By its name, as the host's own base class sets it.
            held.record.set_status(status.value)
            held.record.save()
            held.expected.advance(status, "", None)

    def _report(self, held: Held, status: PipelineTaskStatus, message: str, propagate: bool) -> None:
        """Report a status: exactly the records that advance are told of, parents first."""
        allowed = outcomes(held.expected, status, propagate=propagate, known=held.known)
        reporter, before = RecordingReporter(), self.times.now()
        held.record.report_status_change(reporter, status, message=message, propagate=propagate)
        moment = Between(before, self.times.now())
        text = f"Changed state to {status.value}" + (f" - {message}" if message else "")
        assert reporter.reports in [[(*each.key, status, text) for each in winners] for winners in allowed]
        [winners] = [each for each in allowed if len(each) == len(reporter.reports)]
        for winner in winners:
            winner.advance(status, message, moment)
        _look_at(held, status, propagate=propagate and held.expected in winners)

    def _clean_up(self, before: datetime | None, removed: Sequence[Run]) -> None:
        """Remove runs: their ids are returned, and none of their records is found any more."""
        assert sorted(self.storage.cleanup(before)) == sorted(run.run_id for run in removed)
        for run in removed:
            run.remove()
            assert self.storage.get_pipeline_execution(run.run_id) is None
            for record in run.records():
                assert record.kind == EXECUTION or look_up(self.storage, record.kind)(record.id) is None
        self.runs = [run for run in self.runs if run not in removed]


class StrictStorageMachine(StorageMachine):
    """Every promise of :mod:`otel_storage.results.base`, also of records that others have overtaken or removed."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self.held: list[Held] = []
        """Every object that was read."""

    @precondition(lambda self: len(self.runs) < MANY)
    @rule(pipeline_id=st.sampled_from(PIPELINES))
    def build_badly_configured(self, pipeline_id: str) -> None:
        """Build a run without ``build_all``: its execution alone, which is a CONFIG_ERROR."""
        execution, reporter, moment = self._build(SHAPES[0], pipeline_id, build_all=False)
        expected = _expect(execution, None)
        expected.advance(CONFIG_ERROR, BADLY_CONFIGURED, moment)
        self._add(execution, expected, reporter)

    @precondition(lambda self: self.held)
    @rule(changes=several(places, statuses, messages, st.booleans()))
    def report_late(self, changes: Sequence[tuple[int, PipelineTaskStatus, str, bool]]) -> None:
        """Report on records that were read some time ago; one that is removed is left alone."""
        for held, status, message, propagate in changes:
            self._report(self._pick_held(held), status, message, propagate)

    @precondition(lambda self: self.runs)
    @rule(changes=several(places, statuses, statuses, messages, st.booleans()))
    def race(self, changes: Sequence[tuple[int, PipelineTaskStatus, PipelineTaskStatus, str, bool]]) -> None:
        """Report by two objects that were both read before: the second wins only where it really advances."""
        for record, first, second, message, propagate in changes:
            expected = self._pick(record)
            one, other = self._read(expected, False), self._read(expected, True)
            self._report(one, first, "first", False)
            self._report(other, second, message, propagate)

    @precondition(lambda self: self.held)
    @rule(changes=several(places, st.none() | statuses, st.booleans()))
    def save_late(self, changes: Sequence[tuple[int, PipelineTaskStatus | None, bool]]) -> None:
        """Save a status, a start, both or nothing of records that were read some time ago."""
        for held, status, sets_start in changes:
            self._save(self._pick_held(held), status, self.times.utc() if sets_start else None)

    @precondition(lambda self: len(self.runs) > FEW)
    @rule(run=places, is_included=st.booleans())
    def clean_up_before(self, run: int, is_included: bool) -> None:
        """Remove the runs built before one of them was; or before a microsecond later, and so that one too."""
        built = {each: _found_time(each.execution.created) for each in self.runs}
        before = built[self.runs[run % len(self.runs)]] + timedelta(microseconds=is_included)
        self._clean_up(before, [each for each in self.runs if built[each] < before])

    @precondition(lambda self: self.extras.close_running is not None and self._has_running())
    @rule()
    def close_running(self) -> None:
        """Close what is RUNNING, as where its process is gone; the storage says why."""
        assert self.extras.close_running is not None
        reporter, before = RecordingReporter(), self.times.now()
        self.extras.close_running(reporter)
        moment = Between(before, self.times.now())
        closed = [record for run in self.runs for record in run.close()]
        assert [report[:3] for report in reporter.reports] == [(*record.key, RUNTIME_ERROR) for record in closed]
        for record, report in zip(closed, reporter.reports, strict=True):
            record.advance(RUNTIME_ERROR, report.message.partition(" - ")[2], moment)

    @precondition(lambda self: self.extras.upkeep)
    @rule(place=places)
    def keep_up(self, place: int) -> None:
        """Let the storage do what it does from time to time."""
        self.extras.upkeep[place % len(self.extras.upkeep)]()

    @invariant()
    def the_digest_counts_runs(self) -> None:
        """The digest has each pipeline with its runs: DONE is a success, every other final status a failure."""
        digest = self.storage.get_pipeline_digest()
        counts = {name: (item.total_runs, item.total_success, item.total_failure) for name, item in digest.items()}
        expected = {}
        for name in {run.pipeline_id for run in self.runs}:
            found_in = [run.execution.status for run in self.runs if run.pipeline_id == name]
            expected[name] = (len(found_in), found_in.count(DONE), sum(status in FAILED for status in found_in))
        assert counts == expected

    @precondition(lambda self: self.extras.references is not None)
    @invariant()
    def what_is_final_has_one_reference(self) -> None:
        """There is one reference per final task result, and one per run, which is due once the run is final."""
        assert self.extras.references is not None
        expected = Counter(
            (*record.key, record.status in FINAL)
            for run in self.runs
            for record in run.records()
            if record.kind == EXECUTION or (record.kind == TASK_RESULT and record.status in FINAL)
        )
        assert Counter(self.extras.references()) == expected

    def _has_running(self) -> bool:
        return any(record.status is RUNNING for run in self.runs for record in run.records())

    def _read(self, expected: Expected, by_other: bool) -> Held:
        """Read the record; its object is kept, to change the record later."""
        held = super()._read(expected, by_other)
        self.held.append(held)
        return held

    def _pick_held(self, place: int) -> Held:
        held = self.held[place % len(self.held)]
        now = "removed" if held.expected.is_removed else held.expected.status.value
        known = held.known[held.expected].value
        hypothesis.note(f"# {held.expected.kind} {held.expected.id}, read when it was {known}, now {now}:")
        return held

    def _compare(self, expected: Expected, record: PipelineStorageObject) -> None:
        expected.compare_strictly(record)

    def _save_status(self, held: Held, status: PipelineTaskStatus) -> None:
        self._save(held, status, None)

    def _save(self, held: Held, status: PipelineTaskStatus | None, start: datetime | None) -> None:
        """Save: a status takes the same transition as a reported one, and what is refused changes nothing."""
        errors, before = _refusals(held, status, start), self.times.now()
        try:
            _set_and_save(held.record, status, start)
        except errors:
            # Refused, as the contract says: the comparison after the step shows that nothing was written.
            return
        assert not errors, f"saved, though it had to raise {' or '.join(error.__name__ for error in errors)}"
        if status is not None:
            held.expected.advance(status, "", Between(before, self.times.now()))
            held.known[held.expected] = status
        if start is not None:
            held.expected.started = host.present(start)


def check_changes(
    machine: type[StorageMachine], subject: Subject, *, examples: int = 25, steps: int = 20, shrink: bool = True
) -> None:
    """Run the machine over the storage, by the same sequences each time.

    Args:
        machine: The machine's class.
        subject: The storage.
        examples: How many sequences of steps there are.
        steps: How many steps each has at most.
        shrink: Whether a sequence that fails is made shorter, which may take a minute.

    Raises:
        AssertionError: a sequence came to something else than the contract says; it is printed.
    """
    phases = (hypothesis.Phase.generate, hypothesis.Phase.shrink) if shrink else (hypothesis.Phase.generate,)
    settings = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=steps,
        phases=phases,
        # A suite that passed has to pass again.
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        # A slow database says nothing about the sequences.
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_state_machine_as_test(lambda: machine(subject), settings=settings)  # type: ignore[arg-type]  # a function will do


def _all_records(storage: PipelineStorage) -> Iterator[PipelineStorageObject]:
    """Every record, from the executions down: storages read the children of those listed together in one query."""
    for execution in storage.get_pipeline_executions():
        yield execution
        for result in execution.get_pipeline_results():
            yield result
            for task in result.get_task_executions():
                yield task
                yield from task.get_task_results()


def _expect(record: PipelineStorageObject, above: Expected | None) -> Expected:
    """Expect the record to stay as it was built."""
    expected = Expected(record.content_type_name, record.get_id(), above)
    if above is not None:
        above.children.append(expected)
    return expected


def _expect_all(records: Any, above: Expected) -> None:
    for record in records:
        _expect(record, above)


def _look_at(held: Held, status: PipelineTaskStatus, *, propagate: bool) -> None:
    """Check that the object, and each parent that its report went to, show what is stored since."""
    record: PipelineStorageObject | None = held.record
    for expected in (held.expected, *held.expected.parents()):
        if expected.is_removed or status not in ADVANCES[held.known[expected]]:
            return
        assert record is not None
        assert record.get_status() is expected.status
        held.known[expected] = expected.status
        if not propagate:
            return
        record = parent(record)


def _set_and_save(record: PipelineStorageObject, status: PipelineTaskStatus | None, start: datetime | None) -> None:
    if start is not None:
        record.set_started(start)
    if status is not None:
        record.set_status(status)
    record.save()


def _refusals(held: Held, status: PipelineTaskStatus | None, start: datetime | None) -> tuple[type[Exception], ...]:
    """The errors that a save may raise, one of which it has to; empty if it has to succeed."""
    expected = held.expected
    errors: list[type[Exception]] = []
    if status is None and start is None:
        return ()
    if start is not None and (held.known[expected] in FINAL or (expected.status in FINAL and not expected.is_removed)):
        errors.append(RecordIsFinal)
    if expected.is_removed:
        errors.append(RecordDeleted)
    elif status is not None and status not in ADVANCES[expected.status]:
        errors.append(StatusConflict)
    return tuple(errors)


def _found_time(moment: datetime | None) -> datetime:
    assert moment is not None
    return moment
