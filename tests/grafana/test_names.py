"""Every metric, label and attribute that collector/ and grafana/ name exists in the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from grafana import alerts, build
from grafana.queries import PromQl, queries, trace_queries
from otel_storage.metrics import families
from otel_storage.metrics.exposition import prometheus_label, prometheus_name
from otel_storage.metrics.families import Family, Kind
from otel_storage.results.kinds import PIPELINE_EXECUTION, TASK_RESULT
from otel_storage.telemetry.spans import attributes

SAMPLES = {
    Kind.COUNTER: ("_total",),
    Kind.HISTOGRAM: ("_bucket", "_count", "_sum"),
    Kind.UP_DOWN: ("",),
    Kind.GAUGE: ("",),
}
"""How the names of a family's series end."""


def series_of(family: Family) -> Iterator[str]:
    """The names of a family's series in Prometheus."""
    return (prometheus_name(family) + ending for ending in SAMPLES[family.kind])


METRICS = {name: family for family in families.FAMILIES for name in series_of(family)}
OURS = {prometheus_label(name) for name in families.attribute_names()}
SCRAPED = {"job", "instance"}
"""The labels that Prometheus adds."""
FOREIGN = {
    "ALERTS": {"alertname", "alertstate", *alerts.LABELS, "severity", "job"},
    "otelcol_exporter_queue_size": {"exporter", "data_type", *SCRAPED},
    "otelcol_exporter_queue_capacity": {"exporter", "data_type", *SCRAPED},
    "otelcol_exporter_send_failed_spans_total": {"exporter", *SCRAPED},
    "otelcol_receiver_accepted_spans(_total)?": {"receiver", *SCRAPED},
    "otelcol_receiver_refused_spans(_total)?": {"receiver", *SCRAPED},
    "otelcol_exporter_sent_spans(_total)?": {"exporter", *SCRAPED},
    "otelcol_exporter_send_failed_spans(_total)?": {"exporter", *SCRAPED},
}
"""Metrics of Prometheus' and the collector's own, and their labels."""

ATTRIBUTES = {value for name, value in vars(attributes).items() if name.isupper() and isinstance(value, str)}
ATTRIBUTES |= {
    f"{name}.{part}"
    for name in (attributes.PIPELINE_OBJECT, attributes.TASK_OBJECT)
    for part in ("app_label", "model_name", "pk", "json")
}

KEYWORDS = {"and", "or", "unless", "by", "on", "without", "ignoring", "group_left", "group_right", "offset", "bool"}

MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*")')


class Parsed:
    """The names in a query of PromQL."""

    def __init__(self, expr: str) -> None:
        self.metrics: dict[str, set[str]] = {}
        """Each metric, and the labels that are asked of it."""
        self.labels: set[str] = set()
        """The labels that the expression groups by or joins on."""
        self._selectors(expr)

    def _selectors(self, expr: str) -> None:
        def selector(match: re.Match[str]) -> str:
            if match[2] is None:
                return " "
            matchers = {label: value[1:-1] for label, value in MATCHER.findall(match[2])}
            name = match[1] or matchers.pop("__name__")
            self.metrics.setdefault(name, set()).update(matchers)
            return " 0 "

        # A string, or a selector: what either holds is no expression.
        rest = re.sub(r'"(?:[^"\\]|\\.)*"|(\w*)\{((?:[^{}"]|"(?:[^"\\]|\\.)*")*)\}', selector, expr)
        rest = re.sub(r"\[[^\]]*\]|\boffset \w+", " ", rest)

        def grouping(match: re.Match[str]) -> str:
            self.labels |= {label for label in re.split(r"[,\s]+", match[1]) if label}
            return " "

        rest = re.sub(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)", grouping, rest)
        for name in re.findall(r"\b([a-zA-Z_]\w*)\b(?!\s*\()", rest):
            if name not in KEYWORDS:
                self.metrics.setdefault(name, set())


def unknown(expr: str) -> set[str]:
    """The names in a query that do not exist, or do not belong to the metric that they are asked of."""
    parsed = Parsed(expr)
    found = set()
    grouped = SCRAPED | {"le"}
    for name, labels in parsed.metrics.items():
        if name in METRICS:
            own = {prometheus_label(attribute) for attribute in METRICS[name].attributes} | SCRAPED
            own |= {prometheus_label(families.OVERFLOW)}
            own |= {"le"} if name.endswith("_bucket") else set()
        elif name in FOREIGN:
            own = FOREIGN[name]
        else:
            found.add(name)
            continue
        found |= labels - own
        grouped |= own
    return found | (parsed.labels - grouped)


@pytest.mark.parametrize("query", queries(), ids=lambda query: query.where)
def test_queries_name_what_exists(query: PromQl) -> None:
    """A query asks for metrics that there are, and for labels that they have."""
    assert Parsed(query.expr).metrics or query.expr.startswith("label_replace(")
    assert unknown(query.expr) == set()


