"""Tables: how columns share a line, and that rows are drawn as they come."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from otel_storage.cli import tables
from otel_storage.cli.tables import Column

COLUMNS = (
    Column(heading="RUN", shrinks=1, least=8, at_once=True, has_ellipsis=False),
    Column(heading="NAME", shrinks=2, least=4),
    Column(heading="STATUS"),
    Column(heading="TOOK", is_right=True),
)
ROWS = [
    ("6f1d3c0e-8b0f", "tests.Orders", Text("DONE", style="green"), "1.00 s"),
    ("7f1d3c0e-8b0f", "load", Text("RUNNING", style="cyan"), "12 s"),
]


def draw(width: int) -> list[str]:
    """The lines of the table."""
    return [line.plain.rstrip() for line in tables.lines(COLUMNS, ROWS, width, "…")]


def test_wide() -> None:
    """With room for all, nothing is cut."""
    assert draw(80) == [
        "RUN            NAME          STATUS     TOOK",
        "6f1d3c0e-8b0f  tests.Orders  DONE     1.00 s",
        "7f1d3c0e-8b0f  load          RUNNING    12 s",
    ]


def test_first_to_give_way() -> None:
    """The first column in turn gives way alone, and all that it can where it shrinks at once."""
    assert draw(43) == [
        "RUN       NAME          STATUS     TOOK",
        "6f1d3c0e  tests.Orders  DONE     1.00 s",
        "7f1d3c0e  load          RUNNING    12 s",
    ]


def test_second_to_give_way() -> None:
    """The next one gives what is still missing, and its cells end in an ellipsis."""
    assert draw(35) == [
        "RUN       NAME      STATUS     TOOK",
        "6f1d3c0e  tests.O…  DONE     1.00 s",
        "7f1d3c0e  load      RUNNING    12 s",
    ]


def test_styles_are_kept() -> None:
    """A cell of its own style keeps it; the headings are dim."""
    heading, row, _ = tables.lines(COLUMNS, ROWS, 80, "…")
    assert heading.style == "dim"
    assert [(row.plain[span.start : span.end], span.style) for span in row.spans if span.style] == [("DONE", "green")]


def test_no_rows() -> None:
    """A table without rows has no headings either."""
    assert list(tables.lines(COLUMNS, [], 80, "…")) == []


def test_rows_are_drawn_as_they_come() -> None:
    """No more rows are read than are measured before the first line, and then one for each line; wider ones are cut."""
    read = []

    def rows() -> Iterator[tuple[str, str]]:
        for number in range(5):
            read.append(number)
            yield "x" * (number + 1), "end"

    columns = (Column(heading="A", shrinks=1), Column(heading="B"))
    lines = tables.lines(columns, rows(), 80, "…", measured=2)
    assert next(lines).plain == "A   B  "
    assert read == [0, 1]
    assert [next(lines).plain for _ in range(3)] == ["x   end", "xx  end", "x…  end"]
    assert read == [0, 1, 2]


@given(
    st.lists(st.tuples(st.text("aé注 ", max_size=30), st.text("b注", max_size=30)), min_size=1, max_size=5),
    st.integers(14, 80),
)
def test_lines_fit(rows: list[tuple[str, str]], width: int) -> None:
    """Whatever is in the cells, no line is longer, and the second column begins where its heading does."""
    columns = (Column(heading="FIRST", shrinks=1, least=5), Column(heading="SECOND", shrinks=2, least=6))
    lines = [line.plain for line in tables.lines(columns, rows, width, "…")]
    assert {cell_len(line) for line in lines} == {cell_len(lines[0])}
    assert cell_len(lines[0]) <= width


@pytest.mark.parametrize("heading", ["S", "STATUS"])
def test_a_heading_is_never_cut(heading: str) -> None:
    """A column is as wide as its heading, where its cells are empty."""
    [line, _] = tables.lines([Column(heading=heading)], [("",)], 80, "…")
    assert line.plain == heading
