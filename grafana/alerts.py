"""The alert rules: one list, written as Prometheus' rules and as Grafana's.

Rules for every expression:

- Several processes may show the same database's metrics, one may end and another begin: so ``max by (job, ...)`` comes
  first, over instances, and only then a range (a subquery), a sum or a quotient. ``job`` is one installation.
- A counter is first shown at 0, and comes from the database: it goes on where it was after a restart.
- What an expression returns fires; Grafana's rules add a threshold that any value passes.
- Templates say ``.Labels``, not ``$labels``: Grafana takes a dollar in a provisioned label for an environment variable.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from grafana import limits
from grafana.limits import seconds

PIPELINE = "cicd_pipeline_name"
TASK = "cicd_pipeline_task_name"
STATUS = "otel_storage_status"

FAILED = "RUNTIME_ERROR|VALIDATION_ERROR|CONFIG_ERROR|CANCELLED"
FAILED_ONLY = f'{STATUS}=~"{FAILED}"'
WAITING_STATES = "due|retrying|leased"
"""The states of entries of the outbox that are to be sent now; others wait for something else, or for a person."""

CRITICAL = "critical"
WARNING = "warning"
BY_STATUS = f'{{{{ if eq .Labels.{STATUS} "CANCELLED" }}}}info{{{{ else }}}}critical{{{{ end }}}}'
"""What is cancelled is so because something else failed, which has an alert of its own."""

PROMETHEUS_UID = "otel-storage-prometheus"
PIPELINES_UID = "otel-storage-pipelines"
DELIVERY_UID = "otel-storage-delivery"
RUNBOOK = "grafana/RUNBOOK.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One rule."""

    name: str
    expr: str
    summary: str
    """With ``{pipeline}``, ``{task}``, ``{status}``, ``{exporter}``, and ``{value}``, which a function may format."""
    description: str
    runbook: str
    """The first thing to do, in a line."""
    severity: str
    labels: tuple[str, ...] = ()
    """Which of pipeline, task and status the expression's series have."""
    wait: str = "0s"
    """For how long it must be so."""
    group: str = "otel-storage-failures"
    when_empty: str = ""
    """Why the expression returns nothing where all is well, which is when a test evaluates it."""
    of: str = field(default="")
    """Tells rules of one name apart."""


LABELS = {"pipeline": PIPELINE, "task": TASK, "status": STATUS}
"""The labels of alerts, and those of series that they come from."""

COLLECTOR = "otel-storage-collector"
"""The group of what only the collector can tell of: the spans that it has acknowledged are no longer ours to send."""

INTERVALS = {
    "otel-storage-failures": "10s",
    "otel-storage-pipelines": "30s",
    "otel-storage-telemetry": "30s",
    COLLECTOR: "30s",
}
"""The groups of rules, and how often each is evaluated."""


def rose(metric: str, labels: str) -> str:
    """Which series of a counter rose lately, the first time ever too, and while nobody looked.

    The first part sees what the window saw: 0, then 1. The second compares with what was last seen before the window:
    the metrics may have been away for hours, while runs went on failing.
    """
    selector = f"{metric}{{{FAILED_ONLY}}}"
    by = f"max by (job, {labels})"
    window, memory = limits.FAILURE_WINDOW, limits.FAILURE_MEMORY
    return (
        f"(increase({by} ({selector})[{window}:10s]) > 0)\n"
        f"or\n"
        f"({by} ({selector}) - {by} (last_over_time({selector}[{memory}] offset {window})) > 0)"
    )


def failure_ratio(window: str, selector: str = "") -> str:
    """The share of the runs of a window that failed, by pipeline; cancelled ones too."""
    failed = ", ".join(filter(None, [FAILED_ONLY, selector]))
    return f"{runs_of(window, failed)}\n/\n({runs_of(window, selector)} > 0)"


def runs_of(window: str, selector: str = "") -> str:
    """How many runs of each pipeline ended in a window."""
    total = f"max by (job, {PIPELINE}, {STATUS}) (otel_storage_runs_total{{{selector}}})"
    return f"sum by (job, {PIPELINE}) (increase({total}[{window}:1m]))"


