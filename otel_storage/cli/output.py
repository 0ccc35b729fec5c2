"""Where output goes: data to stdout, words to stderr, as wide and as colourful as each of them can show."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from otel_storage.cli import text
from otel_storage.privacy.lines import one_line
from otel_storage.results.status import PipelineTaskStatus as Status


@dataclass(frozen=True)
class Glyphs:
    """The characters to draw with."""

    branch: str
    last_branch: str
    guide: str
    blank: str
    rule: str
    rule_start: str
    rule_end: str
    bar: str
    late_start: str
    """A bar's first cell where it starts in the cell's second half."""
    ends: str
    """A bar's last cell, by how much of it is filled."""
    open_end: str
    """A bar's last cell where the end is not known yet."""
    ellipsis: str
    symbols: dict[Status, str]


UNICODE = Glyphs(
    branch="├─ ",
    last_branch="└─ ",
    guide="│  ",
    blank="   ",
    rule="─",
    rule_start="╶",
    rule_end="╴",
    bar="█",
    late_start="▐",
    ends="▏▎▍▌▋▊▉█",
    open_end="▸",
    ellipsis="…",
    symbols={
        Status.PENDING: "◌",
        Status.RUNNING: "▸",
        Status.DONE: "✓",
        Status.CONFIG_ERROR: "✗",
        Status.VALIDATION_ERROR: "✗",
        Status.RUNTIME_ERROR: "✗",
        Status.CANCELLED: "⊘",
    },
)

ASCII = Glyphs(
    branch="|- ",
    last_branch="`- ",
    guide="|  ",
    blank="   ",
    rule="-",
    rule_start="|",
    rule_end="|",
    bar="#",
    late_start="#",
    ends="#",
    open_end=">",
    ellipsis="...",
    symbols={
        Status.PENDING: ".",
        Status.RUNNING: ">",
        Status.DONE: "+",
        Status.CONFIG_ERROR: "x",
        Status.VALIDATION_ERROR: "x",
        Status.RUNTIME_ERROR: "x",
        Status.CANCELLED: "-",
    },
)

STYLES = {
    Status.PENDING: "dim",
    Status.RUNNING: "cyan",
    Status.DONE: "green",
    Status.CONFIG_ERROR: "red",
    Status.VALIDATION_ERROR: "red",
    Status.RUNTIME_ERROR: "red",
    Status.CANCELLED: "yellow",
}


class Output:
    """The two streams of one command."""

    def __init__(self, as_json: bool = False) -> None:
        """Open the streams; with ``as_json`` the data is JSON."""
        self.as_json = as_json
        _replace_what_cannot_be_encoded(sys.stdout, sys.stderr)
        self.out = _console(sys.stdout)
        self.err = _console(sys.stderr)

    @property
    def width(self) -> int:
        """Cells in a line of stdout."""
        return self.out.width

    @property
    def glyphs(self) -> Glyphs:
        """What stdout can draw with."""
        return _glyphs(self.out)

    def lines(self, lines: Iterable[Text]) -> None:
        """Print lines of data; what is wider than the terminal is cropped, not wrapped."""
        for line in lines:
            line.rstrip()
            self.out.print(line, no_wrap=True, overflow="crop")

    def document(self, value: Any, *, compact: bool = False) -> None:
        """Print one JSON document; ``compact`` puts it on one line."""
        self.out.file.write(f"{self._json(value, indent=None if compact else 2)}\n")
        self.out.file.flush()

    def listing(self, name: str, items: Iterable[Any], rest: Callable[[], Mapping[str, Any]]) -> None:
        """Print one JSON document with a list of that name, an item a line as each comes, and then the rest."""
        write = self.out.file.write
        write(f'{{\n  "{name}": [')
        for number, item in enumerate(items):
            write(f"{',' if number else ''}\n    {self._json(item)}")
        write("\n  ]")
        for key, value in rest().items():
            write(f',\n  "{key}": {self._json(value)}')
        write("\n}\n")
        self.out.file.flush()

    @contextlib.contextmanager
    def progress(self, doing: str, noun: str, count: Callable[[], int]) -> Iterator[Callable[[int], None]]:
        """Show on stderr how much is done, where that is a terminal: ``Replaying ━━━━━ 3/7 runs``.

        Args:
            doing: What is being done.
            noun: What is counted.
            count: Gives how many there are; not called without a terminal.

        Yields:
            What is to be told how many of them are done.
        """
        if not self.err.is_terminal:
            yield lambda _done: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        total = count()
        columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn(noun))
        with Progress(*columns, console=self.err, transient=True) as bar:
            task = bar.add_task("", total=total)
            # More may come meanwhile.
            yield lambda done: bar.update(task, completed=min(done, total))

    def _json(self, value: Any, indent: int | None = None) -> str:
        encoding = self.out.encoding.lower().replace("-", "")
        return json.dumps(value, indent=indent, ensure_ascii=encoding != "utf8")

    def say(self, words: str, style: str = "") -> None:
        """Say a sentence on stderr."""
        self.err.print(Text(words, style=style))

    def say_command(self, words: Sequence[str], indent: str = "  ") -> None:
        """Print a command on stderr in a form that can be copied, however narrow the terminal is."""
        for line in text.shell_command(words, self.err.width - len(indent)):
            self.err.print(Text(indent + line, style="bold"), soft_wrap=True)


@contextlib.contextmanager
def saying_log(say: Callable[[str], None], name: str, level: int) -> Iterator[None]:
    """Say meanwhile what the logger of that name logs at the level or above: such is logged once per cause already."""

    class Saying(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"otel-storage: {one_line(record.getMessage())}")

    logger = logging.getLogger(name)
    handler = Saying(level)
    before, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = propagate


def _console(stream: TextIO) -> Console:
    return Console(file=stream, highlight=False, markup=False, emoji=False)


def _glyphs(console: Console) -> Glyphs:
    drawn = "".join(value for value in vars(UNICODE).values() if isinstance(value, str))
    try:
        (drawn + "".join(UNICODE.symbols.values())).encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def _replace_what_cannot_be_encoded(*streams: TextIO) -> None:
    """A name or a message that the terminal cannot show must not end the command."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(io.UnsupportedOperation):
                stream.reconfigure(errors="replace")
