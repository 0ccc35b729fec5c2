"""One run drawn as a waterfall: a tree of its records beside their bars on a time axis.

Pure: a tree and a width go in, lines come out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain

from rich.cells import cell_len
from rich.text import Text

from otel_storage.cli import run_tree, text
from otel_storage.cli.output import STYLES, UNICODE, Glyphs
from otel_storage.cli.run_tree import Node
from otel_storage.privacy.lines import one_line
from otel_storage.privacy.validation import reduce_validation
from otel_storage.results.kinds import TASK_EXECUTION, TASK_RESULT
from otel_storage.results.status import ERRORS, FINAL
from otel_storage.results.status import PipelineTaskStatus as Status

FIRST_SHOWN = 8
"""How many instances of one iterator are shown in any case."""

REMARKABLE_SHOWN = 20
"""How many more are shown because they failed or are running."""

_MAX_BARS = 80
_MIN_BARS = 8
_MIN_NAMES = 24
_GAP = 2
_WORDS_FROM = 64
"""The width from which there is room for the words of the statuses beside their symbols."""

_REMARKABLE = ERRORS | {Status.RUNNING}


@dataclass
class Row:
    """One line: a record with a bar, or how many were left out."""

    guides: str
    """The tree's lines, left of the name."""
    below: str
    """The tree's lines, left of what is said below the name."""
    name: str
    node: Node | None
    message: str = ""
    left_out: Sequence[Node] = ()


@dataclass(frozen=True)
class Axis:
    """The time that the bars are drawn on."""

    start: datetime
    end: datetime
    width: int

    @property
    def length(self) -> timedelta:
        """end - start."""
        return self.end - self.start

    def position(self, moment: datetime) -> float:
        """Where the moment is, in cells from the left."""
        share = (moment - self.start) / self.length if self.length else 0.0
        return min(max(share, 0.0), 1.0) * self.width


def render(
    run: Node, now: datetime, width: int = 80, glyphs: Glyphs = UNICODE, show_all: bool = False
) -> Iterator[Text]:
    """Draw the run.

    Args:
        run: The tree of the run's PipelineExecution.
        now: Where the bars of what is running end.
        width: Cells in a line; no line is longer.
        glyphs: What the terminal can show.
        show_all: Draw every record; else of long iterations the first and the remarkable ones only.
    """
    rows = list(_rows(run, glyphs, show_all))
    for line in chain(_header(run, now, width, glyphs), _Painter(run, rows, now, width, glyphs).lines()):
        line.rstrip()
        # Below some 30 columns there is no layout that fits.
        line.truncate(width)
        yield line


def duration_of(node: Node, now: datetime) -> timedelta | None:
    """How long it took, or has taken until now; None if it never ran.

    A record without an end of its own takes as long as what is below it: the eager runner reports no task final.
    """
    if node.start is None or not node.ran:
        return None
    own = run_tree.duration(node.status, node.started, node.completed, now)
    if own is not None and node.outcome is node.status:
        return own
    return (node.end or max(now, node.start)) - node.start


def status_text(status: Status, glyphs: Glyphs, words: bool = True) -> Text:
    """The status as a coloured symbol, and in words."""
    symbol = glyphs.symbols[status]
    return Text(f"{symbol} {status.value}" if words else symbol, style=STYLES[status])


def _header(run: Node, now: datetime, width: int, glyphs: Glyphs) -> Iterator[Text]:
    verdict = status_text(run.outcome, glyphs)
    taken = run_tree.duration(run.status, run.started, run.completed, now)
    if taken is not None:
        verdict.append(f" {'in' if run.outcome in FINAL else 'for'} {text.duration(taken)}")
    verdict.stylize("bold")
    room = width - verdict.cell_len - _GAP
    if cell_len(run.name) <= room:
        yield Text.assemble((text.pad(run.name, room), "bold"), " " * _GAP, verdict)
    else:
        yield Text(text.cut(run.name, width, glyphs.ellipsis), style="bold")
        yield verdict
    facts = {
        "run": str(run.facts["run_id"]),
        "trace": str(run.facts["trace_id"] or "none: telemetry was off when the run was built"),
    }
    if run.started is not None:
        facts["started"] = text.local_time(run.started)
    elif run.created is not None:
        facts["created"] = text.local_time(run.created)
    for name, value in facts.items():
        label = text.pad(name, 9) if width >= 46 else ""
        yield Text.assemble((label, "dim"), text.cut(one_line(value), width - len(label), glyphs.ellipsis))
    yield Text()


def _rows(run: Node, glyphs: Glyphs, show_all: bool) -> Iterator[Row]:
    children = _unfolded(run)
    yield Row("", glyphs.guide if children else "", "run", run, _message(run, children))
    yield from _rows_below(children, "", glyphs, show_all)


