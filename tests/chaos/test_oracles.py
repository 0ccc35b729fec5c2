"""The oracles see what they are for: a run that arrived is tampered with, one thing at a time."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results.base import changed_state
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.telemetry.spans import ids
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from tests.chaos.endpoint import NAME, JournalingReceiver
from tests.chaos.journal import Journal
from tests.chaos.oracles import Findings, judge
from tests.chaos.ports import free_port
from tests.chaos.roles import REPORTS

DONE, RUNNING = PipelineTaskStatus.DONE, PipelineTaskStatus.RUNNING
QUIET = 2.0


@dataclass
class Arrived:
    """A run of two task results that was delivered and written down."""

    storage: OtelPipelineStorage
    folder: Path
    run_id: str

    def judge(self) -> Findings:
        """What the oracles say."""
        return judge(self.storage.records, self.folder, QUIET)

    def tamper(self, change: Callable[[list[Any]], list[Any]]) -> Findings:
        """What they say if the receiver had written something else."""
        [path] = self.folder.glob(f"{NAME}.*")
        entries = change([json.loads(line) for line in path.read_text().splitlines()])
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        return self.judge()


@pytest.fixture
def arrived(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arrived]:
    """A run that all is well with."""
    reporter = RecordingReporter()
    journal = Journal(tmp_path, REPORTS)
    receiver = JournalingReceiver(free_port(), tmp_path)
    with closing(OtelPipelineStorage(url=sqlite_url, delivery="external")) as storage, receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        run_id = str(uuid.uuid4())
        pipeline = Pipeline(Task("load", objects=["a", "b"]))
        execution = storage.build_pipeline_execution(pipeline, run_id, Runner(), reporter, None)
        for task_result in storage.get_task_results(run_id):
            for status in (RUNNING, DONE):
                task_result.report_status_change(reporter, status, "a message", propagate=status is RUNNING)
                journal.write(["TaskResult", task_result.get_id(), status.value, changed_state(status, "a message"), 1])
        for pipeline_result in execution.get_pipeline_results():
            pipeline_result.report_status_change(reporter, DONE, propagate=False)
        execution.report_status_change(reporter, DONE)
        assert storage.delivery.deliver_due().error == ""
        yield Arrived(storage, tmp_path, run_id)


def test_all_is_well(arrived: Arrived) -> None:
    """Of a run that arrived as it is stored nothing is said."""
    findings = arrived.judge()

    assert list(findings.problems()) == []
    assert (findings.expected, findings.received, findings.duplicates, findings.late) == (5, 5, 0, 0)


def test_a_lost_span_is_seen(arrived: Arrived) -> None:
    """A span that did not arrive is lost."""
    findings = arrived.tamper(lambda entries: entries[1:])

    assert len(findings.lost) == 1
    assert [problem.partition(":")[0] for problem in findings.problems()] == ["1 lost"]


def test_an_invented_span_is_seen(arrived: Arrived) -> None:
    """A span that is of no stored record was invented; its trace has no root."""
    findings = arrived.tamper(lambda entries: [*entries, ["f" * 32, *entries[0][1:]]])

    assert findings.invented == [("f" * 32, findings.invented[0][1])]
    assert findings.misplaced == [f"{'f' * 32} has 0 roots"]


def test_other_bytes_are_seen(arrived: Arrived) -> None:
    """A span that arrived twice, the second time with other bytes, is told with what it should have been."""
    findings = arrived.tamper(lambda entries: [*entries, [*entries[0][:5], "another digest", entries[0][6]]])

    assert (findings.duplicates, len(findings.changed)) == (1, 1)
    assert "RESULT load" in findings.differences[0]


def test_bytes_that_were_never_right_are_seen(arrived: Arrived) -> None:
    """A span that arrived once, with other bytes than the database says."""
    findings = arrived.tamper(lambda entries: [[*entries[0][:5], "another digest", entries[0][6]], *entries[1:]])

    assert (findings.duplicates, len(findings.changed)) == (0, 1)


def test_a_duplicate_is_no_fault(arrived: Arrived) -> None:
    """A span that arrived twice with the same bytes is counted."""
    findings = arrived.tamper(lambda entries: [*entries, *entries])

    assert list(findings.problems()) == []
    assert findings.duplicates == 5


def test_a_child_outside_of_its_root_is_seen(arrived: Arrived) -> None:
    """A span that ends after its parent; one that began when the run had settled is only counted."""

    def later(nanoseconds: float) -> Callable[[list[Any]], list[Any]]:
        def change(entries: list[Any]) -> list[Any]:
            entries[0][3] += int(nanoseconds)
            entries[0][4] += int(nanoseconds)
            return entries

        return change

    findings = arrived.tamper(later(1e9 * QUIET / 4))
    assert (len(findings.misplaced), findings.late) == (1, 0)
    findings = arrived.tamper(later(1e9 * QUIET))
    assert (len(findings.misplaced), findings.late) == (0, 1)


def test_a_root_that_comes_first_is_seen(arrived: Arrived) -> None:
    """The root must not arrive before its task results."""
    findings = arrived.tamper(lambda entries: entries[::-1])

    assert len(findings.misplaced) == 2


@pytest.mark.parametrize(
    ("status", "message"),
    [("RUNNING", "a message"), ("DONE", "a message"), ("CANCELLED", "another message")],
)
def test_two_winners_are_seen(arrived: Arrived, status: str, message: str) -> None:
    """Two processes were told that they made the same change, or both that they ended a record."""
    [first, _] = arrived.storage.get_task_results(arrived.run_id)
    journal = Journal(arrived.folder, REPORTS)
    journal.write(["TaskResult", first.get_id(), status, changed_state(PipelineTaskStatus[status], message), 2])

    assert len(arrived.judge().two_winners) == 1


@pytest.mark.parametrize(
    "report",
    [
        ["PipelineExecution", 1, "CANCELLED", changed_state(PipelineTaskStatus.CANCELLED, ""), 1],
        ["PipelineExecution", 1, "DONE", changed_state(DONE, "what another said"), 1],
        ["TaskExecution", 1, "DONE", changed_state(DONE, ""), 1],
        ["PipelineExecution", 99, "DONE", changed_state(DONE, ""), 1],
    ],
)
def test_a_change_that_was_reported_and_is_not_kept_is_seen(arrived: Arrived, report: list[Any]) -> None:
    """A process was told that it changed a record, and the database knows nothing of it."""
    Journal(arrived.folder, REPORTS).write(report)

    assert len(arrived.judge().two_winners) == 1


def test_what_is_left_is_seen(arrived: Arrived) -> None:
    """A run that is not final, and its reference in the outbox."""
    arrived.storage.build_pipeline_execution(Pipeline(Task("load")), "open", Runner(), RecordingReporter(), None)

    assert [text.partition(" ")[0] for text in arrived.judge().left] == ["reference", "run", "run"]


def test_a_line_that_a_kill_cut_is_no_entry(arrived: Arrived) -> None:
    """What a killed receiver did not write to its end it did not take."""
    [path] = arrived.folder.glob(f"{NAME}.*")
    path.write_bytes(path.read_bytes()[:-10])
    root = ids.format_span_id(ids.span_id("PipelineExecution", 1))

    assert arrived.judge().lost == [(uuid.UUID(arrived.run_id).hex, root)]
