"""The dashboard *Pipelines*: is every pipeline well, and if one is not, where is the trace."""

from __future__ import annotations

import json
import urllib.parse

from grafana.alerts import FAILED_ONLY, PIPELINE, STATUS, TASK, usual_duration
from grafana.limits import LONG_FACTOR, LONG_QUANTILE, OVERDUE_FLOOR, RATIO, WAITING, seconds
from grafana.panels import (
    BLUE,
    COLORED,
    GREEN,
    GREY,
    JOB_VARIABLE,
    METRICS_VARIABLE,
    ORANGE,
    RED,
    STATUS_MAPPINGS,
    STATUS_OVERRIDES,
    Dashboard,
    Json,
    Panel,
    Query,
    TraceSource,
    Variable,
    by_name,
    graph,
    row,
    stat,
    steps_of,
    table,
    text_variable,
    trace_table,
    traces_variable,
)

CHOSEN = f'job=~"$job", {PIPELINE}=~"$pipeline"'
EXECUTING = 'cicd_pipeline_run_state="executing"'
PENDING = 'cicd_pipeline_run_state="pending"'

PIPELINE_VARIABLE = Variable(
    name="pipeline",
    label="Pipeline",
    query=f'label_values(otel_storage_runs_total{{job=~"$job"}}, {PIPELINE})',
    description="The pipelines that ever ran.",
)
SERVICE_VARIABLE = text_variable(
    "service", "Service", "pipelines", "OTEL_SERVICE_NAME of the runs: Jaeger searches the traces of one service."
)

RANGE = "[$__range:$__interval]"
"""The whole time range, of what is joined over instances first."""
STEP = "[$__rate_interval:10s]"


def runs(selector: str, by: str, window: str = RANGE) -> str:
    """How many runs ended."""
    inner = f"max by (job, {PIPELINE}, {STATUS}) (otel_storage_runs_total{{{selector}}})"
    return f"sum by ({by}) (increase({inner}{window}))" if by else f"sum (increase({inner}{window}))"


def results(selector: str, by: str, window: str = RANGE) -> str:
    """How many task results ended."""
    inner = f"max by (job, {PIPELINE}, {TASK}, {STATUS}) (otel_storage_task_results_total{{{selector}}})"
    return f"sum by ({by}) (increase({inner}{window}))" if by else f"sum (increase({inner}{window}))"


def quantile(value: float, selector: str, by: str, window: str = RANGE) -> str:
    """How long all but the slowest runs took; every result counted. Nothing, and no NaN, where none ran."""
    inner = (
        f"max by (job, {PIPELINE}, cicd_pipeline_result, error_type, le) "
        f"(cicd_pipeline_run_duration_seconds_bucket{{{selector}}})"
    )
    return f"histogram_quantile({value}, sum by ({by}, le) (increase({inner}{window}))) >= 0"


def percentile_legend(value: float) -> str:
    """What a line of a quantile is called."""
    return f"{{{{{PIPELINE}}}}} p{value * 100:.0f}"


def oldest(state: str, by: str) -> str:
    """How long the oldest run has been in the state."""
    return f"max by ({by}) (otel_storage_run_oldest_age_seconds{{{CHOSEN}, {state}}})"


def active(state: str, by: str) -> str:
    """How many runs are in the state."""
    inner = f"max by (job, {PIPELINE}) (cicd_pipeline_run_active{{{CHOSEN}, {state}}})"
    return f"sum by ({by}) ({inner})" if by else f"sum ({inner})"


TEMPO_FAILED = 'span.otel_storage.record.kind = "PipelineExecution" && status = error'
JAEGER_FAILED = {"otel_storage.record.kind": "PipelineExecution", "error": "true"}
"""What finds the roots of runs that failed; cancelled ones are no errors."""

FAILURES = ((None, GREEN), (1, RED))