def _rows_below(children: list[Node], guides: str, glyphs: Glyphs, show_all: bool) -> Iterator[Row]:
    shown, left_out = (children, []) if show_all else _chosen(children)
    for number, node in enumerate(shown, 1):
        is_last = number == len(shown) and not left_out
        inner = guides + (glyphs.blank if is_last else glyphs.guide)
        below = _unfolded(node)
        yield Row(
            guides + (glyphs.last_branch if is_last else glyphs.branch),
            inner + (glyphs.guide if below else glyphs.blank),
            node.name or f"#{node.id}",
            node,
            _message(node, below),
        )
        yield from _rows_below(below, inner, glyphs, show_all)
    if left_out:
        yield Row(guides + glyphs.last_branch, "", "", None, left_out=left_out)


def _unfolded(node: Node) -> list[Node]:
    """The children to draw: a single one with no object of its own says nothing that the node does not."""
    if len(node.children) != 1:
        return node.children
    (child,) = node.children
    if child.name or child.outcome is not node.outcome or child.kind == TASK_EXECUTION:
        return node.children
    return _unfolded(child)


def _message(node: Node, below: list[Node]) -> str:
    """What to say of the node: a failure is told where it happened, not on all levels that it was passed up to."""
    folded = node
    while folded.children and _unfolded(node) is not folded.children and len(folded.children) == 1:
        folded = folded.children[0]
    message = folded.message or node.message
    if not message or node.outcome is Status.PENDING or _is_said_below(node.message, below):
        return ""
    if node.outcome is Status.VALIDATION_ERROR:
        message = reduce_validation(message)
    if folded.failure is not None:
        message = f"{folded.failure.type.rpartition('.')[2]}: {message}"
    return one_line(message)


def _is_said_below(message: str, nodes: list[Node]) -> bool:
    return any(node.message == message or _is_said_below(message, node.children) for node in nodes)


def _chosen(children: list[Node]) -> tuple[list[Node], list[Node]]:
    """Which of the siblings to draw, and which not."""
    if len(children) <= FIRST_SHOWN + 1 or children[0].kind == TASK_EXECUTION:
        return children, []
    remarkable = [node for node in children[FIRST_SHOWN:] if node.outcome in _REMARKABLE]
    chosen = {id(node) for node in [*children[:FIRST_SHOWN], *remarkable[:REMARKABLE_SHOWN]]}
    return [node for node in children if id(node) in chosen], [node for node in children if id(node) not in chosen]


def _left_out(row: Row, width: int, glyphs: Glyphs) -> Text:
    """How many more there are of each status: in words, or with symbols where these are too long."""
    counts = Counter(node.outcome for node in row.left_out).most_common()
    words = ", ".join(f"{text.grouped(count)} more {status.value}" for status, count in counts)
    signs = ", ".join(f"{text.grouped(count)} {glyphs.symbols[status]}" for status, count in counts)
    lines = [f"{row.guides}{glyphs.ellipsis} {told} (--all to show)" for told in (words, signs)]
    line = next((line for line in lines if cell_len(line) <= width), lines[-1])
    return Text(text.cut(line, width, glyphs.ellipsis), style="dim")


