"""Searches for traces, of dashboards and of alerts' links, asked of a real Jaeger that has the demo's runs."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from grafana import alerts, build
from grafana.run import FAILED_TASK
from tests.conftest import without_settings
from tests.stack.processes import fetch, wait_until
from tests.stack.stack import Jaeger

pytestmark = [pytest.mark.slow, pytest.mark.stack]

FAILED = {alerts.PIPELINE: "demo.MonthlyInvoices", alerts.TASK: "convert", alerts.STATUS: "RUNTIME_ERROR"}
"""What fails in the demo, as the labels of series say it."""


def ask(jaeger: Jaeger, **parameters: str) -> list[dict[str, Any]]:
    """The traces that Jaeger finds; its page passes on what is in its address, and so does Grafana."""
    status, body = fetch(f"http://127.0.0.1:{jaeger.query}/api/traces?{urllib.parse.urlencode(parameters)}")
    assert status == 200, body
    traces: list[dict[str, Any]] = json.loads(body)["data"]
    return traces


def pipelines(traces: list[dict[str, Any]]) -> set[str]:
    """Whose runs the traces are."""
    tags = (tag for trace in traces for span in trace["spans"] for tag in span["tags"])
    return {tag["value"] for tag in tags if tag["key"] == "cicd.pipeline.name"}


@pytest.fixture(scope="module")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    """A Jaeger that has the three runs of the demo, whole."""
    folder = tmp_path_factory.mktemp("traces")
    with pytest.MonkeyPatch.context() as patch:
        without_settings(patch)
        jaeger = Jaeger(folder)
        with jaeger:
            patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", jaeger.otlp_endpoint)
            cli = [sys.executable, "-m", "otel_storage.cli"]
            url = f"sqlite:///{folder / 'runs.db'}"
            for command in (["demo"], ["deliver"]):
                subprocess.run([*cli, *command, "--url", url], cwd=folder, check=True, capture_output=True, timeout=100)
            root = json.dumps({"otel_storage.record.kind": "PipelineExecution"})
            wait_until(lambda: len(ask(jaeger, service="pipelines", tags=root)) == 3, "every run has its root")
            yield jaeger


def searches() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every search of Jaeger's on a dashboard."""
    for dashboard in build.dashboards():
        for panel in dashboard.panels:
            if panel.traces.get("queryType") == "search":
                yield f"{dashboard.file}: {panel.title}", panel.traces


SEARCHES = list(searches())


@pytest.mark.parametrize(("where", "search"), SEARCHES, ids=[where for where, _ in SEARCHES])
def test_dashboards_find_the_failed_runs(jaeger: Jaeger, where: str, search: dict[str, Any]) -> None:
    """A panel finds the demo's failed runs, of the pipeline that is chosen or of all, and no other."""
    by_pipeline = "$pipeline" in search["tags"]
    text = search["tags"].replace("$pipeline", FAILED[alerts.PIPELINE])
    # logfmt, which Grafana makes JSON of.
    tags = dict(pair.split("=", 1) for pair in shlex.split(text))

    found = ask(jaeger, service="pipelines", limit=str(search["limit"]), tags=json.dumps(tags))

    assert len(found) == (1 if by_pipeline else 2), where
    assert FAILED[alerts.PIPELINE] in pipelines(found)


def test_the_failed_tasks_of_a_run_are_told_from_its_other_spans(jaeger: Jaeger) -> None:
    """What the dashboard *Run* filters a trace by keeps the failed task result, and nothing else."""
    tags = json.dumps({"cicd.pipeline.name": FAILED[alerts.PIPELINE]})
    [trace] = ask(jaeger, service="pipelines", tags=tags)
    texts = {span["spanID"]: json.dumps(span["tags"], separators=(",", ":")) for span in trace["spans"]}
    kept = {span for span, text in texts.items() if all(re.search(pattern, text) for pattern in FAILED_TASK)}

    assert len(texts) > 8
    assert [span["operationName"] for span in trace["spans"] if span["spanID"] in kept] == ["RESULT convert"]


def link(alert: alerts.Alert) -> str:
    """The alert's link as Prometheus makes it, for what failed in the demo."""
    [rule] = [rule for group in alerts.prometheus_rules([alert])["groups"] for rule in group["rules"]]
    text = re.sub(r"\{\{ if .*?\{\{ else \}\}(.*)\{\{ end \}\}", r"\1", rule["annotations"]["trace"])
    text = text.replace("{{ .ExternalLabels.traces_url }}", "http://jaeger")
    text = text.replace('{{ or .ExternalLabels.traces_service "pipelines" | urlquery }}', "pipelines")
    return re.sub(
        r"\{\{ \.Labels\.(\w+) \| urlquery \}\}", lambda match: urllib.parse.quote_plus(FAILED[match[1]]), text
    )


@pytest.mark.parametrize("alert", alerts.alerts(), ids=lambda alert: alert.name)
def test_links_of_alerts_find_the_run(jaeger: Jaeger, alert: alerts.Alert) -> None:
    """What Jaeger lists under an alert's link has the run that failed, and, of a pipeline, that pipeline's alone."""
    address = urllib.parse.urlsplit(link(alert))
    assert (address.netloc, address.path) == ("jaeger", "/search")

    found = ask(jaeger, **dict(urllib.parse.parse_qsl(address.query, strict_parsing=True)))

    assert FAILED[alerts.PIPELINE] in pipelines(found)
    assert len(found) == (1 if alert.labels else 3)


def test_what_did_not_happen_is_not_found(jaeger: Jaeger) -> None:
    """A search is one: for another status of that task nothing is found."""
    [alert] = [alert for alert in alerts.alerts() if alert.name == "PipelineTaskFailed"]
    address = link(alert).replace("RUNTIME_ERROR", "VALIDATION_ERROR")

    assert ask(jaeger, **dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(address).query))) == []
