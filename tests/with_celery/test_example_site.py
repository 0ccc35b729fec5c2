"""The example site's own pipelines in workers, with all of its own tracing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.with_celery.conftest import OpenBench
from tests.with_celery.site import ROOT, is_delivered, is_over, wait_until
from tests.with_celery.traces import check_trace, our_spans

CODE = "orders.pipelines"


@pytest.mark.slow
def test_the_examples_pipelines_run_in_workers(open_bench: OpenBench) -> None:
    """As its README starts them: one by its task, for one shop of which it fails, one by its page, for every shop."""
    bench = open_bench(instrumented=True)
    prepared = subprocess.run(
        [sys.executable, "manage.py", "demo", "--no-serve"],
        cwd=ROOT / "tests" / "django_project",
        env={**os.environ, **bench.site.variables(), "OTEL_SDK_DISABLED": "true"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert prepared.returncode == 0, prepared.stderr
    with bench.site.worker(concurrency=4):
        [import_id] = bench.site.client("delay:orders.ImportOrders", TEST_INPUT='{"day": "2026-01-31"}')
        [turnover_id] = bench.site.client("page:orders.ShopTurnover")
        run_ids = (import_id, turnover_id)
        wait_until(lambda: all(is_over(bench.storage, run_id) for run_id in run_ids), "the runs are over")
        wait_until(lambda: is_delivered(bench.storage), "all spans are delivered")
    root = check_trace(bench.receiver, bench.storage, import_id)
    assert root.status_message == "no exchange rate for XAU: orders of mint cannot be loaded"
    spans = bench.receiver.traces()[root.trace_id]
    assert Counter(span.name for span in spans if span.scope_name == CODE) == {"read file": 1, "convert": 4}
    assert {span.resource["service.name"] for span in spans} == {"pipelines", "shop"}
    root = check_trace(bench.receiver, bench.storage, turnover_id)
    assert root.status_code == "UNSET"
    shops = {
        span.attributes["otel_storage.pipeline_object.pk"]
        for span in our_spans(bench.receiver, turnover_id).values()
        if span.attributes["otel_storage.record.kind"] == "PipelineResult"
    }
    assert len(shops) == 4
