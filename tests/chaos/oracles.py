"""The invariants that hold once the faults have stopped, all runs are closed, and all due spans are sent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Table, select

from otel_storage.results.base import changed_state
from otel_storage.results.status import FINAL, PipelineTaskStatus
from otel_storage.sql.database import schema
from otel_storage.sql.outbox import snapshots
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.telemetry.spans.building import run_spans, task_result_span
from tests.chaos import journal
from tests.chaos.endpoint import received
from tests.chaos.images import Id, Image, expected_images
from tests.chaos.roles import REPORTS

CHUNK = 200

_MOST_EXAMPLES = 5


@dataclass
class Findings:
    """The oracles' result."""

    expected: int = 0
    """Spans that the database says must have arrived."""
    received: int = 0
    """Spans that arrived, each counted once."""
    duplicates: int = 0
    """Arrivals beyond the first of each."""
    lost: list[Id] = field(default_factory=list)
    invented: list[Id] = field(default_factory=list)
    changed: list[Id] = field(default_factory=list)
    """Spans that arrived with other bytes than the database says, or with different ones each time."""
    differences: list[str] = field(default_factory=list)
    """What some of them should have been, and were."""
    misplaced: list[str] = field(default_factory=list)
    """Traces that do not have one root which contains its children, and arrives after the task results."""
    late: int = 0
    """Spans outside of their run's root, that began when the run had settled: as documented."""
    two_winners: list[str] = field(default_factory=list)
    """Records of which more than one process was told that it changed them, or that do not keep the winner's change."""
    left: list[str] = field(default_factory=list)
    """What is still in the outbox, or not final."""

    def problems(self) -> Iterator[str]:
        """The problems, if there are any."""
        for name, found in (
            ("lost", self.lost),
            ("invented", self.invented),
            ("changed bytes", self.changed),
            ("out of place", self.misplaced),
            ("two winners", self.two_winners),
            ("left", self.left),
        ):
            if found:
                yield f"{len(found)} {name}: {', '.join(map(str, found[:_MOST_EXAMPLES]))}"
        yield from self.differences


def judge(storage: SqlPipelineStorage, folder: Path, quiet: float) -> Findings:
    """Hold what arrived, and what was reported, against the database.

    Args:
        storage: The settled database.
        folder: Where the processes wrote down what they saw.
        quiet: Seconds without a change after which a run settles although something in it is PENDING.
    """
    findings = Findings(left=list(_left(storage)))
    first: dict[Id, Image] = {}
    changed: set[Id] = set()
    for image in received(folder):
        if first.setdefault(image.id, image) is not image:
            findings.duplicates += 1
            if image.digest != first[image.id].digest:
                changed.add(image.id)
    findings.received = len(first)
    missing = set(first)
    wanted: dict[Id, Image] = {}
    task_results: set[Id] = set()
    for image, is_task_result in _expected(storage):
        findings.expected += 1
        if is_task_result:
            task_results.add(image.id)
        missing.discard(image.id)
        arrived = first.get(image.id)
        if arrived is None:
            findings.lost.append(image.id)
        elif arrived.digest != image.digest or image.id in changed:
            changed.add(image.id)
            wanted[image.id] = image
    findings.invented = sorted(missing)
    findings.changed = sorted(changed)
    findings.differences = list(_differences(folder, wanted))
    _judge_traces(findings, first.values(), task_results, quiet)
    findings.two_winners = list(_two_winners(storage, folder))
    return findings


def _expected(storage: SqlPipelineStorage) -> Iterator[tuple[Image, bool]]:
    """The spans of all runs, made anew, some runs at a time, and whether each is a task result's."""
    for ids in _chunks(_ids(storage, schema.pipeline_execution)):
        with storage.database.read() as connection:
            table = schema.task_result
            statement = select(table.c.id).where(table.c.execution_id.in_(ids), table.c.status.in_(FINAL))
            task_results = snapshots.task_results(connection, list(connection.execute(statement).scalars()))
            runs = snapshots.runs(connection, ids)
        for image in expected_images(task_result_span(each) for each in task_results.values()):
            yield image, True
        for image in expected_images(span for run in runs.values() for span in run_spans(run)):
            yield image, False


def _differences(folder: Path, wanted: dict[Id, Image]) -> Iterator[str]:
    """What the first spans whose bytes changed should have been, and were."""
    ids = frozenset(list(wanted)[:_MOST_EXAMPLES])
    arrived: dict[Id, set[str]] = defaultdict(set)
    for image in received(folder, whole=ids) if ids else ():
        if image.id in ids:
            arrived[image.id].add(str(image))
    for id_ in ids:
        yield f"{id_} should be {wanted[id_]}, and was {' and '.join(sorted(arrived[id_]))}"