class _Painter:
    """Lays the columns out - tree, bars, status, duration - and paints the rows into them."""

    def __init__(self, run: Node, rows: list[Row], now: datetime, width: int, glyphs: Glyphs) -> None:
        self.run = run
        self.rows = rows
        self.now = now
        self.width = width
        self.glyphs = glyphs
        self.words = width >= _WORDS_FROM
        self.gap = _GAP if self.words else 1
        nodes = [row.node for row in rows if row.node is not None]
        self.status_width = max(status_text(node.outcome, glyphs, self.words).cell_len for node in nodes)
        self.duration_width = max(len(text.duration(duration_of(node, now))) for node in nodes)
        room = width - self.status_width - self.duration_width - 3 * self.gap
        widest = max(cell_len(row.guides + row.name) for row in rows if row.node is not None)
        self.name_width = max(min(widest, room - _MIN_BARS, max(room * 45 // 100, _MIN_NAMES)), 1)
        start, end = run.start, run.end or now
        self.axis: Axis | None = None
        if start is not None and end > start:
            self.axis = Axis(start, end, max(min(room - self.name_width, _MAX_BARS), 0))

    def lines(self) -> Iterator[Text]:
        if self.axis is None and len(self.rows) == 1:
            # Nothing ran: the header has said it all but why.
            yield from self._below(self.rows[0], self.run)
            return
        if self.axis is not None and self.axis.width >= _MIN_BARS:
            yield Text.assemble(" " * (self.name_width + self.gap), (_scale(self.axis), "dim"))
        said = ""
        for row in self.rows:
            if row.node is None:
                yield _left_out(row, self.width, self.glyphs)
                continue
            aside = self._aside(row, row.node, said)
            yield self._line(row, row.node, aside)
            if row.message and not self._has_room_aside(row.node):
                yield from self._below(row, row.node)
            said = row.message

    def _line(self, row: Row, node: Node, aside: str) -> Text:
        line = Text()
        room = self.name_width - cell_len(row.guides)
        line.append(row.guides, style="dim")
        line.append(text.pad(text.cut(row.name, room, self.glyphs.ellipsis), room), style=self._name_style(node))
        line.append(" " * self.gap)
        if aside:
            line.append(text.pad(aside, self._bars_width), style="dim")
        else:
            line.append(text.pad(self._bar(node), self._bars_width), style=STYLES[node.outcome])
        line.append(" " * (self.gap if self._bars_width else 0))
        status = status_text(node.outcome, self.glyphs, self.words)
        line.append_text(status)
        taken = text.duration(duration_of(node, self.now))
        line.append(" " * (self.status_width - status.cell_len + self.gap))
        line.append(taken.rjust(self.duration_width))
        return line

    @property
    def _bars_width(self) -> int:
        return self.axis.width if self.axis is not None else 0

    def _has_room_aside(self, node: Node) -> bool:
        """Whether the message goes where the bar would be: what never ran has none."""
        return self.axis is not None and node.outcome is Status.CANCELLED and not node.ran

    def _aside(self, row: Row, node: Node, said: str) -> str:
        if not self._has_room_aside(node) or row.message == said:
            return ""
        return text.cut(row.message, self._bars_width, self.glyphs.ellipsis)

    def _below(self, row: Row, node: Node) -> Iterator[Text]:
        room = self.width - cell_len(row.below)
        style = STYLES[node.outcome] if node.outcome in FINAL and node.outcome is not Status.DONE else "dim"
        yield Text.assemble((row.below, "dim"), (text.cut(row.message, room, self.glyphs.ellipsis), style))

    def _name_style(self, node: Node) -> str:
        if not node.ran:
            return "dim"
        return "" if node.kind == TASK_RESULT else "bold"

    def _bar(self, node: Node) -> str:
        if self.axis is None or node.start is None or not node.ran:
            return ""
        start = self.axis.position(node.start)
        end = self.axis.position(node.end or self.now)
        first = min(int(start), self.axis.width - 1)
        if _has_parts(node):
            return " " * first + self._rule(first, end, node.end is None)
        return " " * first + self._block(first, start, end, node.end is None)

    def _rule(self, first: int, end: float, is_open: bool) -> str:
        """The bracket of a record that has others drawn below it."""
        glyphs = self.glyphs
        cells = max(round(end) - first, 1)
        last = glyphs.open_end if is_open else glyphs.rule_end
        if cells == 1:
            return last
        return glyphs.rule_start + glyphs.rule * (cells - 2) + last

    def _block(self, first: int, start: float, end: float, is_open: bool) -> str:
        """The bar of a record that others are not drawn below."""
        glyphs = self.glyphs
        steps = len(glyphs.ends)
        filled = max(round((end - first) * steps), 1)
        whole, part = divmod(filled, steps)
        bar = glyphs.bar * whole + (glyphs.ends[part - 1] if part else "")
        if start - first >= 0.5 and whole >= 1:
            bar = glyphs.late_start + bar[1:]
        if is_open:
            bar = (bar if len(bar) == 1 else bar[:-1]) if whole + bool(part) > 1 else ""
            bar += glyphs.open_end
        return bar


def _has_parts(node: Node) -> bool:
    return bool(_unfolded(node))


def _scale(axis: Axis) -> str:
    """The times on the axis: both ends, and as many round ones between as there is room for."""
    end = text.duration(axis.length)
    bare = "0" + end.rjust(axis.width - 1)
    for step in _round_steps(axis.length):
        scale = bare
        for number in range(1, int(axis.length / step) + 1):
            tick = _tick(number * step)
            at = int(axis.position(axis.start + number * step))
            if at + len(tick) + 2 > axis.width - len(end):
                # The end has its own label.
                break
            if scale[at - 2 : at].strip():
                scale = ""
                break
            scale = scale[:at] + tick + scale[at + len(tick) :]
        if scale and scale != bare:
            return scale
    return bare


def _tick(moment: timedelta) -> str:
    number, unit = text.duration(moment).split(" ", 1)
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def _round_steps(length: timedelta) -> Iterator[timedelta]:
    """Round steps of time, from a tenth of the length up."""
    for seconds in _STEPS:
        step = timedelta(seconds=seconds)
        if length / 10 <= step < length:
            yield step


_STEPS = (
    *(factor * unit for unit in (0.001, 0.01, 0.1, 1) for factor in (1, 2, 5)),
    *(10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600),
    *(hours * 3600 for hours in (2, 3, 6, 12, 24, 48, 120, 240, 480, 1200, 2400, 4800)),
)
