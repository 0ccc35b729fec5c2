"""Texts from elsewhere as one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_storage.privacy.lines import one_line


@given(st.text() | st.text(" \n\x1b\u202ea", max_size=60), st.integers(1, 20))
def test_any_text_is_one_short_line(text: str, longest: int) -> None:
    """Whatever the text holds, the line can be printed and is no longer than it may be."""
    line = one_line(text, longest)
    assert line.isprintable()
    assert len(line) <= longest
    assert line == line.strip()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        (" 1\r\n2\t\u2028 3 ", "1 2 3"),
        ("1\x1b[m", "1\ufffd[m"),
        ("1\N{RIGHT-TO-LEFT OVERRIDE}2", "1\ufffd2"),
        (ValueError("no\nnumber"), "no number"),
    ],
)
def test_what_steers_a_terminal_is_replaced(text: object, line: str) -> None:
    """White space becomes one blank; what cannot be printed a mark in its place."""
    assert one_line(text) == line


def test_the_whole_text_is_there() -> None:
    """Nothing is cut where nobody limits the line: a secret is looked for in all of the text."""
    assert one_line("word\n" * 100_000, longest=None) == " ".join(["word"] * 100_000)
