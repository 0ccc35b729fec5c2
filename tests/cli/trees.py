"""Trees of records made by hand, for what is drawn of them."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from otel_storage.cli.run_tree import Node
from otel_storage.results.status import PipelineTaskStatus as Status

START = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)
RUN_ID = "6f1d3c0e-8b0f-4b8e-9b57-0a7c6d0f2b11"

_ids = itertools.count(1)


def at(seconds: float | None) -> datetime | None:
    """So many seconds after the run's start."""
    return None if seconds is None else START + timedelta(seconds=seconds)


def node(
    kind: str,
    name: str,
    status: Status,
    started: float | None = None,
    completed: float | None = None,
    *children: Node,
    message: str = "",
    **facts: Any,
) -> Node:
    """A record; times are seconds after the run's start."""
    return Node(
        kind=kind,
        id=next(_ids),
        name=name,
        status=status,
        created=START,
        started=at(started),
        completed=at(completed),
        message=message,
        facts=facts,
        children=list(children),
    )


def result(name: str, status: Status, started: float | None = None, completed: float | None = None, **kw: Any) -> Node:
    """A TaskResult."""
    return node("TaskResult", name, status, started, completed, **kw)


def task(name: str, status: Status, started: float | None, completed: float | None, *children: Node, **kw: Any) -> Node:
    """A TaskExecution."""
    return node("TaskExecution", name, status, started, completed, *children, **kw)


def run(status: Status, started: float | None, completed: float | None, *tasks: Node, message: str = "") -> Node:
    """A run with one pipeline result, which has no object."""
    below = (node("PipelineResult", "", status, started, completed, *tasks, message=message),) if tasks else ()
    facts = {"run_id": RUN_ID, "pipeline_id": "tests.Orders", "trace_id": RUN_ID.replace("-", "")}
    return node("PipelineExecution", "tests.Orders", status, started, completed, *below, message=message, **facts)
