"""Pieces that dashboards are made of, as Grafana's JSON has them, and the laying out of panels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from grafana.alerts import PROMETHEUS_UID

GRAFANA = "12.4.11"
"""The version whose schema the dashboards keep to: the one that ``collector/compose.yaml`` starts."""
SCHEMA_VERSION = 42

COLUMNS = 24
"""The width of Grafana's grid."""

METRICS = {"type": "prometheus", "uid": "${metrics}"}

Json = dict[str, Any]

GREEN, ORANGE, RED, GREY, BLUE, PURPLE = "green", "orange", "red", "#8e8e8e", "blue", "purple"

STATUS_COLORS = {
    "DONE": GREEN,
    "RUNTIME_ERROR": RED,
    "VALIDATION_ERROR": ORANGE,
    "CONFIG_ERROR": PURPLE,
    "CANCELLED": GREY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSource:
    """A kind of trace store: each has its own query language, so each has its own dashboards."""

    type: str
    title: str
    uid: str
    suffix: str
    """What ends the uids of its dashboards."""
    tag: str
    """What its dashboards have in common, and link each other by."""

    @property
    def ref(self) -> Json:
        """How panels name the data source that is chosen."""
        return {"type": self.type, "uid": "${traces}"}


JAEGER = TraceSource(type="jaeger", title="", uid="otel-storage-jaeger", suffix="", tag="otel-storage")
TEMPO = TraceSource(type="tempo", title=" (Tempo)", uid="otel-storage-tempo", suffix="-tempo", tag="otel-storage-tempo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query of PromQL."""

    expr: str
    legend: str = ""
    instant: bool = False
    format: str = "time_series"
    exemplar: bool = False
    when_empty: str = ""
    """Why it may return nothing where all is well: a test, which runs each, asks for data otherwise."""

    def as_json(self, ref: str) -> Json:
        """As a target of a panel."""
        target: Json = {
            "refId": ref,
            "datasource": METRICS,
            "editorMode": "code",
            "expr": self.expr,
            "format": self.format,
            "instant": self.instant,
            "range": not self.instant,
            "exemplar": self.exemplar,
        }
        return target | ({"legendFormat": self.legend} if self.legend else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A panel; its place comes from the layout."""

    title: str
    type: str
    description: str
    width: int
    height: int
    queries: Sequence[Query] = ()
    traces: Json = field(default_factory=dict)
    """A query of a trace source."""
    source: TraceSource | None = None
    unit: str = ""
    decimals: int | None = None
    steps: Sequence[tuple[float | None, str]] = ((None, GREEN),)
    """Colours, and the values from which they are so; the first from the lowest."""
    no_value: str = "-"
    defaults: Json = field(default_factory=dict)
    overrides: Sequence[Json] = ()
    options: Json = field(default_factory=dict)
    transformations: Sequence[Json] = ()
    repeat: str = ""

    def as_json(self, number: int, x: int, y: int) -> Json:
        """As the dashboard has it."""
        place = {"h": self.height, "w": self.width, "x": x, "y": y}
        panel: Json = {"id": number, "type": self.type, "title": self.title, "gridPos": place}
        if self.type == "row":
            return panel | {"collapsed": False, "panels": []}
        panel["description"] = self.description
        if self.type == "text":
            return panel | {"options": self.options}
        panel["datasource"] = self.source.ref if self.source else METRICS
        if self.source:
            panel["targets"] = [{"refId": "A", "datasource": self.source.ref, **self.traces}]
        else:
            panel["targets"] = [q.as_json(chr(ord("A") + i)) for i, q in enumerate(self.queries)]
        defaults: Json = {
            "noValue": self.no_value,
            "thresholds": {"mode": "absolute", "steps": [{"value": v, "color": c} for v, c in self.steps]},
        }
        if self.unit:
            defaults["unit"] = self.unit
        if self.decimals is not None:
            defaults["decimals"] = self.decimals
        panel["fieldConfig"] = {"defaults": defaults | self.defaults, "overrides": list(self.overrides)}
        if self.options:
            panel["options"] = self.options
        if self.transformations:
            panel["transformations"] = list(self.transformations)
        if self.repeat:
            panel |= {"repeat": self.repeat, "repeatDirection": "h", "maxPerRow": 2}
        return panel


STAT_OPTIONS: Json = {
    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    "orientation": "auto",
    "textMode": "auto",
    "colorMode": "background",
    "graphMode": "none",
    "justifyMode": "auto",
    "wideLayout": True,
    "showPercentChange": False,
    "percentChangeColorMode": "standard",
}
TABLE_OPTIONS: Json = {"frameIndex": 0, "cellHeight": "sm", "showHeader": True}
TABLE_CELLS: Json = {"align": "auto", "filterable": True, "inspect": False, "cellOptions": {"type": "auto"}}


def row(title: str) -> list[Panel]:
    """A heading."""
    return [Panel(title=title, type="row", description="", width=COLUMNS, height=1)]


def stat(
    title: str,
    description: str,
    query: Query,
    *,
    width: int,
    unit: str,
    steps: Sequence[tuple[float | None, str]],
    no_value: str = "-",
    decimals: int | None = None,
    graph: bool = False,
) -> Panel:
    """One figure, coloured by how bad it is."""
    return Panel(
        title=title,
        type="stat",
        description=description,
        width=width,
        height=4,
        queries=[query],
        unit=unit,
        steps=steps,
        no_value=no_value,
        decimals=decimals,
        defaults={"color": {"mode": "thresholds"}},
        options=STAT_OPTIONS | {"graphMode": "area" if graph else "none"},
    )


def graph(
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    unit: str,
    width: int = 12,
    height: int = 8,
    bars: bool = False,
    steps: Sequence[tuple[float | None, str]] = (),
    overrides: Sequence[Json] = (),
    no_value: str = "nothing in this time range",
    decimals: int | None = None,
    max_value: float | None = None,
) -> Panel:
    """Values over time; with ``steps`` the limits are drawn."""
    custom: Json = {
        "drawStyle": "bars" if bars else "line",
        "lineWidth": 1,
        "fillOpacity": 60 if bars else 10,
        "showPoints": "auto",
        "spanNulls": False,
        "stacking": {"mode": "normal" if bars else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if steps else "off"},
    }
    defaults: Json = {"custom": custom, "min": 0, "color": {"mode": "palette-classic"}}
    if max_value is not None:
        defaults["max"] = max_value
    return Panel(
        title=title,
        type="timeseries",
        description=description,
        width=width,
        height=height,
        queries=queries,
        unit=unit,
        steps=steps or ((None, GREEN),),
        no_value=no_value,
        decimals=decimals,
        defaults=defaults,
        overrides=overrides,
        options={
            "legend": {
                "displayMode": "table",
                "placement": "right",
                "showLegend": True,
                "calcs": ["lastNotNull", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )


def table(
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    columns: dict[str, str],
    width: int = COLUMNS,
    height: int = 10,
    overrides: Sequence[Json] = (),
    sort: str = "",
    no_value: str = "-",
    merge: bool = True,
    transformations: Sequence[Json] = (),
) -> Panel:
    """Rows; ``columns`` says which fields are shown, in which order, and what they are called."""
    organize = {
        "id": "organize",
        "options": {
            "excludeByName": {"Time": True},
            "indexByName": {name: index for index, name in enumerate(columns)},
            "renameByName": {name: shown for name, shown in columns.items() if name != shown},
        },
    }
    options: Json = dict(TABLE_OPTIONS)
    if sort:
        options["sortBy"] = [{"displayName": sort, "desc": True}]
    return Panel(
        title=title,
        type="table",
        description=description,
        width=width,
        height=height,
        queries=queries,
        no_value=no_value,
        overrides=overrides,
        options=options,
        defaults={"custom": TABLE_CELLS},
        transformations=[*([{"id": "merge", "options": {}}] if merge else []), *transformations, organize],
    )


def trace_table(
    source: TraceSource, title: str, description: str, query: Json, *, no_value: str, **kwargs: Any
) -> Panel:
    """Traces that were searched for, each with a link to its run."""
    run = {
        "title": "Open the run",
        "url": f"/d/otel-storage-run{source.suffix}?var-run=${{__value.raw}}"
        "&${metrics:queryparam}&${traces:queryparam}&${job:queryparam}&${pipeline:queryparam}",
    }
    return Panel(
        title=title,
        type="table",
        description=description,
        source=source,
        traces=query,
        no_value=no_value,
        defaults={"custom": TABLE_CELLS},
        options=TABLE_OPTIONS,
        overrides=[
            # Jaeger and Tempo both give such a column.
            by_pattern("/^trace ?id$/i", links=[run]),
        ],
        **kwargs,
    )


def by_name(name: str, **properties: Any) -> Json:
    """What is special about the field of that name; ``__`` in a property is a dot."""
    return _override({"id": "byName", "options": name}, properties)


def by_pattern(pattern: str, **properties: Any) -> Json:
    """What is special about fields whose name matches."""
    return _override({"id": "byRegexp", "options": pattern}, properties)


def _override(matcher: Json, properties: dict[str, Any]) -> Json:
    return {
        "matcher": matcher,
        "properties": [{"id": name.replace("__", "."), "value": value} for name, value in properties.items()],
    }


def steps_of(*steps: tuple[float | None, str]) -> Json:
    """Thresholds, as a property has them."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


COLORED = {"type": "color-background", "mode": "basic"}
"""A cell coloured by its thresholds."""

STATUS_OVERRIDES = [
    by_name(status, color={"mode": "fixed", "fixedColor": color}) for status, color in STATUS_COLORS.items()
]
STATUS_MAPPINGS = [
    {
        "type": "value",
        "options": {
            status: {"color": color, "index": index} for index, (status, color) in enumerate(STATUS_COLORS.items())
        },
    }
]


def laid_out(lines: Sequence[Sequence[Panel]]) -> list[Json]:
    """The panels, line by line: as wide as they say, one beside the other."""
    return list(_places(lines))


def _places(lines: Sequence[Sequence[Panel]]) -> Iterator[Json]:
    numbers = itertools.count(1)
    y = 0
    for line in lines:
        x = 0
        for panel in line:
            yield panel.as_json(next(numbers), x, y)
            x += panel.width
        y += max(panel.height for panel in line)


def data_source_variable(name: str, label: str, kind: str, uid: str) -> Json:
    """Lets people choose a data source of that kind."""
    return {
        "name": name,
        "label": label,
        "type": "datasource",
        "query": kind,
        "current": {"text": uid, "value": uid},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A variable whose values Prometheus knows."""

    name: str
    label: str
    query: str
    description: str
    regex: str = ""
    multi: bool = True
    hidden: bool = False

    def as_json(self) -> Json:
        """As the dashboard has it."""
        every: Json = {
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }
        one: Json = {"includeAll": False, "multi": False}
        return {
            "name": self.name,
            "label": self.label,
            "description": self.description,
            "type": "query",
            "datasource": METRICS,
            "query": {"query": self.query, "refId": "StandardVariableQuery"},
            "regex": self.regex,
            "hide": 2 if self.hidden else 0,
            # When the time range changes: a pipeline may be new.
            "refresh": 2,
            "sort": 1,
            "options": [],
            "skipUrlSync": False,
        } | (every if self.multi else one)


def text_variable(name: str, label: str, value: str, description: str) -> Json:
    """A field to type in."""
    chosen = {"text": value, "value": value, "selected": True}
    return {
        "name": name,
        "label": label,
        "description": description,
        "type": "textbox",
        "query": value,
        "current": chosen,
        "options": [chosen],
        "hide": 0,
        "skipUrlSync": False,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """A dashboard."""

    uid: str
    file: str
    title: str
    description: str
    tags: Sequence[str]
    variables: Sequence[Variable | Json]
    lines: Sequence[Sequence[Panel]]
    time_from: str
    link_tags: Sequence[str]
    """The dashboards that it links to."""

    @property
    def panels(self) -> list[Panel]:
        """Its panels, in their order."""
        return [panel for line in self.lines for panel in line]

    def as_json(self) -> Json:
        """As Grafana loads it."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": list(self.tags),
            "schemaVersion": SCHEMA_VERSION,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": self.time_from, "to": "now"},
            "timezone": "browser",
            "links": [
                {
                    "type": "dashboards",
                    "title": tag,
                    "tooltip": "The other dashboards, for the same pipelines and times",
                    "tags": [tag],
                    "asDropdown": False,
                    "includeVars": True,
                    "keepTime": True,
                    "targetBlank": False,
                    "icon": "external link",
                }
                for tag in self.link_tags
            ],
            "templating": {
                "list": [v.as_json() if isinstance(v, Variable) else v for v in self.variables],
            },
            "annotations": {"list": []},
            "panels": laid_out(self.lines),
        }


METRICS_VARIABLE = data_source_variable("metrics", "Metrics", "prometheus", PROMETHEUS_UID)


def traces_variable(source: TraceSource) -> Json:
    """Lets people choose the trace store."""
    return data_source_variable("traces", "Traces", source.type, source.uid)


JOB_VARIABLE = Variable(
    name="job",
    label="Installation",
    query="label_values(otel_storage_runs_total, job)",
    description="The job whose metrics these are: one database each.",
)
