"""What is said once, and when again."""

from __future__ import annotations

import logging

import pytest

from otel_storage.metrics.troubles import Troubles
from otel_storage.runtime.complaints import MOST_CAUSES, Complaints
from otel_storage.runtime.guard import Guard


def test_each_cause_is_new_once() -> None:
    """A cause is said once, however many others come between."""
    complaints = Complaints()
    assert [complaints.is_new(cause) for cause in "abab"] == [True, True, False, False]


def test_the_end_makes_every_cause_new() -> None:
    """What comes back after it was over is said again; the end of nothing is none."""
    complaints = Complaints()
    assert not complaints.end()
    complaints.is_new("a")
    assert complaints.end()
    assert not complaints.end()
    assert complaints.is_new("a")


def test_causes_are_bounded() -> None:
    """A cause that is another each time fills no log, until it is over."""
    complaints = Complaints()
    assert sum(complaints.is_new(str(number)) for number in range(10 * MOST_CAUSES)) == MOST_CAUSES
    complaints.end()
    assert complaints.is_new("new")
    few = Complaints(most=1)
    assert [few.is_new("a"), few.is_new("b")] == [True, False]


def test_guard(caplog: pytest.LogCaptureFixture) -> None:
    """Every failure is counted, and each cause logged once, with where it came from."""
    guarded = Guard()

    def fail(text: str) -> None:
        raise ValueError(text)

    for text in ("a", "b", "a"):
        assert guarded(fail, text) is None
    assert guarded.failures == 3
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["a", "b"]


def test_troubles(caplog: pytest.LogCaptureFixture) -> None:
    """Each cause is said once, and that it is over once; then it is said again."""
    caplog.set_level(logging.INFO)
    troubles = Troubles("it fails", "it works")
    troubles.end()
    for cause in ("a", "b", "a"):
        troubles.say(cause)
    assert troubles.current == "it fails: a"
    troubles.end()
    troubles.end()
    troubles.say("a")
    said = [record.getMessage() for record in caplog.records]
    assert said == ["it fails: a", "it fails: b", "it works", "it fails: a"]
