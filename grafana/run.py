"""The dashboard *Run*: one run by its id, its failed tasks, and how long earlier runs of its pipeline took."""

from __future__ import annotations

from grafana.alerts import PIPELINE, TASK
from grafana.panels import (
    BLUE,
    GREEN,
    JAEGER,
    JOB_VARIABLE,
    METRICS_VARIABLE,
    ORANGE,
    RED,
    STAT_OPTIONS,
    TABLE_CELLS,
    TABLE_OPTIONS,
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
    table,
    text_variable,
    traces_variable,
)
from grafana.pipelines import (
    CHOSEN,
    EXECUTING,
    PENDING,
    PIPELINE_VARIABLE,
    RANGE,
    SERVICE_VARIABLE,
    STEP,
    failed_runs,
    percentile_legend,
    quantile,
    tempo_search,
)

RUN_VARIABLE = text_variable(
    "run", "Run id or trace id", "", "As `otel-storage runs` prints it: a UUID, or the 32 digits of its trace."
)
TRACE_VARIABLE = Variable(
    name="trace",
    label="Trace id",
    # Prometheus takes the dashes out: no variable of Grafana's own can.
    query=(
        'query_result(label_replace(label_replace(vector(1), "run", "$run", "", ""), "trace", "$1$2$3$4$5", "run", '
        '"([0-9a-fA-F]{8})-?([0-9a-fA-F]{4})-?([0-9a-fA-F]{4})-?([0-9a-fA-F]{4})-?([0-9a-fA-F]{12})"))'
    ),
    regex='/trace="([0-9a-fA-F]{32})"/',
    description="The trace of the run: its id is the run's, without dashes.",
    multi=False,
    hidden=True,
)


def _trace(source: TraceSource) -> Panel:
    return Panel(
        title="The run",
        type="traces",
        description="Its trace. The root comes last: a run that is not finished shows its finished tasks alone.",
        width=24,
        height=16,
        source=source,
        traces=_trace_of(source),
        no_value="Type a run id above. A trace is there once the first task has ended and was sent.",
    )


def _failed_tasks(source: TraceSource) -> Panel:
    description = "The tasks of this run that failed. Cancelled ones are no errors, and not among them."
    if source.type == "tempo":
        query = (
            '{ trace:id = "$trace" && span.otel_storage.record.kind = "TaskResult" && status = error } '
            "| select(span.cicd.pipeline.task.name, span.otel_storage.status, statusMessage)"
        )
        return Panel(
            title="Failed tasks",
            type="table",
            description=f"{description} It must lie within the time range.",
            width=24,
            height=7,
            source=source,
            traces=tempo_search(query, "spans"),
            no_value="no task failed",
            defaults={"custom": TABLE_CELLS | {"inspect": True}},
            options=TABLE_OPTIONS,
        )
    return Panel(
        title="Failed tasks",
        type="table",
        description=description,
        width=24,
        height=7,
        source=source,
        traces=_trace_of(source),
        no_value="no task failed",
        defaults={"custom": TABLE_CELLS | {"inspect": True}},
        options=TABLE_OPTIONS,
        transformations=[
            {
                "id": "convertFieldType",
                "options": {
                    "conversions": [
                        {"targetField": "tags", "destinationType": "string"},
                        {"targetField": "startTime", "destinationType": "time"},
                    ],
                    "fields": {},
                },
            },
            *(
                {
                    "id": "filterByValue",
                    "options": {
                        "type": "include",
                        "match": "all",
                        "filters": [{"fieldName": "tags", "config": {"id": "regex", "options": {"value": pattern}}}],
                    },
                }
                for pattern in FAILED_TASK
            ),
            {
                "id": "filterFieldsByName",
                "options": {"include": {"names": ["operationName", "startTime", "duration", "tags"]}},
            },
            {
                "id": "organize",
                "options": {
                    "excludeByName": {},
                    "indexByName": {"operationName": 0, "startTime": 1, "duration": 2, "tags": 3},
                    "renameByName": {
                        "operationName": "Task",
                        "startTime": "Started",
                        "duration": "Took",
                        "tags": "Attributes",
                    },
                },
            },
        ],
        overrides=[
            by_name("Took", unit="ms"),
            by_name("Started", unit="dateTimeAsLocal"),
            by_name("Task", custom__width=220),
        ],
    )


FAILED_TASK = ('"otel_storage[.]record[.]kind"[^}]*"TaskResult"', '"error"[^}]*true')
"""What the tags of a failed task result match, as JSON: Jaeger gives a trace whole, so the panel filters its spans."""


def _trace_of(source: TraceSource) -> Json:
    if source.type == "jaeger":
        return {"query": "$trace"}
    return {"queryType": "traceql", "query": "$trace", "tableType": "traces", "limit": 20, "filters": []}


def _took(source: TraceSource) -> Panel:
    """How long the run took: its root's span, the longest of the trace."""
    return Panel(
        title="This run took",
        type="stat",
        description="From its trace. Of a run that is not finished, and has no root yet: the longest span so far.",
        width=4,
        height=4,
        source=source,
        traces=_trace_of(source),
        unit="ms",
        steps=((None, BLUE),),
        decimals=1,
        no_value="no run",
        defaults={"color": {"mode": "thresholds"}},
        options=STAT_OPTIONS | {"reduceOptions": {"calcs": ["max"], "fields": "/^duration$/i", "values": False}},
    )


