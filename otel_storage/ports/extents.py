"""The extent of a record and everything below it: its outcome, its bounds in time, and whether it is still open.

The same rule serves spans, the command line, and pages.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from otel_storage.results.kinds import TASK_EXECUTION
from otel_storage.results.status import FINAL, PipelineTaskStatus

_WORST_FIRST = (
    PipelineTaskStatus.RUNTIME_ERROR,
    PipelineTaskStatus.VALIDATION_ERROR,
    PipelineTaskStatus.CONFIG_ERROR,
    PipelineTaskStatus.CANCELLED,
    PipelineTaskStatus.DONE,
)


@dataclass(slots=True)
class Extent:
    """A record with everything below it, or several records of one status without children."""

    outcome: PipelineTaskStatus
    """The record's outcome: its status, or the worst status of its results for a task whose results are all final."""
    start: datetime | None
    """The earliest known moment; None if nothing ever started or ended."""
    end: datetime | None
    """The latest known moment; while the extent is open, later ones will follow."""
    is_open: bool
    """Whether the record, or a record below it, has started and not ended."""

    @classmethod
    def of_status(cls, status: PipelineTaskStatus, start: datetime | None, end: datetime | None) -> Extent:
        """The extent of records of that status, from their earliest moment to their latest."""
        return cls(status, start, end, start is not None and status not in FINAL)


def extent(
    kind: str,
    status: PipelineTaskStatus,
    started: datetime | None,
    completed: datetime | None,
    below: Collection[Extent] = (),
) -> Extent:
    """Compute the extent of a record.

    A parent contains its children, also those that are RUNNING: their spans, which are sent later, lie inside the
    parent's. The end is the latest known moment, so a record that was reported final before its children contains them
    too. A host whose clock is behind may report an end before the start; then the end is set to the start.

    Only a task's results decide for their parent: the eager runner never reports a task final. The levels above may get
    more to do after their children are final.

    Args:
        kind: The kind of record, see :mod:`otel_storage.results.kinds`.
        status: The record's own.
        started: When RUNNING was reported.
        completed: When a final status was reported; ignored while the status is not final.
        below: The extents of the records directly below. Those that have nothing below them may come as one extent for
            each status, see :meth:`Extent.of_status`.
    """
    ended = completed if status in FINAL else None
    start = end = ended if started is None else started
    if ended is not None and (end is None or ended > end):
        end = ended
    outcome = status
    if kind == TASK_EXECUTION and status not in FINAL and below:
        outcomes = {child.outcome for child in below}
        if outcomes <= FINAL:
            outcome = next(status for status in _WORST_FIRST if status in outcomes)
    is_open = False
    for child in below:
        if child.start is not None and (start is None or child.start < start):
            start = child.start
        if child.end is not None and (end is None or child.end > end):
            end = child.end
        is_open = is_open or child.is_open
    return Extent(outcome, start, end, is_open or (start is not None and outcome not in FINAL))
