"""What is drawn of a run."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from otel_storage.cli import waterfall
from otel_storage.cli.output import ASCII, UNICODE, Glyphs
from otel_storage.cli.run_tree import Node
from otel_storage.ports.snapshots import Failure
from otel_storage.results.status import PipelineTaskStatus as Status
from tests.cli.trees import START, node, result, run, task

D, F, C, R, P = Status.DONE, Status.RUNTIME_ERROR, Status.CANCELLED, Status.RUNNING, Status.PENDING


def draw(tree: Node, width: int = 80, glyphs: Glyphs = UNICODE, show_all: bool = False, now: float = 10) -> list[str]:
    """The lines of the drawing, without colours."""
    lines = list(waterfall.render(tree, START + timedelta(seconds=now), width, glyphs, show_all))
    assert all(line.cell_len <= width for line in lines)
    return [line.plain.rstrip() for line in lines]


def below_header(lines: list[str]) -> list[str]:
    """The lines after the empty one."""
    return lines[lines.index("") + 1 :]


def failing_run() -> Node:
    """A run with three tasks: the first is done, the second fails, the third never runs."""
    said = "order 1042 has no customer"
    return run(
        F,
        0,
        3,
        task("extract", R, 0, None, result("", D, 0, 1)),
        task("load", F, 1, 3, result("a", D, 1, 2), result("b", F, 2, 3, message=said), message=said),
        task("notify", C, None, 3, result("", C, None, 3, message="cancelled"), message="cancelled"),
        message=said,
    )


def test_failing_run() -> None:
    """The whole drawing: header, axis, tree, bars, statuses, durations, the error where it happened."""
    assert draw(failing_run()) == [
        "tests.Orders                                           ✗ RUNTIME_ERROR in 3.00 s",
        "run      6f1d3c0e-8b0f-4b8e-9b57-0a7c6d0f2b11",
        "trace    6f1d3c0e8b0f4b8e9b570a7c6d0f2b11",
        "started  2024-02-29 12:00:00 UTC",
        "",
        "            0             1 s           2 s      3.00 s",
        "run         ╶─────────────────────────────────────────╴  ✗ RUNTIME_ERROR  3.00 s",
        "├─ extract  ██████████████▍                              ✓ DONE           1.00 s",
        "├─ load                   ╶───────────────────────────╴  ✗ RUNTIME_ERROR  2.00 s",
        "│  ├─ a                   ██████████████▋                ✓ DONE           1.00 s",
        "│  └─ b                                 ▐██████████████  ✗ RUNTIME_ERROR  1.00 s",
        "│        order 1042 has no customer",
        "└─ notify   cancelled                                    ⊘ CANCELLED",
    ]


@pytest.mark.parametrize("width", [20, 40, 60, 64, 80, 140, 300])
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
def test_no_line_is_too_wide(width: int, glyphs: Glyphs) -> None:
    """At any width each line fits, and every record is there."""
    lines = draw(failing_run(), width, glyphs)
    if width >= 40:
        assert len(below_header(lines)) == 8


def test_ascii_is_ascii() -> None:
    """A terminal that can show ASCII only is given nothing else."""
    assert all(line.isascii() for line in draw(failing_run(), glyphs=ASCII))


def test_eager_tasks_count_as_their_results() -> None:
    """The eager runner leaves a task RUNNING whose results are DONE: it is drawn as done, and as long as they took."""
    line = next(
        line for line in draw(run(D, 0, 2, task("extract", R, 0, None, result("", D, 0, 2)))) if "extract" in line
    )
    assert line.endswith("✓ DONE  2.00 s")


def test_single_nameless_levels_are_folded() -> None:
    """Without iterators a task is one line."""
    lines = below_header(draw(run(D, 0, 2, task("extract", D, 0, 2, result("", D, 0, 2)))))
    assert [line.split()[:2] for line in lines[1:]] == [["run", lines[1].split()[1]], ["└─", "extract"]]


def test_levels_that_differ_are_not_folded() -> None:
    """A single result whose state is another than its task's is drawn: the tree stays true."""
    tree = run(F, 0, 2, task("extract", F, 0, 1, result("", D, 0, 2)))
    lines = below_header(draw(tree))
    assert len(lines) == 4
    assert lines[-1].startswith("   └─ #")


