"""Alert rules: Debian's promtool takes them, and each fires and is silent when it should."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from grafana import alerts, build, limits
from otel_storage.cli import cli
from tests.programs import program

PROMETHEUS = build.ROOT / "collector/prometheus"
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
ALERTS = alerts.alerts()
NAMES = sorted({alert.name for alert in ALERTS})
pytestmark = pytest.mark.stack

RUNBOOK = (build.ROOT / alerts.RUNBOOK).read_text()


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    return subprocess.run(
        [program("PROMTOOL"), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def write_rules(folder: Path, found: list[alerts.Alert]) -> Path:
    """The rules as a file."""
    path = folder / "rules.yml"
    path.write_text(build.as_yaml(alerts.prometheus_rules(found), "alerts.py"))
    return path


def test_prometheus_takes_the_rules() -> None:
    """The rules that are shipped are valid."""
    checked = promtool("check", "rules", PROMETHEUS / "rules.yml", PROMETHEUS / "collector.yml")

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert sum(map(int, re.findall(r"(\d+) rules found", checked.stdout))) == len(ALERTS)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_rules_fire_and_are_silent(path: Path) -> None:
    """What the tests beside the rules say of them is so."""
    tested = promtool("test", "rules", path)

    assert tested.returncode == 0, tested.stdout + tested.stderr


def evaluations(case: dict[str, Any]) -> Iterator[tuple[set[str], set[str]]]:
    """Which alerts each evaluation of a case looks at, and which it expects."""
    for evaluation in case.get("alert_rule_test", []):
        name = {evaluation["alertname"]}
        yield name, name if evaluation.get("exp_alerts") else set()
    for evaluation in case.get("promql_expr_test", []):
        match = re.search(r'alertname=(~?)"([^"]*)"', evaluation["expr"])
        pattern = ".*" if match is None else match[2]
        fires = {re.search(r'alertname="(\w+)"', s["labels"])[1] for s in evaluation.get("exp_samples", [])}  # type: ignore[index]
        yield {name for name in NAMES if re.fullmatch(pattern, name)}, fires


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_is_tested_firing_and_silent(name: str) -> None:
    """In some case the alert fires at one time, and is silent before and after it."""
    for path in TESTS:
        for case in yaml.safe_load(path.read_text())["tests"]:
            seen = [name in fires for looked_at, fires in evaluations(case) if name in looked_at]
            if True in seen and False in seen:
                return
    pytest.fail(f"no case has {name} firing and silent")


def _never(expr: str) -> str:
    return f"({expr}) and on () vector(0) == 1"


def _by_instance(expr: str) -> str:
    return expr.replace(" by (job", " by (job, instance").replace("on (job", "on (job, instance")


def _within_one_process(expr: str) -> str:
    """As people mostly write it: blind while a process is replaced, and while nobody looks."""
    return expr.partition("\nor\n")[0].removeprefix("(").partition(") > 0")[0] + ") > 0"


ONE_PROCESS = {"OtelStorageMetricsMissing", "PipelineRunStuck", "CollectorDropsSpans", "CollectorQueueFilling"}
"""The alerts of which no test has two processes that tell the same."""

BREAKS: list[tuple[str, Callable[[str], str]]] = [
    *((name, _never) for name in NAMES),
    *((name, _by_instance) for name in NAMES if name not in ONE_PROCESS),
    ("PipelineTaskFailed", _within_one_process),
    ("PipelineTaskFailed", lambda expr: expr.partition("\nor\n")[2]),
    ("PipelineRunFailed", lambda expr: expr.partition("\nunless")[0]),
    ("PipelineRunStuck", lambda expr: expr.partition("\nunless")[0]),
    ("PipelineFailureRatioHigh", lambda expr: expr.partition("\nand")[0]),
    ("PipelineRunLong", lambda expr: expr.partition("\nand")[0]),
    ("PipelineRunLong", lambda expr: expr.replace(" offset 7d", " offset 52w")),
    ("PipelineOverdue", lambda expr: expr.replace(" offset 7d", " offset 52w")),
    ("PipelineRunWaiting", lambda expr: expr.partition(" < ")[0]),
    ("TelemetryBacklogGrowing", lambda expr: expr.partition("\nand")[0]),
    ("TelemetryNoSender", lambda expr: expr.partition("\nand")[0]),
    ("TelemetryNoSender", lambda expr: expr.replace(" > 300", " > 0")),
    ("OtelStorageMetricsMissing", lambda expr: expr.partition("\nor")[0]),
    ("OtelStorageMetricsMissing", lambda expr: expr.partition("on ()\n")[2]),
]


@pytest.mark.long
@pytest.mark.parametrize(("name", "change"), BREAKS, ids=[f"{index}-{name}" for index, (name, _) in enumerate(BREAKS)])
def test_the_tests_of_rules_see_a_broken_one(tmp_path: Path, name: str, change: Callable[[str], str]) -> None:
    """A rule that never fires, counts each process by itself, or lacks a part, fails its tests."""
    rules = alerts.prometheus_rules(ALERTS)
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        if rule["alert"] == name:
            changed = change(rule["expr"])
            assert changed != rule["expr"]
            rule["expr"] = changed
    (tmp_path / "rules.yml").write_text(build.as_yaml(rules, "alerts.py"))
    checked = promtool("check", "rules", tmp_path / "rules.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    results = []
    for path in TESTS:
        text = path.read_text()
        if name in text:
            assert "../" in text
            # The same rules, in one file.
            text = text.replace("../rules.yml", "rules.yml").replace("../collector.yml", "rules.yml")
            (tmp_path / path.name).write_text(text)
            results.append(promtool("test", "rules", tmp_path / path.name).returncode)

    assert 1 in results


OVERDUE = """
rule_files: [rules.yml]
evaluation_interval: 30m
tests:
  - interval: 30m
    input_series:
      - series: otel_storage_run_last_started_seconds{job="j", instance="a", cicd_pipeline_name="shop.Nightly"}
        values: 0x600
      - series: otel_storage_runs_total{job="j", cicd_pipeline_name="shop.Nightly", otel_storage_status="DONE"}
        values: 0+1x400 400x200
      - series: otel_storage_run_last_started_seconds{job="j", instance="a", cicd_pipeline_name="shopXNightly"}
        values: 0x600
      - series: otel_storage_run_last_started_seconds{job="j", instance="a", cicd_pipeline_name="a\\\\b \\"c\\" + [d]"}
        values: 0x600
    promql_expr_test:
      - expr: ALERTS
        eval_time: 25h
      - expr: sum by (pipeline) (ALERTS{alertname="PipelineOverdue"})
        eval_time: 27h
        exp_samples: [{labels: '{pipeline="shop.Nightly"}', value: 1}]
      - expr: sum by (pipeline) (ALERTS{alertname="PipelineOverdue"})
        eval_time: 169h
        exp_samples:
          - {labels: '{pipeline="shop.Nightly"}', value: 1}
          - {labels: '{pipeline="a\\\\b \\"c\\" + [d]"}', value: 1}