def usual_duration(quantile: float, selector: str = "") -> str:
    """How long all but the slowest successful runs took: lately, or where there was none, ever.

    Buckets are counters that come from the database, so their difference over a week needs two instants, and no range.
    One that fell (another database) is left out.
    """
    labels = ", ".join(
        filter(None, ['cicd_pipeline_run_state="executing"', 'cicd_pipeline_result="success"', selector])
    )
    bucket = f"cicd_pipeline_run_duration_seconds_bucket{{{labels}}}"
    by = f"max by (job, {PIPELINE}, le)"
    window = limits.LONG_WINDOW
    return (
        f"(histogram_quantile({quantile}, ({by} ({bucket}) - {by} ({bucket} offset {window})) >= 0) >= 0)\n"
        f"or\n"
        f"histogram_quantile({quantile}, {by} ({bucket}))"
    )


def _long() -> str:
    count = (
        'cicd_pipeline_run_duration_seconds_count{cicd_pipeline_run_state="executing", cicd_pipeline_result="success"}'
    )
    age = 'otel_storage_run_oldest_age_seconds{cicd_pipeline_run_state="executing"}'
    by = f"max by (job, {PIPELINE})"
    usual = _indent(usual_duration(limits.LONG_QUANTILE))
    return (
        f"{by} ({age})\n"
        f"> clamp_min({limits.LONG_FACTOR} * (\n{usual}\n), {seconds(limits.LONG_FLOOR)})\n"
        f"and {by} ({count}) >= {limits.LONG_RUNS}"
    )


def since_last_start(selector: str = "") -> str:
    """Seconds since a pipeline's last run started."""
    return f"time() - max by (job, {PIPELINE}) (otel_storage_run_last_started_seconds{{{selector}}})"


def usual_interval() -> str:
    """How often a pipeline runs, in seconds: over a week, or over a day where the week is not known yet."""
    total = f"sum by (job, {PIPELINE}) (max by (job, {PIPELINE}, {STATUS}) (otel_storage_runs_total"
    return "\nor\n".join(
        f"{seconds(window)} / ({total})) - {total} offset {window})) >= {runs})"
        for window, runs in limits.OVERDUE_WINDOWS
    )


