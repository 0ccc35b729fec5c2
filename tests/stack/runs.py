"""Runs, and what must become of them in Jaeger."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from otel_storage.sql.storage import SqlPipelineStorage
from tests.stack.processes import PATIENCE, wait_until
from tests.stack.stack import Jaeger, JaegerTrace, tags
from tests.with_celery.traces import statuses, trace_id, tree

ROOT = Path(__file__).parents[2]


def otel_storage(
    *arguments: str, folder: Path, endpoint: str, expected: Sequence[int] = (0,), **environment: str
) -> str:
    """Call the command in a process of its own; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "otel_storage.cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in expected, done.stderr
    return done.stdout


def check(jaeger: Jaeger, storage: SqlPipelineStorage, run_id: str, patience: float = PATIENCE) -> JaegerTrace:
    """Wait until the trace of the run is whole in Jaeger, and check that it is the run.

    Raises:
        AssertionError: it is not.
    """
    expected = tree(storage, run_id)

    def found() -> dict[str, str]:
        seen = jaeger.trace(trace_id(run_id))
        return seen.tree if seen else {}

    wait_until(lambda: len(found()) >= len(expected), f"{len(expected)} spans of {run_id} in Jaeger", patience)
    told = jaeger.trace(trace_id(run_id))
    assert told is not None
    assert told.tree == expected
    assert [root["spanID"] for root in told.roots] == [id_ for id_, parent in expected.items() if not parent]
    assert told.warnings == []
    for span_id, status in statuses(storage, run_id).items():
        found_tags = tags(told.span(span_id))
        assert found_tags["otel_storage.status"] == status
        is_error = status in ("RUNTIME_ERROR", "VALIDATION_ERROR", "CONFIG_ERROR")
        assert found_tags.get("otel.status_code") == ("ERROR" if is_error else None), (status, found_tags)
        # A span that failed says why.
        assert bool(found_tags.get("otel.status_description")) is is_error
    return told
