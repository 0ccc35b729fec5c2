"""What a record comes to with what is below it, by example; ``tests/cli/test_extents.py`` holds it in random runs."""

from __future__ import annotations

from datetime import timedelta
from itertools import combinations

import pytest

from otel_storage.ports.extents import Extent, extent
from otel_storage.results.kinds import PIPELINE_RESULT, TASK_EXECUTION, TASK_RESULT
from otel_storage.results.status import PipelineTaskStatus as Status
from otel_storage.testing.clock import START

D, R, P = Status.DONE, Status.RUNNING, Status.PENDING
WORST_FIRST = [Status.RUNTIME_ERROR, Status.VALIDATION_ERROR, Status.CONFIG_ERROR, Status.CANCELLED, D]
ONE, TWO, THREE = (START + timedelta(seconds=number) for number in (1, 2, 3))


@pytest.mark.parametrize(("worse", "better"), list(combinations(WORST_FIRST, 2)))
def test_a_task_counts_as_its_worst_result(worse: Status, better: Status) -> None:
    """A task that is never reported final ends with its results, and as the worst of them."""
    below = [extent(TASK_RESULT, status, ONE, TWO) for status in (better, worse)]
    assert extent(TASK_EXECUTION, R, ONE, None, below) == Extent(worse, ONE, TWO, is_open=False)


def test_own_end_decides() -> None:
    """A task that was reported final is what it was reported as."""
    below = [extent(TASK_RESULT, Status.RUNTIME_ERROR, ONE, TWO)]
    assert extent(TASK_EXECUTION, D, ONE, TWO, below).outcome is D


@pytest.mark.parametrize("status", [R, P])
def test_levels_above_wait_for_their_own_end(status: Status) -> None:
    """A pipeline result whose tasks have ended may get more to do."""
    below = [extent(TASK_EXECUTION, D, ONE, TWO)]
    assert extent(PIPELINE_RESULT, status, None, None, below) == Extent(status, ONE, TWO, is_open=True)


def test_what_runs_is_contained() -> None:
    """A parent that has ended begins with a child that still runs, and is open as long as that is."""
    below = [extent(TASK_RESULT, R, ONE, None), extent(TASK_RESULT, D, TWO, THREE), extent(TASK_RESULT, P, None, None)]
    assert extent(TASK_EXECUTION, D, TWO, TWO, below) == Extent(D, ONE, THREE, is_open=True)


def test_an_end_before_the_start() -> None:
    """Of a host whose clock is behind the start counts, as in a span."""
    assert extent(TASK_RESULT, D, TWO, ONE) == Extent(D, TWO, TWO, is_open=False)


def test_never_started() -> None:
    """A record that was cancelled before it started has one moment; a PENDING record has none."""
    assert extent(TASK_RESULT, Status.CANCELLED, None, ONE) == Extent(Status.CANCELLED, ONE, ONE, is_open=False)
    assert extent(TASK_RESULT, P, None, None) == Extent(P, None, None, is_open=False)