def test_objects_name_their_instances() -> None:
    """With iterators at both levels there is a line for each object."""
    tasks = [task("load", D, 0, 1, result("a", D, 0, 0.5), result("b", D, 0.5, 1)) for _ in "ns"]
    tree = node(
        "PipelineExecution",
        "tests.Orders",
        D,
        0,
        1,
        node("PipelineResult", "north", D, 0, 1, tasks[0]),
        node("PipelineResult", "south", D, 0, 1, tasks[1]),
        run_id="r",
        trace_id=None,
    )
    assert [line[:12].rstrip() for line in below_header(draw(tree))[2:]] == [
        "├─ north",
        "│  └─ load",
        "│     ├─ a",
        "│     └─ b",
        "└─ south",
        "   └─ load",
        "      ├─ a",
        "      └─ b",
    ]


def test_failures_of_a_long_iteration_are_shown() -> None:
    """Of thousands of results the first are drawn, and the failed; the rest is counted."""
    results = [result(f"order {n}", F if n == 7000 else D, 0, 1, message="bad" * (n == 7000)) for n in range(10_000)]
    lines = draw(run(F, 0, 1, task("load", F, 0, 1, *results)))
    assert any("order 7000" in line for line in lines)
    assert any("order 7 " in line for line in lines)
    assert not any("order 8 " in line for line in lines)
    assert any("… 9 991 more DONE (--all to show)" in line for line in lines)
    assert len(lines) < 20


def test_many_failures_are_counted_too() -> None:
    """Thousands of failures do not fill the terminal."""
    results = [result(f"order {n}", F, 0, 1, message=f"bad {n}") for n in range(5_000)]
    lines = draw(run(F, 0, 1, task("load", F, 0, 1, *results)))
    assert any("… 4 972 more RUNTIME_ERROR" in line for line in lines)


def test_all_shows_all() -> None:
    """--all draws every record."""
    results = [result(f"order {n}", D, 0, 1) for n in range(500)]
    lines = draw(run(D, 0, 1, task("load", D, 0, 1, *results)), show_all=True)
    assert sum("order" in line for line in lines) == 500
    assert not any("--all" in line for line in lines)


def test_one_more_is_drawn_not_counted() -> None:
    """A line is not spent on saying that one line was left out."""
    results = [result(f"order {n}", D, 0, 1) for n in range(waterfall.FIRST_SHOWN + 1)]
    lines = draw(run(D, 0, 1, task("load", D, 0, 1, *results)))
    assert not any("more" in line for line in lines)


def test_running_bar_is_open_ended() -> None:
    """A running record has a bar up to now, and its time so far; a waiting record has no bar."""
    tree = run(
        R, 0, None, task("load", R, 2, None, result("", R, 2, None)), task("notify", P, None, None, result("", P))
    )
    lines = draw(tree, now=10)
    assert lines[0].endswith("▸ RUNNING for 10.0 s")
    load, notify = lines[-2:]
    assert "█▸  ▸ RUNNING  8.00 s" in load
    assert notify.endswith("◌ PENDING")
    assert "█" not in notify


def test_child_outlives_its_parent() -> None:
    """A parent that was reported failed while a part still runs is drawn as long as that part; its time is its own."""
    tree = run(F, 0, 1, task("load", F, 0, 1, result("a", F, 0, 1, message="bad"), result("b", R, 0, None)))
    lines = draw(tree, now=4)
    assert lines[0].endswith("✗ RUNTIME_ERROR in 1.00 s")
    scale, drawn = lines[5:7]
    assert scale.endswith("4.00 s")
    assert drawn.split()[1].endswith("▸")
    assert drawn.endswith("✗ RUNTIME_ERROR  1.00 s")