def _stats() -> list[Panel]:
    failed = f"{CHOSEN}, {FAILED_ONLY}"
    return [
        stat(
            "Failed runs",
            "Runs that ended as anything but DONE in this time range; cancelled ones too.",
            Query(expr=f"round({runs(failed, '')})", instant=True),
            width=4,
            unit="short",
            steps=FAILURES,
            decimals=0,
            no_value="0",
        ),
        stat(
            "Failure ratio",
            f"The share of runs that failed in this time range. An alert fires from {RATIO:.0%} within an hour.",
            Query(expr=f"{runs(failed, '')} / ({runs(CHOSEN, '')} > 0)", instant=True),
            width=4,
            unit="percentunit",
            steps=((None, GREEN), (0.0001, ORANGE), (RATIO, RED)),
            decimals=1,
            no_value="no run",
        ),
        stat(
            "Failed task results",
            "Task results that ended as anything but DONE in this time range; cancelled ones too.",
            Query(expr=f"round({results(failed, '')})", instant=True),
            width=4,
            unit="short",
            steps=FAILURES,
            decimals=0,
            no_value="0",
        ),
        stat(
            "Active runs",
            "Runs that are RUNNING now.",
            Query(expr=active(EXECUTING, "")),
            width=4,
            unit="short",
            steps=((None, GREEN),),
            decimals=0,
            no_value="0",
            graph=True,
        ),
        stat(
            "Oldest active run",
            "How long the oldest run has been RUNNING. Whether that is long depends on the pipeline: see the table.",
            Query(expr=f"max (otel_storage_run_oldest_age_seconds{{{CHOSEN}, {EXECUTING}}})"),
            width=4,
            unit="s",
            steps=((None, BLUE),),
            decimals=0,
            graph=True,
        ),
        stat(
            "Longest wait for a start",
            f"How long the oldest run has been PENDING. An alert fires after {WAITING}: workers may be gone.",
            Query(expr=f"max (otel_storage_run_oldest_age_seconds{{{CHOSEN}, {PENDING}}})"),
            width=4,
            unit="s",
            steps=((None, GREEN), (60, ORANGE), (seconds(WAITING), RED)),
            decimals=0,
            graph=True,
        ),
    ]


def _firing() -> Panel:
    labels = "alertname, severity, job, pipeline, task, status"
    return table(
        "Firing alerts",
        "What Prometheus' rules say now; empty where all is well. grafana/RUNBOOK.md says what each means.",
        [
            Query(
                expr=f'max by ({labels}) (ALERTS{{alertstate="firing", pipeline=~"($pipeline)?"}})',
                instant=True,
                format="table",
                when_empty="no alert fires",
            )
        ],
        columns={
            "alertname": "Alert",
            "severity": "Severity",
            "pipeline": "Pipeline",
            "task": "Task",
            "status": "Status",
            "job": "Installation",
        },
        height=6,
        no_value="no alert fires",
        merge=False,
        transformations=[{"id": "filterFieldsByName", "options": {"include": {"pattern": "^(?!Value|Time).*"}}}],
        overrides=[
            by_name("Status", mappings=STATUS_MAPPINGS, custom__cellOptions=COLORED),
            by_name(
                "Severity",
                mappings=[
                    {
                        "type": "value",
                        "options": {
                            "critical": {"color": RED, "index": 0},
                            "warning": {"color": ORANGE, "index": 1},
                            "info": {"color": GREY, "index": 2},
                        },
                    }
                ],
                custom__cellOptions=COLORED,
            ),
        ],
    )


def _every_pipeline(source: TraceSource) -> Panel:
    by = f"job, {PIPELINE}"
    failed = f"{CHOSEN}, {FAILED_ONLY}"

    def instant(expr: str, when_empty: str = "") -> Query:
        return Query(expr=expr, instant=True, format="table", when_empty=when_empty)

    suffix = source.suffix
    links = [
        {
            "title": "Only this pipeline",
            "url": f"/d/otel-storage-pipelines{suffix}?var-pipeline=${{__value.raw}}&${{__url_time_range}}",
        },
        {
            "title": "Compare a run with its earlier ones",
            "url": f"/d/otel-storage-run{suffix}?var-pipeline=${{__value.raw}}&${{__url_time_range}}",
        },
    ]
    seconds_wide: Json = {"unit": "s", "decimals": 1}
    return table(
        "Every pipeline",
        "A line a pipeline, in this time range; active and oldest are of now. Against usual: how many times as long as "
        f"{LONG_QUANTILE:.0%} of its successful runs the oldest active one takes already. Click a name.",
        [
            instant(f"round({runs(CHOSEN, by)})"),
            instant(f"round({runs(failed, by)})"),
            instant(f"{runs(failed, by)} / ({runs(CHOSEN, by)} > 0)"),
            instant(quantile(0.5, f"{CHOSEN}, {EXECUTING}", by)),
            instant(quantile(0.95, f"{CHOSEN}, {EXECUTING}", by)),
            instant(quantile(0.99, f"{CHOSEN}, {EXECUTING}", by)),
            instant(quantile(0.95, f"{CHOSEN}, {PENDING}", by)),
            instant(active(EXECUTING, by)),
            instant(oldest(EXECUTING, by)),
            instant(f"{oldest(EXECUTING, by)} / (\n{usual_duration(LONG_QUANTILE, CHOSEN)}\n)"),
            instant(f"1000 * max by ({by}) (otel_storage_run_last_started_seconds{{{CHOSEN}}})"),
            instant(f"1000 * max by ({by}) (otel_storage_run_last_completed_seconds{{{failed}}})"),
        ],
        columns={
            PIPELINE: "Pipeline",
            "Value #A": "Runs",
            "Value #B": "Failed",
            "Value #C": "Failure ratio",
            "Value #D": "p50",
            "Value #E": "p95",
            "Value #F": "p99",
            "Value #G": "Queue p95",
            "Value #H": "Active",
            "Value #I": "Oldest active",
            "Value #J": "Against usual",
            "Value #K": "Last start",
            "Value #L": "Last failure",
            "job": "Installation",
        },
        sort="Failure ratio",
        no_value="-",
        overrides=[
            by_name("Pipeline", links=links, custom__width=260),
            by_name("Runs", unit="short", decimals=0),
            by_name("Failed", unit="short", decimals=0, thresholds=steps_of(*FAILURES), custom__cellOptions=COLORED),
            by_name(
                "Failure ratio",
                unit="percentunit",
                decimals=1,
                custom__cellOptions=COLORED,
                thresholds=steps_of((None, GREEN), (0.0001, ORANGE), (RATIO, RED)),
            ),
            *(by_name(name, **seconds_wide) for name in ("p50", "p95", "p99", "Queue p95")),
            by_name("Active", unit="short", decimals=0),
            by_name("Oldest active", unit="s", decimals=0),
            by_name(
                "Against usual",
                unit="suffix:x",
                decimals=1,
                thresholds=steps_of((None, GREEN), (1, ORANGE), (LONG_FACTOR, RED)),
                custom__cellOptions=COLORED,
            ),
            by_name("Last start", unit="dateTimeFromNow"),
            by_name("Last failure", unit="dateTimeFromNow", links=[_explore(source)]),
        ],
    )


