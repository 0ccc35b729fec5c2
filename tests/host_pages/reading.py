"""What a person reads on the host's pages."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import NamedTuple


class Result(NamedTuple):
    """A row of the results list."""

    depth: int
    kind: str
    id: int
    colour: str
    """The class by which the status is coloured."""
    title: str
    """The text up to the status."""
    status: str
    duration: str


def results(html: str) -> list[Result]:
    """The rows of a results list, in their order."""
    parser = _Results()
    parser.feed(html)
    return parser.rows


def table(html: str) -> list[list[str]]:
    """The cells of a page's table, row by row, without its head."""
    parser = _Table()
    parser.feed(html)
    return [row for row in parser.rows if row]


class _Results(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Result] = []
        self._depth = 0
        self._colour = ""
        self._value = ""
        self._label: list[str] | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        if tag == "ul":
            self._depth += 1
        elif tag == "li":
            self._colour = given["class"].removeprefix("result").strip()
        elif tag == "input":
            self._value = given["value"]
        elif tag == "label":
            self._label = []

    def handle_endtag(self, tag: str) -> None:
        if tag == "ul":
            self._depth -= 1
        elif tag == "label" and self._label is not None:
            text = " ".join("".join(self._label).split())
            found = re.fullmatch(r"(.*?) : (.*?) ?\((.*)\)", text)
            assert found is not None, text
            kind, _, id_ = self._value.rpartition("-")
            self.rows.append(Result(self._depth, kind, int(id_), self._colour, *found.groups()))
            self._label = None

    def handle_data(self, data: str) -> None:
        if self._label is not None:
            self._label.append(data)


class _Table(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._cell: list[str] | None = None

    def handle_starttag(self, tag: str, _attributes: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag == "td" and self._cell is not None:
            self.rows[-1].append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)
