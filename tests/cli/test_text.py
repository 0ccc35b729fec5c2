"""Words and figures."""

from __future__ import annotations

import shlex
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from otel_storage.cli import text
from otel_storage.privacy.lines import one_line


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 ms"),
        (0.0123, "12 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (9.994, "9.99 s"),
        (9.996, "10.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (3599.4, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (86399, "23 h 59 min"),
        (90000, "1 d 01 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    """A duration is told in the unit that fits, and never as 60 of one."""
    assert text.duration(timedelta(seconds=seconds)) == words


def test_no_duration() -> None:
    """What has no duration says nothing."""
    assert text.duration(None) == ""


@pytest.mark.parametrize("evil", ["a\x1b[2Jb", "a\x07b", "a\x9bb", "a\N{RIGHT-TO-LEFT OVERRIDE}b", "a\x00b"])
def test_one_line_disarms_control_characters(evil: str) -> None:
    """A message cannot steer the terminal."""
    line = one_line(evil)
    assert line.isprintable()
    assert line[0] == "a"
    assert line[-1] == "b"


def test_one_line_joins_lines() -> None:
    """Line breaks, tabs and runs of spaces become one space."""
    assert one_line("  first\r\n\tsecond \n\n third ") == "first second third"


@given(st.text(), st.integers(0, 40))
def test_cut_fits(value: str, width: int) -> None:
    """What is cut is never wider than it may be, wide characters or not, and what fits is not cut."""
    line = one_line(value)
    cut = text.cut(line, width)
    assert cell_len(cut) <= width
    if cell_len(line) <= width:
        assert cut == line


@pytest.mark.parametrize(
    ("serialized", "name"),
    [
        (None, ""),
        ({"obj": "north"}, "north"),
        ({"obj": 7}, "7"),
        ({"obj": ["a", 1]}, '["a", 1]'),
        ({"obj": ""}, '""'),
        ({"pk": 7, "app_label": "shop", "model_name": "order"}, "shop.order 7"),
        ({"a": 1, "b": 2}, '{"a": 1, "b": 2}'),
        ("north\nsouth", "north south"),
    ],
)
def test_object_names(serialized: Any, name: str) -> None:
    """An instance is called by what it was started with."""
    assert text.object_name(serialized) == name


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C"])), min_size=1), st.integers(10, 80))
def test_broken_commands_stay_one_command(words: list[str], width: int) -> None:
    """However a command is broken into lines, a shell reads the same words from it."""
    assert shlex.split("\n".join(text.shell_command(words, width)).replace("\\\n", "")) == words


def test_commands_are_broken_to_fit() -> None:
    """A long command is broken between words, each line but the last ending in a backslash."""
    lines = text.shell_command(["docker", "run", "--rm", "-p", "127.0.0.1:4318:4318", "image"], 24)
    assert lines == ["docker run --rm -p \\", "  127.0.0.1:4318:4318 \\", "  image"]


def test_assignments_stay_assignments() -> None:
    """A variable set for a command is not quoted as a whole, which a shell would take for the command's name."""
    assert text.shell_command(["OTEL_X=a b", "otel-storage"], 80) == ["OTEL_X='a b' otel-storage"]