def _overdue(overdue: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The expression of each rule, and what tells it apart."""
    others = f'{PIPELINE}!~"{"|".join(map(_literal, overdue))}"' if overdue else ""
    interval = _indent(usual_interval())
    yield (
        "",
        f"{since_last_start(others)}\n"
        f"> clamp_min({limits.OVERDUE_FACTOR} * (\n{interval}\n), {seconds(limits.OVERDUE_FLOOR)})",
    )
    for name, limit in overdue.items():
        yield name, f"{since_last_start(f'{PIPELINE}={_quoted(name)}')} > {seconds(limit)}"


def _literal(text: str) -> str:
    """A regular expression, within a string of PromQL, that matches the text alone."""
    return "".join(c if c.isalnum() or c in "_- :/" else f"[{c}]" if c not in '\\^"[]\n' else "." for c in text)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.split("\n"))


def _outbox(states: str) -> str:
    state = f'{{otel_storage_outbox_state=~"{states}"}}'
    return f"sum by (job) (max by (job, otel_storage_outbox_state) (otel_storage_outbox_entries{state}))"


def alerts(overdue: Mapping[str, str] = limits.OVERDUE) -> list[Alert]:
    """All rules; ``overdue`` are limits of single pipelines."""
    age = "otel_storage_outbox_oldest_age_seconds"
    dropped = "otelcol_exporter_send_failed_spans_total"
    task_rose = rose("otel_storage_task_results_total", f"{PIPELINE}, {TASK}, {STATUS}")
    run_rose = rose("otel_storage_runs_total", f"{PIPELINE}, {STATUS}")
    found = [
        Alert(
            name="PipelineTaskFailed",
            expr=task_rose,
            labels=("pipeline", "task", "status"),
            severity=BY_STATUS,
            summary="{pipeline}: task {task} ended as {status}",
            description=f"Within the last {limits.FAILURE_WINDOW}; it resolves when no other did for as long.",
            runbook="Open the trace: the failed span has the exception, `otel-storage show RUN_ID` prints it too.",
        ),
        Alert(
            name="PipelineRunFailed",
            expr=f"(\n{_indent(run_rose)}\n)\nunless on (job, {PIPELINE}, {STATUS})\n(\n{_indent(task_rose)}\n)",
            labels=("pipeline", "status"),
            severity=BY_STATUS,
            summary="{pipeline}: a run ended as {status}, and none of its tasks did",
            description="It is badly configured, or was closed by hand: no task is to blame.",
            runbook="`otel-storage runs` lists the last runs, `otel-storage show RUN_ID` says why it ended.",
            when_empty="a task is to blame for the demo's failure, and its CONFIG_ERROR may be older than the window",
        ),
        Alert(
            name="PipelineFailureRatioHigh",
            expr=f"{failure_ratio(limits.RATIO_WINDOW)}\n> {limits.RATIO}\n"
            f"and {runs_of(limits.RATIO_WINDOW)} >= {limits.RATIO_RUNS}",
            labels=("pipeline",),
            severity=WARNING,
            group="otel-storage-pipelines",
            summary="{pipeline}: {value | humanizePercentage} of its runs fail",
            description=f"More than {limits.RATIO:.0%} of at least {limits.RATIO_RUNS} runs in {limits.RATIO_WINDOW}, "
            "cancelled ones counted.",
            runbook="The dashboard shows since when, and by which task: look for what changed then.",
            when_empty="fewer runs than the rule asks for",
        ),
        Alert(
            name="PipelineRunLong",
            expr=_long(),
            labels=("pipeline",),
            severity=WARNING,
            group="otel-storage-pipelines",
            summary="{pipeline}: a run takes {value | humanizeDuration} already",
            description=f"More than {limits.LONG_FACTOR} times what {limits.LONG_QUANTILE:.0%} of its successful runs "
            f"took, and more than {limits.LONG_FLOOR}.",
            runbook="`otel-storage runs --status RUNNING` names it; its finished tasks are in the trace already.",
            when_empty="no run is active",
        ),
        *(
            Alert(
                name="PipelineOverdue",
                of=name,
                expr=expr,
                labels=("pipeline",),
                severity=WARNING,
                group="otel-storage-pipelines",
                summary="{pipeline}: no run was started for {value | humanizeDuration}",
                description=f"Its limit is {overdue[name]}."
                if name
                else f"That is {limits.OVERDUE_FACTOR} times its usual interval, and more than {limits.OVERDUE_FLOOR}.",
                runbook="See that what starts it does so: scheduler, queue, deployment.",
                when_empty="every pipeline has run just now",
            )
            for name, expr in _overdue(overdue)
        ),
        Alert(
            name="PipelineRunWaiting",
            expr=(
                f"max by (job, {PIPELINE}) (otel_storage_run_oldest_age_seconds"
                f'{{cicd_pipeline_run_state="pending"}}) > {seconds(limits.WAITING)} < {seconds(limits.ABANDONED)}'
            ),
            labels=("pipeline",),
            severity=WARNING,
            group="otel-storage-pipelines",
            summary="{pipeline}: a run waits for its start for {value | humanizeDuration}",
            description=f"Longer than {limits.WAITING}; one that waits for more than {limits.ABANDONED} is given up.",
            runbook="See that workers live and take from the queue.",
            when_empty="no run is active",
        ),
        Alert(
            name="PipelineRunStuck",
            expr=(
                f"max by (job, {PIPELINE}) (otel_storage_run_oldest_age_seconds"
                f'{{cicd_pipeline_run_state="executing"}}) > {seconds(limits.IDLE)}\n'
                f"unless sum by (job, {PIPELINE}) "
                f"(max by (job, {PIPELINE}, {TASK}) (otel_storage_task_results_running)) > 0"
            ),
            labels=("pipeline",),
            severity=CRITICAL,
            wait="5m",
            group="otel-storage-pipelines",
            summary="{pipeline}: a run is RUNNING for {value | humanizeDuration}, and no task is",
            description="Its process is gone, or its next task is in a queue that nobody takes from.",
            runbook="`otel-storage reap`, where the workers are, lists what claims to be RUNNING; `--yes` closes it.",
            when_empty="no run is active",
        ),
        Alert(
            name="PipelineTaskStuck",
            expr=(
                f"max by (job, {PIPELINE}, {TASK}) (otel_storage_task_result_oldest_age_seconds)"
                f" > {seconds(limits.TASK_RUNNING)}"
            ),
            labels=("pipeline", "task"),
            severity=CRITICAL,
            group="otel-storage-pipelines",
            summary="{pipeline}: task {task} is RUNNING for {value | humanizeDuration}",
            description=f"Longer than {limits.TASK_RUNNING}.",
            runbook="`otel-storage reap`, where the workers are, lists what claims to be RUNNING; `--yes` closes it.",
            when_empty="no task is running",
        ),
        Alert(
            name="TelemetryBacklogOld",
            expr=f"max by (job) ({age}) > {seconds(limits.BACKLOG_AGE)}",
            severity=CRITICAL,
            group="otel-storage-telemetry",
            summary="Spans wait to be sent for {value | humanizeDuration}",
            description="Traces are late, none is lost: alerts on runs go by the database, and still work.",
            runbook="`otel-storage status` says why the last attempt failed, and who sends.",
            when_empty="nothing waits for long",
        ),
        Alert(
            name="TelemetryBacklogGrowing",
            expr=f"{_outbox(WAITING_STATES)} > {limits.BACKLOG_ENTRIES}\n"
            f"and delta({_outbox(WAITING_STATES)}[{limits.BACKLOG_WINDOW}:1m]) > 0",
            severity=WARNING,
            wait=limits.BACKLOG_WINDOW,
            group="otel-storage-telemetry",
            summary="{value} spans wait to be sent, and they become more",
            description=f"For {limits.BACKLOG_WINDOW}: more is recorded than is sent.",
            runbook="Start a further `otel-storage deliver --watch`; see whether the collector is slow.",
            when_empty="next to nothing waits",
        ),
        Alert(
            name="TelemetrySpansSetAside",
            expr=f"{_outbox('refused')} > 0",
            severity=WARNING,
            group="otel-storage-telemetry",
            summary="{value} spans were refused by the endpoint and set aside",
            description="They are not tried again by themselves.",
            runbook="`otel-storage status` says why; mend the endpoint, then `otel-storage replay`.",
            when_empty="nothing was refused",
        ),
        Alert(
            name="TelemetrySpansExpired",
            expr=f"{_outbox('expired')} > 0",
            severity=WARNING,
            group="otel-storage-telemetry",
            summary="{value} spans became too old to be sent",
            description="They waited for longer than max_age, 7 days unless it is set.",
            runbook="`otel-storage replay` sends them again, once the endpoint takes spans.",
            when_empty="nothing has expired",
        ),
        Alert(
            name="TelemetryNoSender",
            expr=(
                'max by (job) (otel_storage_senders{otel_storage_sender_watching="true"}) == 0\n'
                # Of the processes that run pipelines each sends its own: something is due at any moment there.
                f"and max by (job) (otel_storage_outbox_oldest_age_seconds) > {seconds(limits.NO_SENDER)}"
            ),
            severity=CRITICAL,
            wait="1m",
            group="otel-storage-telemetry",
            summary="Spans wait, and no sender watches",
            description=f"For over {limits.NO_SENDER}. A process that runs pipelines may send too, while it lives.",
            runbook="Start `otel-storage deliver --watch`, and keep it running.",
            when_empty="nothing waits",
        ),
        Alert(
            name="OtelStorageMetricsOverflow",
            expr=(
                'max by (job) (otel_storage_task_results_total{otel_metric_overflow="true"})\n'
                "or\n"
                'max by (job) (otel_storage_runs_total{otel_metric_overflow="true"})'
            ),
            severity=WARNING,
            group="otel-storage-telemetry",
            summary="There are more pipelines and tasks than are told apart: no alert tells of the others",
            description="They are one series together, so that metrics stay few.",
            runbook="Raise `otel-storage metrics --max-series`.",
            when_empty="there are few pipelines",
        ),
        Alert(
            name="OtelStorageMetricsMissing",
            expr=(
                f"group by (job) (last_over_time({age}[{limits.METRICS_MEMORY}])) unless group by (job) ({age})\n"
                f"or on ()\n"
                f"absent({age})"
            ),
            severity=CRITICAL,
            wait=limits.METRICS_MISSING,
            group="otel-storage-telemetry",
            summary="There are no metrics of otel-storage: no other alert can fire",
            description=f"For {limits.METRICS_MISSING} none came, by scrape or by push.",
            runbook="See that `otel-storage metrics` runs and reaches its database, and that Prometheus reaches it.",
            when_empty="the metrics are there",
        ),
        Alert(
            name="CollectorDropsSpans",
            # The counter is born at its first failure, so that its first value counts too.
            expr=(
                f"sum by (job, exporter) (increase({dropped}[{limits.DROPPED_WINDOW}])) > 0\n"
                f"or\n"
                f"sum by (job, exporter) ({dropped} unless {dropped} offset {limits.DROPPED_WINDOW}) > 0"
            ),
            severity=CRITICAL,
            group=COLLECTOR,
            summary="The collector drops spans, which {exporter} refuses for good",
            description=f"A wrong credential or address does that too. Within the last {limits.DROPPED_WINDOW}.",
            runbook="The collector's log says why. Mend it, then send them again with `otel-storage replay --since`.",
            when_empty="nothing is dropped",
        ),
        Alert(
            name="CollectorQueueFilling",
            expr=(
                'max by (job, exporter) (otelcol_exporter_queue_size{data_type="traces"})\n'
                '/ max by (job, exporter) (otelcol_exporter_queue_capacity{data_type="traces"}) '
                f"> {limits.QUEUE_SHARE}"
            ),
            severity=WARNING,
            wait="5m",
            group=COLLECTOR,
            summary="The queue of {exporter} is {value | humanizePercentage} full",
            description="What it takes in is not sent on. Once it is full, spans stay in the database.",
            runbook="The collector's log says whether the backend is away or slow. Nothing is lost yet.",
            when_empty="the queue is all but empty",
        ),
    ]
    assert {alert.group for alert in found} == set(INTERVALS)  # noqa: S101 - a group without rules would be no group
    return found


_TAGS = {
    "pipeline": ("cicd.pipeline.name", PIPELINE),
    "task": ("cicd.pipeline.task.name", TASK),
    "status": ("otel_storage.status", STATUS),
}
"""Which attributes of spans say what labels of series do."""


def _trace_link(alert: Alert) -> str:
    """Where the traces that the alert is about are listed: Grafana's dashboard where one is named, else by Jaeger."""
    # As a URL has them: {"cicd.pipeline.name":"...","otel_storage.status":"..."}
    tags = "%2C".join(
        f"%22{_TAGS[label][0]}%22%3A%22{{{{ .Labels.{_TAGS[label][1]} | urlquery }}}}%22" for label in alert.labels
    )
    service = '{{ or .ExternalLabels.traces_service "pipelines" | urlquery }}'
    jaeger = f"{{{{ .ExternalLabels.traces_url }}}}/search?service={service}&lookback=2d&limit=20"
    if not alert.labels:
        return jaeger
    dashboard = f"{{{{ .ExternalLabels.traces_dashboard }}}}?var-pipeline={{{{ .Labels.{PIPELINE} | urlquery }}}}"
    choice = "{{ if .ExternalLabels.traces_dashboard }}"
    return f"{choice}{dashboard}{{{{ else }}}}{jaeger}&tags=%7B{tags}%7D{{{{ end }}}}"


def _dashboard(alert: Alert) -> str:
    """Grafana's own page about it: it does not put environment variables into the annotations of provisioned rules."""
    if not alert.labels:
        return f"{{{{ externalURL }}}}d/{DELIVERY_UID}"
    return f"{{{{ externalURL }}}}d/{PIPELINES_UID}?var-pipeline={{{{ .Labels.{PIPELINE} | urlquery }}}}"


def _template(text: str, value: str) -> str:
    """The text with templates in place of its braces."""
    for name, label in {**LABELS, "exporter": "exporter"}.items():
        text = text.replace(f"{{{name}}}", f"{{{{ .Labels.{label} }}}}")
    return re.sub(r"\{value( \| \w+)?\}", rf"{{{{ {value}\1 }}}}", text)


def _annotations(alert: Alert, value: str, trace: str) -> dict[str, str]:
    return {
        "summary": _template(alert.summary, value),
        "description": alert.description,
        "trace": trace,
        "runbook": f"{alert.runbook} More: {RUNBOOK}#{alert.name.lower()}",
    }


def _labels(alert: Alert) -> dict[str, str]:
    return {name: f"{{{{ .Labels.{LABELS[name]} }}}}" for name in alert.labels} | {"severity": alert.severity}


def prometheus_rules(found: list[Alert]) -> dict[str, Any]:
    """The rules as Prometheus reads them; a group that has none is left out."""
    return {
        "groups": [
            {
                "name": group,
                "interval": interval,
                "rules": [
                    {
                        "alert": alert.name,
                        "expr": alert.expr,
                        **({} if alert.wait == "0s" else {"for": alert.wait}),
                        "labels": _labels(alert),
                        "annotations": _annotations(alert, ".Value", _trace_link(alert)),
                    }
                    for alert in found
                    if alert.group == group
                ],
            }
            for group, interval in INTERVALS.items()
            if any(alert.group == group for alert in found)
        ]
    }


def _uid(alert: Alert) -> str:
    """A stable id of the rule, of at most 40 characters."""
    return f"otel-storage-{alert.name}" + (f"-{zlib.crc32(alert.of.encode()):08x}" if alert.of else "")


def grafana_rules(found: list[Alert]) -> dict[str, Any]:
    """The rules as Grafana provisions them."""
    source = {"type": "prometheus", "uid": PROMETHEUS_UID}
    return {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": group,
                "folder": "otel-storage",
                "interval": interval,
                "rules": [
                    {
                        "uid": _uid(alert),
                        "title": alert.name + (f" ({alert.of})" if alert.of else ""),
                        "condition": "firing",
                        "data": [
                            {
                                "refId": "A",
                                "relativeTimeRange": {"from": 600, "to": 0},
                                "datasourceUid": PROMETHEUS_UID,
                                "model": {
                                    "refId": "A",
                                    "datasource": source,
                                    "editorMode": "code",
                                    "expr": alert.expr,
                                    "instant": True,
                                    "range": False,
                                },
                            },
                            {
                                "refId": "firing",
                                "datasourceUid": "__expr__",
                                "model": {
                                    "refId": "firing",
                                    "type": "threshold",
                                    "datasource": {"type": "__expr__", "uid": "__expr__"},
                                    "expression": "A",
                                    # Whatever the expression returns: none of its values is below 0.
                                    "conditions": [{"evaluator": {"type": "gt", "params": [-1]}}],
                                },
                            },
                        ],
                        "noDataState": "OK",
                        "execErrState": "Error",
                        "for": alert.wait,
                        "labels": _labels(alert),
                        "annotations": _annotations(alert, ".Values.A.Value", _dashboard(alert)),
                        "isPaused": False,
                    }
                    for alert in found
                    if alert.group == group
                ],
            }
            for group, interval in INTERVALS.items()
        ],
    }
