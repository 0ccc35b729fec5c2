"""What the benchmarks found, as a table, as JSON, and as the section of ``tests/benchmarks/README.md``."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from sqlalchemy import create_engine

from tests.benchmarks.figures import Figure
from tests.benchmarks.running import Measured

MEASURED = Path(__file__).with_name("measured.json")
"""What the full benchmarks found, and on what machine."""
README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- python -m tests.benchmarks --readme -->\n", "<!-- end of what it prints -->\n"
HEADINGS = ("work", "engine", "figure", "value", "target", "result")

_ENGINES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}


def machine(urls: Sequence[str | None]) -> dict[str, str]:
    """What the figures depend on: the processor, and the versions of what takes part."""
    versions = {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    for url in filter(None, urls):
        engine = create_engine(url)
        with engine.connect() as connection:
            server = ".".join(map(str, connection.dialect.server_version_info or ()))
            versions[engine_name(engine.dialect.name)] = server + _durability(connection)
        engine.dispose()
    for name in ("SQLAlchemy", "psycopg", "Django", "opentelemetry-sdk"):
        versions[name] = metadata.version(name)
    return {"CPU": _processor(), "cores": str(len(os.sched_getaffinity(0))), **versions}


def _processor() -> str:
    """The model, where the system tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _durability(connection: Any) -> str:
    if connection.dialect.name != "postgresql":
        return ""
    synced = connection.exec_driver_sql("SELECT current_setting('fsync')").scalar_one()
    return "" if synced == "on" else " (fsync off)"


def as_json(machine: dict[str, str], measured: Sequence[Measured]) -> dict[str, Any]:
    """The figures, with whether each met its target, and the machine."""
    return {
        "machine": machine,
        "measured": [
            {
                "benchmark": one.benchmark,
                "engine": one.engine,
                "figures": [{**asdict(figure), "verdict": figure.verdict} for figure in one.figures],
            }
            for one in measured
        ],
    }


def from_json(document: dict[str, Any]) -> list[Measured]:
    """The figures of such a document."""
    return [
        Measured(
            one["benchmark"],
            one["engine"],
            [Figure(**{key: value for key, value in figure.items() if key != "verdict"}) for figure in one["figures"]],
        )
        for one in document["measured"]
    ]


def write(path: Path, machine: dict[str, str], measured: Sequence[Measured]) -> None:
    """Write the figures; those of other benchmarks and engines that are there stay, if the machine is the same."""
    if path.exists():
        known = json.loads(path.read_text())
        if all(machine.get(key, value) == value for key, value in known["machine"].items()):
            machine = {**known["machine"], **machine}
            kept = {(one.benchmark, one.engine): one for one in from_json(known)}
            measured = [*(kept | {(one.benchmark, one.engine): one for one in measured}).values()]
    path.write_text(json.dumps(as_json(machine, measured), indent=1) + "\n")


def print_table(machine: dict[str, str], measured: Sequence[Measured]) -> None:
    """The figures as a table that fits into 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading in ("value", "target") else "left", min_width=len(heading))
    before = None
    for row in _rows(measured):
        if before is not None and row[0] != before:
            table.add_section()
        table.add_row(row[0] if row[0] != before else "", *row[1:])
        before = row[0]
    console = Console(width=None if Console().is_terminal else 80)
    console.print(table)
    console.print(_machine_line(machine))


def write_readme(machine: dict[str, str], measured: Sequence[Measured]) -> None:
    """Put the table between the two markers of the README."""
    text = README.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{README.name} has no lines {BEGIN.strip()!r} and {END.strip()!r}")
    README.write_text("".join([before, begin, "\n", markdown(machine, measured), "\n", end, after]))


def markdown(machine: dict[str, str], measured: Sequence[Measured]) -> str:
    """The table in Markdown, and the machine."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---|---|---|--:|--:|---|"]
    before = None
    for work, *cells in _rows(measured):
        lines.append(f"| {' | '.join([work if work != before else '', *cells])} |")
        before = work
    return "\n".join([*lines, "", f"({_machine_line(machine)})", ""])


def _rows(measured: Sequence[Measured]) -> Iterator[tuple[str, ...]]:
    """What was done on one engine beside the same on the others."""
    figures = [figure for one in measured for figure in one.figures]
    order = list(dict.fromkeys((figure.work, figure.name) for figure in figures))
    works = list(dict.fromkeys(figure.work for figure in figures))
    for figure in sorted(
        figures, key=lambda figure: (works.index(figure.work), order.index((figure.work, figure.name)))
    ):
        yield (
            figure.work,
            engine_name(figure.engine),
            figure.name,
            number(figure.value),
            _target(figure),
            figure.verdict,
        )


def engine_name(engine: str) -> str:
    """What an engine is called in the table."""
    return _ENGINES.get(engine, engine)


def number(value: float) -> str:
    """Three digits are enough to compare, and no more are to be trusted."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def _target(figure: Figure) -> str:
    if figure.at_least is not None:
        return f">= {number(figure.at_least)}"
    return "" if figure.at_most is None else f"<= {number(figure.at_most)}"


def _machine_line(machine: dict[str, str]) -> str:
    named = {key: value for key, value in machine.items() if key not in ("CPU", "cores")}
    return f"{machine['CPU']}, {machine['cores']} cores; " + ", ".join(f"{k} {v}" for k, v in named.items())
