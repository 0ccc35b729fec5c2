"""Runs in Celery, through the real collector, in the real Jaeger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pipelines", reason="django-pipelines is not installed: pip install '.[test]'")
pytest.importorskip("redis", reason="redis is not installed: pip install '.[test]'")

from tests.stack.runs import check
from tests.stack.stack import Collector, Jaeger, tags
from tests.with_celery.conftest import OpenBench, open_benches
from tests.with_celery.site import is_delivered, is_over, wait_until

pytestmark = [pytest.mark.stack, pytest.mark.slow]

STARTED = ("Succeeds", "Fails")


@pytest.fixture
def open_bench(tmp_path: Path) -> Iterator[OpenBench]:
    """Makes sites of the test's own."""
    with open_benches(tmp_path) as open_:
        yield open_


def test_a_run_in_celery_is_a_trace(open_bench: OpenBench, collector: Collector, jaeger: Jaeger) -> None:
    """A run whose tasks many processes worked on is one tree with one root in Jaeger, the tasks' own spans in it."""
    bench = open_bench(endpoint=collector.endpoint)
    with bench.site.worker(concurrency=2):
        ids = bench.site.client("--prepare", *STARTED)
        wait_until(lambda: all(is_over(bench.storage, run_id) for run_id in ids), "the runs are over")
        wait_until(lambda: is_delivered(bench.storage), "all spans are accepted")

    found = [check(jaeger, bench.storage, run_id) for run_id in ids]

    statuses = [tags(trace.roots[0])["otel_storage.status"] for trace in found]
    assert statuses[0] == "DONE"
    assert statuses[1] in ("RUNTIME_ERROR", "CANCELLED")
    for trace in found:
        assert [span for span in trace.spans if span["operationName"] == "work"]
