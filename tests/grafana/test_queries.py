"""Every query of dashboards, rules and provisioning, run by a real Prometheus that knows the demo's runs."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grafana import build
from grafana.queries import GRAFANA_VARIABLES, PromQl, queries, runnable
from grafana.run import TRACE_VARIABLE
from tests.conftest import without_settings
from tests.stack.processes import Program, fetch, free_port, wait_until
from tests.stack.stack import Prometheus

pytestmark = [
    pytest.mark.slow,
    pytest.mark.stack,
    # Prometheus scrapes every 10 s, as it is shipped: what is a growth must have been seen twice.
    pytest.mark.timeout(300),
]

PATIENCE = 150.0
CLI = [sys.executable, "-m", "otel_storage.cli"]


class Metrics(Program):
    """The metrics of a database, served."""

    def __init__(self, folder: Path, url: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        super().__init__(
            [*CLI, "metrics", "--serve", self.address, "--url", url], folder, f"http://{self.address}/health"
        )


def ask(prometheus: Prometheus, path: str, **parameters: str) -> Any:
    """What Prometheus answers."""
    query = urllib.parse.urlencode(parameters)
    status, body = fetch(f"{prometheus.address}/api/v1/{path}?{query}")
    answer = json.loads(body)
    assert status == 200, (parameters["query"], answer)
    return answer["data"]


def values(prometheus: Prometheus, expr: str) -> list[float]:
    """The numbers that the query returns now, or returned within the last minute, as a graph asks for them."""
    now = time.time()
    span = {"start": str(now - 60), "end": str(now), "step": "5"}
    result = ask(prometheus, "query_range", query=expr, **span)["result"]
    return [number for series in result for _at, text in series["values"] if not math.isnan(number := float(text))]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the metrics of a database in which the demo ran."""
    folder = tmp_path_factory.mktemp("queries")
    url = f"sqlite:///{folder / 'runs.db'}"
    with pytest.MonkeyPatch.context() as patch:
        without_settings(patch)
        # Nothing takes the spans.
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
        subprocess.run([*CLI, "demo", "--url", url], cwd=folder, check=True, capture_output=True, timeout=100)
        metrics = Metrics(folder, url)
        prometheus = Prometheus(folder, otel_storage=metrics.address)
        with metrics, prometheus:
            yield prometheus


def test_every_query_returns_data(prometheus: Prometheus) -> None:
    """Each query is valid, and returns data; or it says beside it why it need not."""
    left = {query.where: query for query in queries() if not query.when_empty}
    assert len(left) > 40

    def answered() -> bool:
        for where in [where for where, query in left.items() if values(prometheus, query.expr)]:
            del left[where]
        return not left

    try:
        wait_until(answered, "every query returns data", PATIENCE, pause=2)
    except AssertionError as error:
        error.add_note("\n".join(f"{query.where}: {query.expr}" for query in left.values()))
        raise


def test_a_failure_is_told_of(prometheus: Prometheus) -> None:
    """The rules are evaluated: the demo's failure, the first ever, fires."""
    expr = 'ALERTS{alertname="PipelineTaskFailed", alertstate="firing", status="RUNTIME_ERROR"}'

    wait_until(lambda: values(prometheus, expr), "the alert fires", PATIENCE, pause=1)


@pytest.mark.parametrize("query", [q for q in queries() if q.when_empty], ids=lambda query: query.where)
def test_queries_that_may_be_empty_are_valid(prometheus: Prometheus, query: PromQl) -> None:
    """A query that says why it may return nothing is valid."""
    ask(prometheus, "query", query=query.expr)


def test_graphs_show_runs_by_their_traces(prometheus: Prometheus) -> None:
    """Each graph that says so has exemplars: the trace ids of runs, which lead to their traces."""
    exprs = {
        runnable(query.expr)
        for dashboard in build.dashboards()
        for panel in dashboard.panels
        for query in panel.queries
        if query.exemplar
    }
    assert len(exprs) >= 2
    for expr in exprs:
        now = time.time()
        found = ask(prometheus, "query_exemplars", query=expr, start=str(now - 3600), end=str(now))
        trace_ids = {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]}
        assert trace_ids, expr
        assert all(re.fullmatch("[0-9a-f]{32}", trace_id) for trace_id in trace_ids)


def test_a_query_that_is_not_valid_is_seen(prometheus: Prometheus) -> None:
    """The check finds what it is for."""
    with pytest.raises(AssertionError, match="parse error"):
        ask(prometheus, "query", query="sum by (job (up)")
    assert values(prometheus, "nosuch_total") == []


@pytest.mark.parametrize(
    ("run", "trace"),
    [
        ("b536d1d8-aa41-42c2-9896-06aa9d182270", "b536d1d8aa4142c2989606aa9d182270"),
        ("b536d1d8aa4142c2989606aa9d182270", "b536d1d8aa4142c2989606aa9d182270"),
        ("nightly-7", None),
        ("", None),
    ],
)
def test_a_run_id_becomes_a_trace_id(prometheus: Prometheus, run: str, trace: str | None) -> None:
    """The variable of the dashboard Run takes a run's id as it is printed, and a trace's; another makes no trace id."""
    query = TRACE_VARIABLE.query.removeprefix("query_result(").removesuffix(")")

    [series] = ask(prometheus, "query", query=query.replace("$run", run))["result"]

    assert series["metric"].get("trace") == trace


def test_grafanas_variables_are_replaced() -> None:
    """No query is run with a variable in it, and each that is replaced is used."""
    assert not [query for query in queries() if "$__" in query.expr or "$job" in query.expr]
    assert runnable("$__rate_interval $__range $__interval") == "1m 1h 10s"
    assert len(GRAFANA_VARIABLES) == 7