def _explore(source: TraceSource) -> Json:
    """Leads from a line to the traces of that pipeline's failed runs, the last first."""
    pipeline = "${__data.fields.Pipeline}"
    if source.type == "tempo":
        query = tempo_search(f'{{ {TEMPO_FAILED} && span.cicd.pipeline.name = "{pipeline}" }}')
    else:
        query = jaeger_search({**JAEGER_FAILED, "cicd.pipeline.name": pipeline})
    pane = {
        "datasource": "${traces}",
        "queries": [{"refId": "A", "datasource": source.ref, **query}],
        "range": {"from": "now-7d", "to": "now"},
    }
    # What Grafana replaces must stay as it is.
    panes = urllib.parse.quote(json.dumps({"a": pane}), safe="${}_.")
    return {"title": "Its trace: the first of these", "url": f"/explore?schemaVersion=1&orgId=1&panes={panes}"}


def _graphs() -> list[list[Panel]]:
    failed = f"{CHOSEN}, {FAILED_ONLY}"
    executing, pending = f"{CHOSEN}, {EXECUTING}", f"{CHOSEN}, {PENDING}"
    errors = f"max by (job, {PIPELINE}, error_type) (cicd_pipeline_run_errors_total{{{CHOSEN}}})"
    quiet = "nothing ran within the last step"
    return [
        [
            graph(
                "Runs by final status",
                "How many runs ended, and as what.",
                [Query(expr=runs(CHOSEN, STATUS, STEP), legend=f"{{{{{STATUS}}}}}")],
                unit="short",
                bars=True,
                overrides=STATUS_OVERRIDES,
            ),
            graph(
                "Failures, with their traces",
                "Runs that failed, cancelled ones aside. A diamond is a run: click it to open its trace.",
                [
                    Query(
                        expr=f"sum by ({PIPELINE}, error_type) (increase({errors}{STEP}))",
                        legend=f"{{{{{PIPELINE}}}}} {{{{error_type}}}}",
                        exemplar=True,
                    )
                ],
                unit="short",
                no_value="no failure in this time range",
            ),
        ],
        [
            graph(
                "Duration",
                "From start to end, of runs of any result: half of them, 95 % and 99 % took less. A diamond is a run: "
                "click it to open its trace.",
                [
                    Query(
                        expr=quantile(value, executing, PIPELINE, STEP),
                        legend=percentile_legend(value),
                        exemplar=value == 0.95,
                        when_empty=quiet,
                    )
                    for value in (0.5, 0.95, 0.99)
                ],
                unit="s",
            ),
            graph(
                "Queue time",
                "From created to started: half of the runs, 95 % and 99 % waited less. It grows where workers are few.",
                [
                    Query(
                        expr=quantile(value, pending, PIPELINE, STEP),
                        legend=percentile_legend(value),
                        when_empty=quiet,
                    )
                    for value in (0.5, 0.95, 0.99)
                ],
                unit="s",
            ),
        ],
        [
            graph(
                "Active runs",
                "How many runs are PENDING and RUNNING.",
                [
                    Query(expr=active(EXECUTING, PIPELINE), legend=f"{{{{{PIPELINE}}}}} running"),
                    Query(expr=active(PENDING, PIPELINE), legend=f"{{{{{PIPELINE}}}}} pending"),
                ],
                unit="short",
                decimals=0,
            ),
            graph(
                "Since the last start",
                "How long no run of a pipeline was started. Alerts go by each pipeline's usual interval, or by a limit "
                f"of its own, in grafana/limits.py; by its interval none fires before {OVERDUE_FLOOR}.",
                [
                    Query(
                        expr=f"time() - max by ({PIPELINE}) (otel_storage_run_last_started_seconds{{{CHOSEN}}})",
                        legend=f"{{{{{PIPELINE}}}}}",
                    )
                ],
                unit="s",
            ),
        ],
        [
            table(
                "Failed tasks",
                "Which tasks failed in this time range, as what, and how often.",
                [
                    Query(
                        expr=f"round({results(failed, f'job, {PIPELINE}, {TASK}, {STATUS}')}) > 0",
                        instant=True,
                        format="table",
                    )
                ],
                columns={
                    PIPELINE: "Pipeline",
                    TASK: "Task",
                    STATUS: "Status",
                    "Value": "Results",
                    "job": "Installation",
                },
                width=12,
                height=8,
                merge=False,
                sort="Results",
                no_value="no task failed",
                overrides=[
                    by_name("Status", mappings=STATUS_MAPPINGS, custom__cellOptions=COLORED),
                    by_name("Results", unit="short", decimals=0),
                ],
            ),
            table(
                "Last end by status",
                "When a run of each pipeline last ended as what. Older than the time range too.",
                [
                    Query(
                        expr=f"1000 * max by (job, {PIPELINE}, {STATUS}) "
                        f"(otel_storage_run_last_completed_seconds{{{CHOSEN}}})",
                        instant=True,
                        format="table",
                    )
                ],
                columns={PIPELINE: "Pipeline", STATUS: "Status", "Value": "Last", "job": "Installation"},
                width=12,
                height=8,
                merge=False,
                sort="Last",
                no_value="no run has ended",
                overrides=[
                    by_name("Status", mappings=STATUS_MAPPINGS, custom__cellOptions=COLORED),
                    by_name("Last", unit="dateTimeFromNow"),
                ],
            ),
        ],
    ]