"""


def test_a_pipeline_may_have_a_limit_of_its_own(tmp_path: Path) -> None:
    """A limit in limits.py is a rule of its own, whatever the pipeline is called, and the general one leaves it out."""
    found = alerts.alerts({"shop.Nightly": "26h", 'a\\b "c" + [d]': "7d"})
    write_rules(tmp_path, found)
    present = "      - series: otel_storage_outbox_oldest_age_seconds{job='j'}\n        values: 0x600\n"
    (tmp_path / "test.yml").write_text(OVERDUE.replace("    promql_expr_test", present + "    promql_expr_test", 1))

    tested = promtool("test", "rules", tmp_path / "test.yml")

    assert tested.returncode == 0, tested.stdout + tested.stderr
    uids = [rule["uid"] for group in alerts.grafana_rules(found)["groups"] for rule in group["rules"]]
    assert len(uids) == len(set(uids)) == len(ALERTS) + 2


def test_durations_are_read() -> None:
    """A limit that is no duration is refused before it becomes a rule."""
    assert [limits.seconds(text) for text in ("90s", "15m", "26h", "7d")] == [90, 900, 93600, 604800]
    with pytest.raises(ValueError, match="'soon' is not a duration"):
        alerts.alerts({"shop.Nightly": "soon"})


def test_grafana_has_the_same_rules() -> None:
    """Each rule of Prometheus' is one of Grafana's, of the same expression, labels, pause and texts."""
    prometheus, grafana = alerts.prometheus_rules(ALERTS)["groups"], alerts.grafana_rules(ALERTS)["groups"]

    assert [(g["name"], g["interval"]) for g in prometheus] == [(g["name"], g["interval"]) for g in grafana]
    ours = [rule for group in prometheus for rule in group["rules"]]
    theirs = [rule for group in grafana for rule in group["rules"]]
    assert [rule["alert"] for rule in ours] == [rule["title"] for rule in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one["expr"] == other["data"][0]["model"]["expr"]
        assert one.get("for", "0s") == other["for"]
        assert one["labels"] == other["labels"]
        texts = {
            name: text.replace(".Values.A.Value", ".Value")
            for name, text in other["annotations"].items()
            if name != "trace"
        }
        assert texts.items() <= one["annotations"].items()
        # Grafana would take a dollar in a label for a variable of its environment.
        assert "$" not in str(other["labels"])


def test_failures_are_told_at_once() -> None:
    """A failure is to be told of within 60 s: nothing waits, and it is looked for every 10 s."""
    for alert in ALERTS:
        if alert.name in ("PipelineTaskFailed", "PipelineRunFailed"):
            assert (alert.wait, alerts.INTERVALS[alert.group]) == ("0s", "10s")


@pytest.mark.parametrize("name", NAMES)
def test_the_runbook_has_every_alert(name: str) -> None:
    """An alert's annotation leads to a section of its own, and there is none of an alert that is no more."""
    headings = re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE)

    assert headings.count(name) == 1
    assert set(headings) == set(NAMES)
    for group in alerts.prometheus_rules(ALERTS)["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["runbook"].endswith(f"{alerts.RUNBOOK}#{rule['alert'].lower()}")


COMMAND = re.compile(r"`otel-storage ([a-z]+)([^`]*)`")


def test_commands_of_the_runbook_exist() -> None:
    """Every command that runbook, rules and dashboards tell people to call exists, with its options."""
    texts = [RUNBOOK, *(alert.runbook for alert in ALERTS)]
    texts += [panel.description for dashboard in build.dashboards() for panel in dashboard.panels]
    named = {match for text in texts for match in COMMAND.findall(text)}
    assert len(named) > 8
    context = click.Context(cli)
    for name, rest in named:
        command = cli.get_command(context, name)
        assert command is not None, name
        options = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options, (name, rest)
