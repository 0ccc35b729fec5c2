"""What recorded storms came to: ``recorded.json``, and the table of ``tests/README.md`` that is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).with_name("recorded.json")
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- python -m tests.chaos --record -->\n", "<!-- end of what it writes -->\n"

ENGINES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}

ROWS = {
    "minutes": "minutes",
    "kills": "kills",
    "outages of the receiver": "outages of the receiver",
    "restarts of the database": "crashes of the database server",
    "requests that went wrong": "requests that went wrong",
    "runs": "runs",
    "spans expected": "spans",
    "lost": "lost",
    "invented": "invented",
    "with changed bytes": "with changed bytes",
    "duplicates": "duplicates",
    "drain time": "seconds until the outbox is empty",
}
"""The rows of the table: the figure of a storm, and what the table calls it."""


def record(figures: dict[str, Any], *, has_celery: bool) -> None:
    """Keep the figures of a storm in the place of the last one on its engine, and make the table anew."""
    recorded = load()
    recorded[figures["engine"]] = {name: figures[name] for name in ROWS} | {"celery": has_celery}
    RECORDED.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{BEGIN}\n{table(recorded)}\n{END}{after}", encoding="utf-8")


def load() -> dict[str, dict[str, Any]]:
    """The figures of the last recorded storm on each engine."""
    recorded: dict[str, dict[str, Any]] = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    return recorded


def table(recorded: dict[str, dict[str, Any]]) -> str:
    """The figures in Markdown, an engine in each column."""
    engines = [engine for engine in ENGINES if engine in recorded]
    titles = [ENGINES[engine] + (" with Celery" if recorded[engine]["celery"] else "") for engine in engines]
    lines = [f"| storm on | {' | '.join(titles)} |", f"|---|{'--:|' * len(engines)}"]
    for name, title in ROWS.items():
        lines.append(f"| {title} | {' | '.join(_number(recorded[engine][name]) for engine in engines)} |")
    return "\n".join(lines) + "\n"


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value).removesuffix(" s")