def failed_runs(source: TraceSource) -> list[list[Panel]]:
    """The last failed runs, by their traces: of all pipelines, and of each that is chosen."""
    late = "A trace is found once its run has ended and was sent."
    if source.type == "tempo":
        query = (
            f'{{ {TEMPO_FAILED} && span.cicd.pipeline.name =~ "${{pipeline:pipe}}" }}'
            " | select(span.otel_storage.status, statusMessage)"
        )
        return [
            [
                trace_table(
                    source,
                    "Last failed runs",
                    f"Newest first; click a trace id to open its run. {late}",
                    tempo_search(query),
                    no_value="no failed run was found",
                    width=24,
                    height=9,
                )
            ]
        ]
    return [
        [
            trace_table(
                source,
                "Last failed runs, of all pipelines",
                f"Newest first; click a trace id to open its run. {late}",
                jaeger_search(JAEGER_FAILED),
                no_value="no failed run was found",
                width=24,
                height=8,
            )
        ],
        [
            trace_table(
                source,
                "Last failed runs of $pipeline",
                f"A table for each pipeline that is chosen: Jaeger searches for one value of a tag. {late}",
                jaeger_search({**JAEGER_FAILED, "cicd.pipeline.name": "$pipeline"}),
                no_value="no failed run was found",
                width=12,
                height=7,
                repeat="pipeline",
            )
        ],
    ]


def jaeger_search(tags: dict[str, str]) -> Json:
    """A search for traces that have a span with all of the tags."""
    return {
        "queryType": "search",
        "service": "$service",
        "operation": "",
        "tags": " ".join(f'{name}="{value}"' for name, value in tags.items()),
        "limit": 20,
    }


def tempo_search(query: str, table_type: str = "traces") -> Json:
    """A search by TraceQL."""
    return {"queryType": "traceql", "query": query, "tableType": table_type, "limit": 20, "filters": []}


def dashboard(source: TraceSource) -> Dashboard:
    """The dashboard, for one kind of trace store."""
    return Dashboard(
        uid=f"otel-storage-pipelines{source.suffix}",
        file=f"pipelines{source.suffix}.json",
        title=f"Pipelines{source.title}",
        description="The health of every pipeline. Figures come from the database of runs, whatever became of traces.",
        tags=[source.tag],
        link_tags=[source.tag],
        time_from="now-24h",
        variables=[
            METRICS_VARIABLE,
            traces_variable(source),
            *([SERVICE_VARIABLE] if source.type == "jaeger" else []),
            JOB_VARIABLE,
            PIPELINE_VARIABLE,
        ],
        lines=[
            _stats(),
            [_firing()],
            [_every_pipeline(source)],
            row("Over time"),
            *_graphs(),
            row("Traces"),
            *failed_runs(source),
        ],
    )
