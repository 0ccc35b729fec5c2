"""The seven statuses: which is final, which failed, which may follow which."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest

from otel_storage.results import host
from otel_storage.results.exceptions import InvalidInput
from otel_storage.results.status import FAILED, FINAL, PipelineTaskStatus, as_status, preceding

PENDING, RUNNING, DONE = PipelineTaskStatus.PENDING, PipelineTaskStatus.RUNNING, PipelineTaskStatus.DONE


class Other(Enum):
    """Statuses of somebody else."""

    DONE = "DONE"
    LATE = "LATE"


def test_there_are_seven() -> None:
    """The names are those that the host stores, and each is its own value."""
    names = ["PENDING", "RUNNING", "DONE", "CONFIG_ERROR", "VALIDATION_ERROR", "RUNTIME_ERROR", "CANCELLED"]

    assert [status.name for status in PipelineTaskStatus] == names
    assert [status.value for status in PipelineTaskStatus] == names


def test_final_and_failed() -> None:
    """Five are final; all of them but DONE are failed, CANCELLED too."""
    assert set(PipelineTaskStatus) - {PENDING, RUNNING} == FINAL
    assert {DONE} == FINAL - FAILED
    assert FAILED < FINAL


def test_the_host_has_the_same_class() -> None:
    """Where the host is installed its class is ours: its pages and runners compare by identity."""
    if not host.is_installed():
        pytest.skip("django-pipelines is not installed")

    assert host.load("status").PipelineTaskStatus is PipelineTaskStatus


@pytest.mark.parametrize("new", list(PipelineTaskStatus), ids=lambda status: str(status.value))
@pytest.mark.parametrize("old", list(PipelineTaskStatus), ids=lambda status: str(status.value))
def test_what_may_precede_is_what_advances(old: PipelineTaskStatus, new: PipelineTaskStatus) -> None:
    """``preceding``, which updates are made from, and ``has_advanced``, which the host asks, agree."""
    expected = {PENDING: new is not PENDING, RUNNING: new in FINAL}.get(old, False)

    assert (old in preceding(new)) is expected
    assert old.has_advanced(new) is expected


@pytest.mark.parametrize("status", list(PipelineTaskStatus), ids=lambda status: str(status.value))
def test_as_status(status: PipelineTaskStatus) -> None:
    """A status is itself, and its name means it."""
    assert as_status(status) is status
    assert as_status(status.name) is status


def test_a_member_of_another_enum() -> None:
    """A member of an enum that has the value of a status means that status."""
    assert as_status(Other.DONE) is DONE
    with pytest.raises(InvalidInput):
        as_status(Other.LATE)


@pytest.mark.parametrize("bad", ["", "done", " DONE", "UNKNOWN", None, 0, True, b"DONE", ["DONE"], Ellipsis], ids=repr)
def test_what_is_no_status(bad: Any) -> None:
    """Anything else is refused, and the error names it and the seven."""
    with pytest.raises(InvalidInput, match=r"is not a status.*PENDING.*CANCELLED") as caught:
        as_status(bad)

    assert repr(bad)[:20] in str(caught.value)


def test_a_long_value_is_cut_in_the_error() -> None:
    """An error message does not carry megabytes."""
    with pytest.raises(InvalidInput) as caught:
        as_status("x" * 1_000_000)

    assert len(str(caught.value)) < 500