def test_error_is_told_once_where_it_happened() -> None:
    """A failure is passed up to all levels; its message is drawn below the result alone, with the exception's class."""
    tree = failing_run()
    failed = tree.children[0].children[1].children[1]
    failed.failure = Failure(type="shop.errors.NoCustomer", message=failed.message, stacktrace="")
    lines = [line for line in draw(tree) if "order 1042" in line]
    assert lines == ["│        NoCustomer: order 1042 has no customer"]


def test_message_is_one_line() -> None:
    """A message of several lines, too long ones and control characters take one line of the terminal."""
    tree = run(F, 0, 1, task("load", F, 0, 1, result("", F, 0, 1, message="first\nsecond\x1b[2J" + "x" * 1_000_000)))
    lines = [line for line in draw(tree) if "first" in line]
    assert len(lines) == 1
    assert "\x1b" not in lines[0]
    assert lines[0].endswith("…")


def test_validation_messages_are_reduced() -> None:
    """Of a validation error the place and the type are drawn, not the input that was refused."""
    message = '[{"type":"missing","loc":["card","number"],"msg":"Field required","input":"4111111111111111"}]'
    tree = run(
        Status.VALIDATION_ERROR,
        0,
        1,
        task("load", Status.VALIDATION_ERROR, 0, 1, result("", Status.VALIDATION_ERROR, 0, 1, message=message)),
    )
    drawing = "\n".join(draw(tree))
    assert "card.number: missing" in drawing
    assert "4111" not in drawing


def test_bad_configuration() -> None:
    """A run that never started is its header and the reason."""
    tree = run(Status.CONFIG_ERROR, None, 0, message="Pipeline is badly configured")
    assert draw(tree)[-2:] == ["", "Pipeline is badly configured"]
    assert "in 0 ms" not in draw(tree)[0]


def test_untraced_run_says_so() -> None:
    """A run without telemetry has no trace id to paste into a viewer."""
    tree = run(D, 0, 1)
    tree.facts["trace_id"] = None
    assert "trace    none: telemetry was off when the run was built" in draw(tree)


def test_long_names_leave_room_for_bars() -> None:
    """Names of any length are cut, so that bars and statuses stay."""
    lines = below_header(draw(run(D, 0, 1, task("x" * 300, D, 0, 1, result("", D, 0, 1)))))
    assert "…" in lines[-1]
    assert "█" in lines[-1]
    assert lines[-1].endswith("✓ DONE  1.00 s")


def test_wide_characters_keep_columns() -> None:
    """Characters two cells wide do not shift what follows."""
    lines = draw(run(D, 0, 1, task("注文", D, 0, 1, result("", D, 0, 1)), task("load", D, 0, 1, result("", D, 0, 1))))
    assert len({cell_len(line) for line in lines[-3:]}) == 1


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=12),
    st.integers(20, 120),
    st.sampled_from([UNICODE, ASCII]),
)
def test_any_times_fit(times: list[tuple[float, float]], width: int, glyphs: Glyphs) -> None:
    """Bars of any start and length, microseconds or days, stay inside their column."""
    results = [result(f"n{n}", D, start, start + length) for n, (start, length) in enumerate(times)]
    first, last = min(start for start, _ in times), max(start + length for start, length in times)
    draw(run(D, first, last, task("load", D, first, last, *results)), width, glyphs)


def test_bars_lie_on_the_axis() -> None:
    """A bar starts and ends where its times are: here the second half of the axis."""
    tree = run(D, 0, 2, task("first", D, 0, 1, result("", D, 0, 1)), task("second", D, 1, 2, result("", D, 1, 2)))
    first, second = (line for line in draw(tree)[-2:])
    columns = [index for index, char in enumerate(first) if char in "█▏▎▍▌▋▊▉"]
    later = [index for index, char in enumerate(second) if char in "█▐▏▎▍▌▋▊▉"]
    assert abs(len(columns) - len(later)) <= 1
    assert later[0] - columns[-1] in (0, 1)
