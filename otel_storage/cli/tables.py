"""Tables, a line as each row comes, as wide as the terminal lets them be."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from otel_storage.cli import text
from otel_storage.cli.output import Output

MEASURED = 100
"""How many rows are read before the first is printed, to see how wide their columns are."""

_GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    heading: str
    style: str = ""
    is_right: bool = False
    """Whether the cells are aligned to the right."""
    least: int | None = None
    """The fewest cells that the column is shrunk to where there is no room; None: the column keeps its width."""
    turn: int = 0
    """When the column is shrunk: the lowest first."""
    is_start_enough: bool = False
    """Whether the start of a cell says as much as all of it: then it is shrunk to its least at once, and no ellipsis
    says that something is missing."""


def table(columns: Sequence[Column], rows: Iterable[Sequence[str | Text]], output: Output) -> Iterator[Text]:
    """The lines of a table with its headings; none if there is no row.

    Args:
        columns: What the rows consist of.
        rows: The cells of each: plain text, or text with a style of its own.
        output: Where the lines are printed.
    """
    remaining = iter(rows)
    first = list(itertools.islice(remaining, MEASURED))
    if not first:
        return
    widths = [
        max(cell_len(column.heading), *(_length(cell) for cell in cells))
        for column, cells in zip(columns, zip(*first, strict=True), strict=True)
    ]
    _shrink(columns, widths, output.width - len(_GAP) * (len(columns) - 1))
    ellipsis = output.glyphs.ellipsis
    headings = (_cell(column.heading, column, width, "") for column, width in zip(columns, widths, strict=True))
    yield Text(Text(_GAP).join(headings).plain, style="dim")
    for row in itertools.chain(first, remaining):
        yield Text(_GAP).join(
            _cell(cell, column, width, ellipsis) for cell, column, width in zip(row, columns, widths, strict=True)
        )


def _shrink(columns: Sequence[Column], widths: list[int], room: int) -> None:
    for place in sorted(range(len(columns)), key=lambda place: columns[place].turn):
        column, missing = columns[place], sum(widths) - room
        if column.least is None or missing <= 0:
            continue
        wanted = 0 if column.is_start_enough else widths[place] - missing
        widths[place] = max(min(widths[place], column.least), wanted)


def _cell(cell: str | Text, column: Column, width: int, ellipsis: str) -> Text:
    if isinstance(cell, Text):
        shown = cell.copy()
        shown.truncate(width)
    else:
        shown = Text(text.cut(cell, width, "" if column.is_start_enough else ellipsis), style=column.style)
    blank = width - shown.cell_len
    if column.is_right:
        shown.pad_left(blank)
    else:
        shown.pad_right(blank)
    return shown


def _length(cell: str | Text) -> int:
    return cell.cell_len if isinstance(cell, Text) else cell_len(cell)