def _judge_traces(findings: Findings, arrived: Iterable[Image], task_results: set[Id], quiet: float) -> None:
    """Each trace has one root, which arrives after the task results, and each span is within its parent.

    But for task results that began after the run had settled.
    """
    traces: dict[str, dict[str, Image]] = defaultdict(dict)
    for image in arrived:
        traces[image.id[0]][image.id[1]] = image
    for trace_id, spans in traces.items():
        roots = [span for span in spans.values() if not span.parent]
        if len(roots) != 1:
            findings.misplaced.append(f"{trace_id} has {len(roots)} roots")
            continue
        [root] = roots
        has_root = False
        for span in spans.values():
            has_root = has_root or span is root
            parent = spans.get(span.parent)
            is_within = span is root or (parent and parent.start <= span.start and span.end <= parent.end)
            if is_within and not (has_root and span.id in task_results):
                continue
            # The time of a change is taken before its transaction, which may wait for others.
            if span.start - root.end >= quiet / 2 * 1e9:
                findings.late += 1
            else:
                findings.misplaced.append(f"{trace_id}/{span.id[1]} is not within its parent, or came after its root")


def _two_winners(storage: SqlPipelineStorage, folder: Path) -> Iterator[str]:
    """Records whose change was told to more than one process, or which do not keep the change that was."""
    reports: dict[tuple[str, int], list[tuple[str, str, int]]] = defaultdict(list)
    for kind, id_, status, message, pid in journal.read(folder, REPORTS):
        reports[kind, id_].append((status, message, pid))
    final = {status.value for status in FINAL}
    for kind, table in schema.LEVELS.items():
        ids = sorted(id_ for reported, id_ in reports if reported == kind)
        rows = {row.id: row for chunk in _chunks(ids) for row in _rows(storage, table, chunk)}
        for id_ in ids:
            told = reports[kind, id_]
            started = [report for report in told if report[0] == "RUNNING"]
            ended = [report for report in told if report[0] in final]
            if len(started) > 1 or len(ended) > 1:
                yield f"{kind} {id_} was reported {told}"
            elif id_ not in rows:
                yield f"{kind} {id_} was reported {told}, and is not there"
            else:
                yield from _unlike(f"{kind} {id_}", rows[id_], started, ended)


def _unlike(
    name: str, row: Any, started: Sequence[tuple[str, str, int]], ended: Sequence[tuple[str, str, int]]
) -> Iterator[str]:
    running = PipelineTaskStatus.RUNNING
    for _, message, _ in started:
        if row.started is None or message != changed_state(running, row.started_message or ""):
            yield f"{name} was reported RUNNING ({message}), and keeps {row.started}, {row.started_message}"
    for status, message, _ in ended:
        # The host itself reports what it thinks of a bad configuration, which is stored when the run is built.
        if row.status.value != status or (
            status != "CONFIG_ERROR" and message != changed_state(row.status, row.completed_message or "")
        ):
            yield f"{name} was reported {status} ({message}), and keeps {row.status.value}, {row.completed_message}"


def _left(storage: SqlPipelineStorage) -> Iterator[str]:
    with storage.database.read() as connection:
        for row in connection.execute(select(schema.outbox).order_by(schema.outbox.c.id)):
            yield f"reference to {row.kind} {row.record_id}, {row.state}: {row.error}"
        table = schema.pipeline_execution
        statement = select(table.c.run_id, table.c.status).where(table.c.status.not_in(FINAL))
        for row in connection.execute(statement):
            yield f"run {row.run_id} is {row.status.value}"
        statement = select(table.c.run_id, table.c.status).where(table.c.span_end.is_(None))
        for row in connection.execute(statement):
            yield f"run {row.run_id} has not settled"


def _ids(storage: SqlPipelineStorage, table: Table) -> list[int]:
    with storage.database.read() as connection:
        return list(connection.execute(select(table.c.id).order_by(table.c.id)).scalars())


def _rows(storage: SqlPipelineStorage, table: Table, ids: Sequence[int]) -> Sequence[Any]:
    columns = (table.c.id, table.c.status, table.c.started, table.c.started_message, table.c.completed_message)
    with storage.database.read() as connection:
        return connection.execute(select(*columns).where(table.c.id.in_(ids))).all()


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), CHUNK):
        yield ids[start : start + CHUNK]
