"""Dashboards and provisioning have the fields that the pinned Grafana knows, and no others.

Dashboards are held against the schema that Grafana publishes (``schema/README.md``). What it does not publish - queries
of Prometheus and Jaeger, transformations, provisioning, rules - is held against the documented fields, below.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from grafana import build
from grafana.panels import GRAFANA

SCHEMA = json.loads((Path(__file__).parent / "schema" / f"grafana-{GRAFANA}.json").read_text())
DASHBOARDS = sorted((build.ROOT / "grafana/dashboards").glob("*.json"))
PROVISIONING = build.ROOT / "grafana/provisioning"

Json = dict[str, Any]

NO_OPTIONS = {"traces"}
"""Panels whose options Grafana does not publish, and of which we set none."""

TEXT, FLAG, NUMBER = {"type": "string", "minLength": 1}, {"type": "boolean"}, {"type": "integer", "minimum": 1}


def fields(required: Json, optional: Json | None = None) -> Json:
    """A schema of an object that has these fields and no others."""
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


def reference(kind: str, uid: str) -> Json:
    """A schema of a data source of a variable of ours."""
    return fields({"type": {"const": kind}, "uid": {"const": uid}})


def list_of(items: Json) -> Json:
    """A schema of a list that is not empty."""
    return {"type": "array", "items": items, "minItems": 1}


QUERIES = {
    "prometheus": fields(
        {
            "refId": {"pattern": "^[A-Z]$"},
            "datasource": reference("prometheus", "${metrics}"),
            "editorMode": {"const": "code"},
            "expr": TEXT,
            "format": {"enum": ["time_series", "table", "heatmap"]},
            "instant": FLAG,
            "range": FLAG,
            "exemplar": FLAG,
        },
        {"legendFormat": TEXT},
    ),
    "jaeger": {
        "oneOf": [
            fields({"refId": TEXT, "datasource": reference("jaeger", "${traces}"), "query": {"const": "$trace"}}),
            fields(
                {
                    "refId": TEXT,
                    "datasource": reference("jaeger", "${traces}"),
                    "queryType": {"const": "search"},
                    "service": TEXT,
                    "operation": {"type": "string"},
                    "tags": TEXT,
                    "limit": NUMBER,
                }
            ),
        ]
    },
    "tempo": {
        "allOf": [
            {"$ref": "#/definitions/tempo.query"},
            {"properties": {"queryType": {"const": "traceql"}, "datasource": reference("tempo", "${traces}")}},
        ]
    },
}

_REGEX_FILTER = fields(
    {"fieldName": TEXT, "config": fields({"id": {"const": "regex"}, "options": fields({"value": TEXT})})}
)
_BY_NAME = {"type": "object", "additionalProperties": {"type": ["string", "integer", "boolean"]}}
TRANSFORMATIONS = {
    "merge": fields({}),
    "organize": fields({"excludeByName": _BY_NAME, "indexByName": _BY_NAME, "renameByName": _BY_NAME}),
    "filterFieldsByName": fields({"include": fields({}, {"pattern": TEXT, "names": list_of(TEXT)})}),
    "filterByValue": fields(
        {"type": {"const": "include"}, "match": {"const": "all"}, "filters": list_of(_REGEX_FILTER)}
    ),
    "convertFieldType": fields(
        {
            "conversions": list_of(fields({"targetField": TEXT, "destinationType": {"enum": ["string", "time"]}})),
            "fields": fields({}),
        }
    ),
}

_TRACES_TO_METRICS = fields(
    {
        "datasourceUid": TEXT,
        "spanStartTimeShift": {"pattern": r"^-\d+[smh]$"},
        "spanEndTimeShift": {"pattern": r"^\d+[smh]$"},
        "tags": list_of(fields({"key": TEXT, "value": TEXT})),
        "queries": list_of(fields({"name": TEXT, "query": TEXT})),
    }
)
_TRACE_STORE = fields({"tracesToMetrics": _TRACES_TO_METRICS, "nodeGraph": fields({"enabled": FLAG})})
_PROMETHEUS = fields(
    {
        "httpMethod": {"const": "POST"},
        "prometheusType": {"const": "Prometheus"},
        "timeInterval": TEXT,
        "exemplarTraceIdDestinations": list_of(fields({"name": TEXT, "datasourceUid": TEXT, "urlDisplayLabel": TEXT})),
    }
)
_DURATION = {"type": "string", "pattern": r"^\d+[smhd]$"}
_EXPRESSION = fields(
    {
        "refId": TEXT,
        "datasourceUid": {"const": "__expr__"},
        "model": fields(
            {
                "refId": TEXT,
                "type": {"const": "threshold"},
                "datasource": reference("__expr__", "__expr__"),
                "expression": {"const": "A"},
                "conditions": list_of(
                    fields({"evaluator": fields({"type": {"const": "gt"}, "params": list_of({"type": "number"})})})
                ),
            }
        ),
    }
)
_RULE_QUERY = fields(
    {
        "refId": {"const": "A"},
        "relativeTimeRange": fields({"from": NUMBER, "to": {"const": 0}}),
        "datasourceUid": TEXT,
        "model": fields(
            {
                "refId": {"const": "A"},
                "datasource": fields({"type": {"const": "prometheus"}, "uid": TEXT}),
                "editorMode": {"const": "code"},
                "expr": TEXT,
                "instant": {"const": True},
                "range": {"const": False},
            }
        ),
    }
)
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_RULE = fields(
    {
        "uid": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,40}$"},
        "title": TEXT,
        "condition": {"const": "firing"},
        "data": {"type": "array", "items": [_RULE_QUERY, _EXPRESSION], "minItems": 2, "maxItems": 2},
        "noDataState": {"enum": ["OK", "NoData", "Alerting", "KeepLast"]},
        "execErrState": {"enum": ["OK", "Error", "Alerting", "KeepLast"]},
        "for": _DURATION,
        "labels": _TEXTS,
        "annotations": _TEXTS,
        "isPaused": FLAG,
    }
)
_ROUTE = {
    "receiver": TEXT,
    "group_by": list_of(TEXT),
    "object_matchers": list_of({"type": "array", "items": TEXT, "minItems": 3, "maxItems": 3}),
    "repeat_interval": _DURATION,
}


def provisioned(key: str, item: Json) -> Json:
    """A schema of a file of provisioning."""
    return fields({"apiVersion": {"const": 1}, key: list_of(item)})


FILES = {
    "datasources/otel-storage.yaml": provisioned(
        "datasources",
        {
            "oneOf": [
                fields(
                    {
                        "name": TEXT,
                        "uid": TEXT,
                        "type": {"const": kind},
                        "access": {"const": "proxy"},
                        "orgId": NUMBER,
                        "url": {"pattern": r"^\$OTEL_STORAGE_[A-Z]+_URL$"},
                        "editable": FLAG,
                        "jsonData": data,
                    },
                    {"isDefault": FLAG},
                )
                for kind, data in (("prometheus", _PROMETHEUS), ("jaeger", _TRACE_STORE), ("tempo", _TRACE_STORE))
            ]
        },
    ),
    "dashboards/otel-storage.yaml": provisioned(
        "providers",
        fields(
            {
                "name": TEXT,
                "orgId": NUMBER,
                "folder": TEXT,
                "folderUid": TEXT,
                "type": {"const": "file"},
                "disableDeletion": FLAG,
                "allowUiUpdates": FLAG,
                "updateIntervalSeconds": NUMBER,
                "options": fields({"path": TEXT, "foldersFromFilesStructure": FLAG}),
            }
        ),
    ),
    "alerting/rules.yaml": provisioned(
        "groups",
        fields(
            {
                "orgId": NUMBER,
                "name": TEXT,
                "folder": TEXT,
                # Grafana evaluates every 10 s at most.
                "interval": {"pattern": "^[0-9]*0s$"},
                "rules": list_of(_RULE),
            }
        ),
    ),
    "alerting/contact-points.yaml": provisioned(
        "contactPoints",
        fields(
            {
                "orgId": NUMBER,
                "name": TEXT,
                "receivers": list_of(
                    fields(
                        {
                            "uid": TEXT,
                            "type": {"const": "prometheus-alertmanager"},
                            "settings": fields({"url": TEXT}),
                            "disableResolveMessage": FLAG,
                        }
                    )
                ),
            }
        ),
    ),
    "alerting/policies.yaml": provisioned(
        "policies",
        fields(
            {
                "orgId": NUMBER,
                "receiver": TEXT,
                "group_by": list_of(TEXT),
                "group_wait": _DURATION,
                "group_interval": _DURATION,
                "repeat_interval": _DURATION,
                "routes": list_of(fields(_ROUTE)),
            }
        ),
    ),
}
"""What each file of provisioning may hold."""


@functools.cache
def published(name: str) -> Any:
    """What checks an object against a part of the published schema."""
    return jsonschema.Draft7Validator({**SCHEMA, "$ref": f"#/definitions/{name}"})


def ours(schema: Json) -> Any:
    """What checks an object against a schema of this file, which may refer to the published one."""
    return jsonschema.Draft7Validator({**schema, "definitions": SCHEMA["definitions"]})


def errors_of(validator: Any, value: Any, where: str) -> Iterator[str]:
    """What is wrong with a value."""
    for error in validator.iter_errors(value):
        yield f"{where}: {'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"


def errors(dashboard: Json) -> list[str]:
    """What is wrong with a dashboard."""
    found = list(errors_of(published("Dashboard"), dashboard, "dashboard"))
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            found += errors_of_panel(panel)
    return found


def errors_of_panel(panel: Json) -> Iterator[str]:
    """What is wrong with a panel: its options, queries, transformations and overrides."""
    kind, title = panel["type"], panel["title"]
    if "options" in panel:
        yield from errors_of(published(f"{kind}.options"), panel["options"], title)
    elif kind not in NO_OPTIONS:
        yield f"{title}: no options"
    config = panel["fieldConfig"]
    custom = config["defaults"].get("custom")
    if custom is not None:
        yield from errors_of(published(f"{kind}.custom"), custom, title)
    for target in panel["targets"]:
        yield from errors_of(ours(QUERIES[panel["datasource"]["type"]]), target, title)
    for transformation in panel.get("transformations", []):
        yield from errors_of(ours(TRANSFORMATIONS[transformation["id"]]), transformation["options"], title)
    for override in config["overrides"]:
        for one in override["properties"]:
            # As if the property were the panel's own: custom.width is a field of its custom fields.
            name, _, part = one["id"].partition(".")
            if part:
                known = SCHEMA["definitions"][f"{kind}.custom"]["properties"]
                if part in known:
                    yield from errors_of(ours(known[part]), one["value"], title)
                else:
                    yield f"{title}: no such property: {one['id']}"
                continue
            whole = {**panel, "fieldConfig": {"defaults": {name: one["value"]}, "overrides": []}}
            yield from errors_of(published("Dashboard"), {"schemaVersion": 1, "panels": [whole]}, title)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_dashboards_keep_to_the_schema(path: Path) -> None:
    """Every field of a dashboard is one that the pinned Grafana declares, of its type."""
    assert errors(json.loads(path.read_text())) == []


def test_the_compose_file_starts_the_version_of_the_schema() -> None:
    """The schema is that of the Grafana that is shipped."""
    compose = (build.ROOT / "collector/compose.yaml").read_text()

    assert re.findall(r"grafana/grafana(?:-oss)?:([0-9.]+)", compose) == [GRAFANA]


def _first(dashboard: Json, kind: str) -> Json:
    panel: Json = next(panel for panel in dashboard["panels"] if panel["type"] == kind)
    return panel


def _set(value: Any, *path: str | int) -> Callable[[Json], None]:
    """Sets a field, deep in an object."""

    def change(thing: Any) -> None:
        for key in path[:-1]:
            thing = thing[key]
        thing[path[-1]] = value

    return change


BREAKS: list[tuple[str, Callable[[Json], None]]] = [
    ("", _set("x", "nosuch")),
    ("", _set("24", "schemaVersion")),
    ("", _set("yes", "editable")),
    ("", _set({"from": 1, "to": "now"}, "time")),
    ("", _set(["otel-storage"], "links")),
    ("", _set("nosuch", "templating", "list", 0, "type")),
    ("", _set(1, "templating", "list", 0, "nosuch")),
    ("stat", _set("s", "units")),
    ("stat", _set("wide", "gridPos", "w")),
    ("stat", _set("rainbow", "options", "colorMode")),
    ("stat", _set(True, "options", "nosuch")),
    ("stat", _set("up", "fieldConfig", "defaults", "decimals")),
    ("stat", _set("s", "fieldConfig", "defaults", "units")),
    ("stat", _set("bad", "fieldConfig", "defaults", "thresholds", "mode")),
    ("stat", _set("sum(x)", "targets", 0, "query")),
    ("stat", _set("yes", "targets", 0, "instant")),
    ("timeseries", _set("dots", "fieldConfig", "defaults", "custom", "drawStyle")),
    ("timeseries", _set(1, "fieldConfig", "defaults", "custom", "nosuch")),
    ("timeseries", _set("x", "fieldConfig", "overrides", 0, "properties", 0, "value")),
    ("table", _set(1, "options", "sortBy")),
    ("table", _set("x", "transformations", 0, "options", "nosuch")),
    ("bargauge", _set(1, "options", "nosuch")),
]


@pytest.mark.parametrize(("kind", "change"), BREAKS, ids=range(len(BREAKS)))
def test_the_check_sees_what_is_wrong(kind: str, change: Callable[[Json], None]) -> None:
    """A field that does not exist, and one of a wrong type, are found, wherever they are."""
    name = "run.json" if kind == "bargauge" else "pipelines.json"
    dashboard = json.loads((build.ROOT / "grafana/dashboards" / name).read_text())
    assert errors(dashboard) == []

    change(_first(dashboard, kind) if kind else dashboard)

    assert errors(dashboard)


@pytest.mark.parametrize("source", ["jaeger", "tempo"])
def test_the_check_sees_what_is_wrong_with_a_search(source: str) -> None:
    """A field of another trace store's query is found."""
    name = "run.json" if source == "jaeger" else "run-tempo.json"
    dashboard = json.loads((build.ROOT / "grafana/dashboards" / name).read_text())
    other = {"jaeger": {"tableType": "spans"}, "tempo": {"service": "pipelines"}}[source]

    _first(dashboard, "traces")["targets"][0] |= other

    assert errors(dashboard)


def test_the_check_sees_what_is_wrong_with_an_override() -> None:
    """A property of an override that no panel has, and one that this kind of panel has not, are found."""
    dashboard = json.loads((build.ROOT / "grafana/dashboards/pipelines.json").read_text())
    broken = [{"id": "nosuch", "value": 1}, {"id": "custom.nosuch", "value": 1}, {"id": "decimals", "value": "two"}]
    for one in broken:
        changed = copy.deepcopy(dashboard)
        _first(changed, "table")["fieldConfig"]["overrides"][0]["properties"].append(one)
        assert errors(changed), one


@pytest.mark.parametrize("name", FILES)
def test_provisioning_has_the_documented_fields(name: str) -> None:
    """A file of provisioning has the fields of the documentation, and no others."""
    document = yaml.safe_load((PROVISIONING / name).read_text())

    assert list(errors_of(ours(FILES[name]), document, name)) == []
    document["nosuch"] = 1
    assert list(errors_of(ours(FILES[name]), document, name))


def test_every_file_of_provisioning_is_checked() -> None:
    """None is left out above."""
    there = {str(path.relative_to(PROVISIONING)) for path in PROVISIONING.rglob("*") if path.is_file()}

    assert there == set(FILES)