def _usual(source: TraceSource) -> list[Panel]:
    executing = f"{CHOSEN}, {EXECUTING}"
    steps = ((None, GREEN),)

    def of(title: str, what: str, expr: str) -> Panel:
        return stat(
            title, what, Query(expr=expr, instant=True), width=5, unit="s", steps=steps, decimals=1, no_value="no run"
        )

    within = "Of the chosen pipeline's runs in this time range, whatever became of them."
    return [
        _took(source),
        of("Half took less than", within, quantile(0.5, executing, PIPELINE)),
        of("95 % took less than", within, quantile(0.95, executing, PIPELINE)),
        of("99 % took less than", within, quantile(0.99, executing, PIPELINE)),
        of(
            "95 % waited less than",
            f"{within} From created to started.",
            quantile(0.95, f"{CHOSEN}, {PENDING}", PIPELINE),
        ),
    ]


def _task_quantile(metric: str, value: float) -> str:
    inner = f"max by (job, {PIPELINE}, {TASK}, le) ({metric}_bucket{{{CHOSEN}}})"
    return f"histogram_quantile({value}, sum by ({PIPELINE}, {TASK}, le) (increase({inner}{RANGE}))) >= 0"


def _tasks() -> Panel:
    duration, queue = "otel_storage_task_result_duration_seconds", "otel_storage_task_result_queue_time_seconds"
    by = f"{PIPELINE}, {TASK}"
    inner = f"max by (job, {PIPELINE}, {TASK}, otel_storage_status) (otel_storage_task_results_total{{{CHOSEN}%s}})"
    total = f"sum by ({by}) (increase({inner}{RANGE}))"
    running = f"sum by ({by}) (max by (job, {by}) (otel_storage_task_results_running{{{CHOSEN}}}))"
    age = f"max by ({by}) (otel_storage_task_result_oldest_age_seconds{{{CHOSEN}}})"
    failed = total % ', otel_storage_status!="DONE"'
    exprs = [
        _task_quantile(duration, 0.5),
        _task_quantile(duration, 0.95),
        _task_quantile(queue, 0.95),
        f"round({total % ''})",
        f"round({failed})",
        running,
        age,
    ]
    return table(
        "What is usual for its tasks",
        "The chosen pipeline's tasks in this time range: compare them with the trace above.",
        [Query(expr=expr, instant=True, format="table") for expr in exprs],
        columns={
            PIPELINE: "Pipeline",
            TASK: "Task",
            "Value #A": "p50",
            "Value #B": "p95",
            "Value #C": "Queue p95",
            "Value #D": "Results",
            "Value #E": "Not DONE",
            "Value #F": "Running",
            "Value #G": "Oldest running",
        },
        height=8,
        sort="p95",
        no_value="-",
        overrides=[
            *(by_name(name, unit="s", decimals=2) for name in ("p50", "p95", "Queue p95", "Oldest running")),
            *(by_name(name, unit="short", decimals=0) for name in ("Results", "Running")),
            by_name(
                "Not DONE",
                unit="short",
                decimals=0,
                custom__cellOptions={"type": "color-text"},
                thresholds={"mode": "absolute", "steps": [{"value": None, "color": GREEN}, {"value": 1, "color": RED}]},
            ),
        ],
    )


def _history() -> list[Panel]:
    executing = f"{CHOSEN}, {EXECUTING}"
    buckets = (
        f"sum by (le) (increase(max by (job, {PIPELINE}, cicd_pipeline_result, error_type, le) "
        f"(cicd_pipeline_run_duration_seconds_bucket{{{executing}}}){RANGE}))"
    )
    quiet = "nothing ran within the last step"
    return [
        graph(
            "Earlier runs",
            "How long runs of the chosen pipeline took over time. A diamond is a run: click it to open its trace.",
            [
                Query(
                    expr=quantile(value, executing, PIPELINE, STEP),
                    legend=percentile_legend(value),
                    exemplar=value == 0.95,
                    when_empty=quiet,
                )
                for value in (0.5, 0.95)
            ],
            unit="s",
        ),
        Panel(
            title="How many took how long",
            type="bargauge",
            description="The chosen pipeline's runs in this time range, by duration: each bar is the runs up to that "
            "many seconds, and longer than the bar before.",
            width=12,
            height=8,
            unit="short",
            decimals=0,
            no_value="no run",
            steps=((None, ORANGE),),
            queries=[Query(expr=buckets, legend="{{le}} s", instant=True, format="heatmap")],
            defaults={"color": {"mode": "continuous-GrYlRd"}, "min": 0},
            options={
                "displayMode": "gradient",
                "orientation": "horizontal",
                "valueMode": "color",
                "namePlacement": "auto",
                "sizing": "auto",
                "minVizHeight": 10,
                "minVizWidth": 8,
                "maxVizHeight": 300,
                "showUnfilled": True,
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            },
        ),
    ]


def dashboard(source: TraceSource) -> Dashboard:
    """The dashboard, for one kind of trace store."""
    return Dashboard(
        uid=f"otel-storage-run{source.suffix}",
        file=f"run{source.suffix}.json",
        title=f"Run{source.title}",
        description="One run, by its id, beside the earlier runs of its pipeline. Choose the pipeline to compare with.",
        tags=[source.tag],
        link_tags=[source.tag],
        time_from="now-7d",
        variables=[
            METRICS_VARIABLE,
            traces_variable(source),
            RUN_VARIABLE,
            TRACE_VARIABLE,
            *([SERVICE_VARIABLE] if source is JAEGER else []),
            JOB_VARIABLE,
            PIPELINE_VARIABLE,
        ],
        lines=[
            [_trace(source)],
            [_failed_tasks(source)],
            row("Earlier runs of $pipeline"),
            _usual(source),
            _history(),
            [_tasks()],
            row("Other failed runs"),
            *failed_runs(source),
        ],
    )
