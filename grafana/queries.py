"""Every query of dashboards, rules and provisioning, so that tests can run each and know each name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from grafana import alerts, build, sources
from grafana.panels import Variable

GRAFANA_VARIABLES = {
    "$__range": "1h",
    "$__interval": "10s",
    "$__rate_interval": "1m",
    "$job": ".*",
    "$pipeline": ".*",
    "$run": "b536d1d8-aa41-42c2-9896-06aa9d182270",
    "$__tags": 'cicd_pipeline_name=~".+"',
}
"""What stands for Grafana's variables where a query is run without Grafana; the longer names come first below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromQl:
    """A query of Prometheus."""

    where: str
    expr: str
    when_empty: str
    """Why it may return nothing where all is well; empty if it must not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceQuery:
    """A query of a trace store."""

    where: str
    type: str
    """jaeger or tempo."""
    text: str


def queries() -> list[PromQl]:
    """Every query of PromQL, with Grafana's variables replaced."""
    return [
        PromQl(where=where, expr=runnable(expr), when_empty=when_empty) for where, expr, when_empty in _all_of_promql()
    ]


def runnable(expr: str) -> str:
    """The query as Grafana would send it, for everything."""
    # As ${__span.tags["cicd.pipeline.name"]}, within quotes of an equality.
    expr = re.sub(r'="\$\{__span\.tags\["[^"]*"\]\}"', '=~".+"', expr)
    for name in sorted(GRAFANA_VARIABLES, key=len, reverse=True):
        expr = expr.replace(name, GRAFANA_VARIABLES[name])
    return expr


def _all_of_promql() -> Iterator[tuple[str, str, str]]:
    for dashboard in build.dashboards():
        for variable in dashboard.variables:
            if isinstance(variable, Variable):
                yield f"{dashboard.file}: variable {variable.name}", _of_variable(variable.query), ""
        for panel in dashboard.panels:
            for query in panel.queries:
                yield f"{dashboard.file}: {panel.title}", query.expr, query.when_empty
    for alert in alerts.alerts():
        yield f"alert {alert.name}", alert.expr, alert.when_empty
    for source in sources.data_sources()["datasources"]:
        for query in source["jsonData"].get("tracesToMetrics", {}).get("queries", []):
            # A dollar is doubled where Grafana would take it for an environment variable.
            yield f"{source['name']}: {query['name']}", query["query"].replace("$$", "$"), ""


def _of_variable(query: str) -> str:
    """What Grafana asks Prometheus for the values of a variable."""
    match = re.fullmatch(r"label_values\((.*), (\w+)\)", query)
    if match:
        return f"count by ({match[2]}) ({match[1]})"
    return re.fullmatch(r"query_result\((.*)\)", query)[1]  # type: ignore[index]  # there is no third kind


def trace_queries() -> list[TraceQuery]:
    """Every query of a trace store."""
    return [
        TraceQuery(
            where=f"{dashboard.file}: {panel.title}",
            type=panel.source.type,
            text=" ".join(str(panel.traces.get(key, "")) for key in ("query", "tags")).strip(),
        )
        for dashboard in build.dashboards()
        for panel in dashboard.panels
        if panel.source
    ]
