"""The state machine of the conformance suite finds faults that are planted in our storage, and says what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results.extras import to_install
from otel_storage.results.status import FAILED, PipelineTaskStatus
from otel_storage.sql.outbox import transitions
from otel_storage.sql.records import reporting
from otel_storage.sql.totals import digest
from otel_storage.testing.clock import ManualClock
from otel_storage.testing.conformance.machine import StrictStorageMachine, Subject, check_changes
from tests.conformance import extras_of
from tests.processes import run_python

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture
def subject(sqlite_url: str) -> Iterator[Subject]:
    """Our storage with telemetry, and a second one over the same file."""
    clock = ManualClock()
    with ExitStack() as storages:
        ours, other = (
            storages.enter_context(
                closing(
                    OtelPipelineStorage(
                        url=sqlite_url, clock=clock, exporter=InMemorySpanExporter(), delivery="external"
                    )
                )
            )
            for _ in range(2)
        )
        yield Subject(ours, other, clock=clock, extras=extras_of(ours, clock))


@pytest.fixture
def new_statements() -> Iterator[None]:
    """Statements that are made once are made anew, under the fault and after it."""
    transitions._prepared_update.cache_clear()
    yield
    transitions._prepared_update.cache_clear()


def drop_the_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row takes on any status, whatever its own is; what the object knows is still asked."""
    anything = dict.fromkeys(PipelineTaskStatus, tuple(PipelineTaskStatus))
    monkeypatch.setattr(transitions, "PRECEDING", anything)


def cancelled_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest counts no run that was cancelled as a failure."""
    monkeypatch.setattr(digest, "FAILED", FAILED - {PipelineTaskStatus.CANCELLED})


def skip_a_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A propagated report passes a pipeline result by."""
    chain = reporting._chain

    def shorter(record: Any, status: PipelineTaskStatus, propagate: bool) -> list[Any]:
        links = chain(record, status, propagate)
        return [link for link in links if link is record or link.content_type_name != "PipelineResult"]

    monkeypatch.setattr(reporting, "_chain", shorter)


def refer_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A final task result has two references."""
    write = transitions.write_references

    def again(connection: Any, execution_id: int, winners: Sequence[Any], *args: Any, **kwargs: Any) -> bool:
        write(connection, execution_id, [row for row in winners if row[0] == "TaskResult"], *args, **kwargs)
        return write(connection, execution_id, winners, *args, **kwargs)

    monkeypatch.setattr(transitions, "write_references", again)


def children_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reporter receives a record before the record's parents."""
    advance = reporting.advance

    def backwards(*args: Any, **kwargs: Any) -> list[Any]:
        return list(reversed(advance(*args, **kwargs)))

    monkeypatch.setattr(reporting, "advance", backwards)


@pytest.mark.usefixtures("new_statements")
@pytest.mark.parametrize(
    ("plant", "checks"),
    [
        (drop_the_condition, ["_report", "_save"]),
        (cancelled_is_no_failure, ["the_digest_counts_runs"]),
        (skip_a_parent, ["_report", "close_running"]),
        (refer_twice, ["what_is_final_has_one_reference"]),
        (children_first, ["_report", "close_running"]),
    ],
)
def test_a_fault_is_found(
    subject: Subject, plant: Plant, checks: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fault makes the check fail that is for it, within the number of sequences that a suite runs."""
    with monkeypatch.context() as patch:
        plant(patch)
        with pytest.raises(AssertionError) as failed:
            check_changes(StrictStorageMachine, subject, shrink=False)

    assert failed.traceback[-1].name in checks


WITHOUT_HYPOTHESIS = """
import json, sys
sys.modules["hypothesis"] = None
from otel_storage.testing.conformance.suites import StrictStorageConformance
assert StrictStorageConformance.test_changes_in_any_order
try:
    import otel_storage.testing.conformance.machine
except ImportError as error:
    print(json.dumps(str(error)))
"""


def test_without_hypothesis(tmp_path: Path) -> None:
    """The suites load without Hypothesis; what needs it says how to install it."""
    said = run_python(WITHOUT_HYPOTHESIS, cwd=tmp_path)

    assert said == f"the state machine of the conformance suite needs Hypothesis; {to_install('test')}"