@pytest.mark.parametrize(
    ("expr", "names"),
    [
        ("sum(nosuch_total)", {"nosuch_total"}),
        ("max by (job, nosuch) (otel_storage_runs_total)", {"nosuch"}),
        ('otel_storage_runs_total{cicd_pipeline_task_name="a"} > 0', {"cicd_pipeline_task_name"}),
        ('otel_storage_runs_total{otel_storage_status=~"a}|b", nosuch!="{c"}[5m:1m]', {"nosuch"}),
        ("otel_storage_runs > on (job) group_left (nosuch) vector(1)", {"otel_storage_runs", "nosuch"}),
        ("max by (le) (otel_storage_run_oldest_age_seconds) offset 5m unless nosuch", {"nosuch"}),
        ('rate({__name__=~"otelcol_nosuch"}[5m])', {"otelcol_nosuch"}),
        ('sum by (job, le) (cicd_pipeline_run_duration_seconds_bucket{le="1"}) and time() > 1', set()),
    ],
)
def test_unknown_names_are_seen(expr: str, names: set[str]) -> None:
    """The check finds what it is for, in every part of a query."""
    assert unknown(expr) == names


def test_values_of_labels_exist() -> None:
    """A status, a state of a run or of the outbox that a query asks for is one that there is."""
    statuses = {"DONE", "RUNTIME_ERROR", "VALIDATION_ERROR", "CONFIG_ERROR", "CANCELLED"}
    known = {
        "otel_storage_status": statuses,
        "error_type": statuses,
        "cicd_pipeline_run_state": {families.PENDING, families.EXECUTING},
        "cicd_pipeline_result": {"success", "failure", "timeout", "cancellation"},
        "otel_storage_outbox_state": {"due", "retrying", "leased", "held", "open", "refused", "expired"},
        "otel_storage_sender_watching": {"true", "false"},
    }
    asked: dict[str, set[str]] = {}
    for query in queries():
        for label, value in MATCHER.findall(query.expr):
            if label in known:
                asked.setdefault(label, set()).update(value.strip('"').split("|"))

    assert asked.keys() >= {"otel_storage_status", "cicd_pipeline_run_state", "otel_storage_outbox_state"}
    assert all(values <= known[label] for label, values in asked.items())


def test_searches_for_traces_name_attributes_that_exist() -> None:
    """Searches of Jaeger and of Tempo ask for attributes that spans have, and for records' kinds that there are."""
    texts = {query.where: query.text for query in trace_queries()}
    jaeger = [name for text in texts.values() for name in re.findall(r"([\w.]+)=\"", text)]
    tempo = [name for text in texts.values() for name in re.findall(r"\bspan\.([\w.]+)", text)]
    kinds = {kind for text in texts.values() for kind in re.findall(r'record\.kind ?= ?"(\w+)"', text)}

    assert set(jaeger) - {"error"} <= ATTRIBUTES
    assert {"otel_storage.record.kind", "cicd.pipeline.name"} <= set(jaeger) & set(tempo)
    assert set(tempo) <= ATTRIBUTES
    assert kinds == {PIPELINE_EXECUTION, TASK_RESULT}


NAME = re.compile(r"(?<![\w./-])(?:otel_storage|cicd)(?:[._](?:\w|\.(?=\w))+)")


def files() -> list[Path]:
    """Every file of collector/ and grafana/ that is not Python."""
    found = [path for folder in ("collector", "grafana") for path in (build.ROOT / folder).rglob("*")]
    return [path for path in found if path.is_file() and path.suffix in (".json", ".md", ".yaml", ".yml")]


KNOWN = {*METRICS, *OURS, *ATTRIBUTES, *(family.name for family in families.FAMILIES), *families.attribute_names()}


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(build.ROOT)))
def test_files_name_what_exists(path: Path) -> None:
    """Whatever in a file looks like a name of ours is one: of a metric, of its series, of a label, of an attribute."""
    text = path.read_text()
    # As URLs and regular expressions have them.
    text = re.sub(r"%[0-9A-F]{2}", " ", text).replace("[.]", ".").replace("\\\\.", ".")

    assert set(NAME.findall(text)) <= KNOWN


def test_files_are_looked_at() -> None:
    """Both folders are, and a name that is none is found."""
    names = {path.name for path in files()}

    assert {"config.yaml", "rules.yml", "pipelines.json", "otel-storage.yaml", "RUNBOOK.md"} <= names
    assert set(NAME.findall('{"cicd.pipeline.nosuch"} otel_storage_nosuch_total, otel_storage.x.')) - KNOWN == {
        "cicd.pipeline.nosuch",
        "otel_storage_nosuch_total",
        "otel_storage.x",
    }
