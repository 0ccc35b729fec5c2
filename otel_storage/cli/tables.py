"""Tables: each column as wide as what is in it, narrower where the terminal is, a line as each row comes.

``rich.table`` reads all rows before it draws the first, and chooses by itself which columns give way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from rich.cells import cell_len
from rich.text import Text

from otel_storage.cli import text

GAP = "  "
"""What is between two columns."""

Cell = str | Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: its heading, and how it is laid out."""

    heading: str
    shrinks: int = 0
    """Its turn to give way where there is no room for all: 1 is first; 0: it never does."""
    least: int = 0
    """The fewest cells that it shrinks to."""
    at_once: bool = False
    """Whether it shrinks to its least, however little is missing: an id that is cut near its end looks whole."""
    has_ellipsis: bool = True
    """Whether a cell that is cut ends in an ellipsis; without one the rest can be copied."""
    is_right: bool = False
    """Whether the cells end below each other rather than begin."""
    style: str = ""
    """That of cells which have none of their own."""


def lines(
    columns: Sequence[Column],
    rows: Iterable[Sequence[Cell]],
    width: int,
    ellipsis: str,
    measured: int | None = None,
) -> Iterator[Text]:
    """The table's lines: the headings, then each row as it comes; nothing if there is no row.

    Args:
        columns: From left to right.
        rows: The cells of each row.
        width: Cells in a line. Columns that never shrink may need more.
        ellipsis: What the terminal can show.
        measured: How many rows are read before the first line, to see how wide the columns are; None: all.
    """
    coming = iter(rows)
    first = list(islice(coming, measured))
    if not first:
        return
    headings = [column.heading for column in columns]
    widths = [max(map(_cells, cells)) for cells in zip(headings, *first, strict=True)]
    _shrink(columns, widths, width - len(GAP) * (len(columns) - 1))
    heading = _line(columns, widths, headings, ellipsis)
    yield Text(heading.plain, style="dim")
    for row in chain(first, coming):
        yield _line(columns, widths, row, ellipsis)


def _cells(cell: Cell) -> int:
    return cell.cell_len if isinstance(cell, Text) else cell_len(cell)


def _shrink(columns: Sequence[Column], widths: list[int], room: int) -> None:
    """Take from the columns, in their turn, what there is no room for."""
    shrinking = [number for number, column in enumerate(columns) if column.shrinks]
    for number in sorted(shrinking, key=lambda number: columns[number].shrinks):
        missing = sum(widths) - room
        if missing > 0:
            least = min(columns[number].least, widths[number])
            widths[number] = least if columns[number].at_once else max(least, widths[number] - missing)


def _line(columns: Sequence[Column], widths: Sequence[int], cells: Sequence[Cell], ellipsis: str) -> Text:
    line = Text()
    for column, width, cell in zip(columns, widths, cells, strict=True):
        if isinstance(cell, str):
            cell = Text(text.cut(cell, width, ellipsis if column.has_ellipsis else ""), style=column.style)
        space = " " * (width - cell.cell_len)
        line.append(GAP if line else "")
        line.append_text(Text.assemble(space, cell) if column.is_right else Text.assemble(cell, space))
    return line
