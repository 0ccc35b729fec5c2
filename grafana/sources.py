"""What Grafana is provisioned with besides rules: data sources, the folder of dashboards, where alerts go.

``$NAME`` is an environment variable of Grafana's, which knows no defaults: ``collector/compose.yaml`` sets them. A
dollar of another meaning is doubled.
"""

from __future__ import annotations

from typing import Any

from grafana.alerts import PIPELINE, PROMETHEUS_UID, TASK
from grafana.panels import JAEGER, TEMPO

ENVIRONMENT = {
    "OTEL_STORAGE_PROMETHEUS_URL": "http://prometheus:9090",
    "OTEL_STORAGE_JAEGER_URL": "http://jaeger:16686",
    "OTEL_STORAGE_TEMPO_URL": "http://tempo:3200",
    "OTEL_STORAGE_ALERTMANAGER_URL": "http://alertmanager:9093",
}
"""The variables, and what they are in the shipped compose file. Each must be set."""

FOLDER = "otel-storage"
DASHBOARDS_PATH = "/var/lib/grafana/dashboards"


def _traces_to_metrics() -> dict[str, Any]:
    """From a span to the figures of its pipeline and task: ``$__tags`` are the tags below that it has."""
    by = f"job, {PIPELINE}, {TASK}"
    rate = "$$__rate_interval"
    return {
        "datasourceUid": PROMETHEUS_UID,
        "spanStartTimeShift": "-6h",
        "spanEndTimeShift": "1h",
        "tags": [
            {"key": "cicd.pipeline.name", "value": PIPELINE},
            {"key": "cicd.pipeline.task.name", "value": TASK},
        ],
        "queries": [
            {
                "name": "Task: usual duration (p95)",
                "query": f"histogram_quantile(0.95, sum by ({by}, le) (max by ({by}, le) "
                f"(rate(otel_storage_task_result_duration_seconds_bucket{{$$__tags}}[{rate}]))))",
            },
            {
                "name": "Task: results by status",
                "query": f"max by ({by}, otel_storage_status) "
                f"(increase(otel_storage_task_results_total{{$$__tags}}[{rate}]))",
            },
            {
                "name": "Pipeline: usual duration (p95)",
                "query": f"histogram_quantile(0.95, sum by (job, {PIPELINE}, le) (max by (job, {PIPELINE}, "
                "cicd_pipeline_result, error_type, le) (rate(cicd_pipeline_run_duration_seconds_bucket{"
                f'{PIPELINE}="$${{__span.tags["cicd.pipeline.name"]}}", cicd_pipeline_run_state="executing"'
                f"}}[{rate}]))))",
            },
            {
                "name": "Pipeline: runs by status",
                "query": f"max by (job, {PIPELINE}, otel_storage_status) (increase(otel_storage_runs_total{{"
                f'{PIPELINE}="$${{__span.tags["cicd.pipeline.name"]}}"}}[{rate}]))',
            },
        ],
    }


def data_sources() -> dict[str, Any]:
    """The metrics and both kinds of trace store; each links to the others."""
    return {
        "apiVersion": 1,
        "datasources": [
            {
                "name": "otel-storage metrics",
                "uid": PROMETHEUS_UID,
                "type": "prometheus",
                "access": "proxy",
                "orgId": 1,
                "url": "$OTEL_STORAGE_PROMETHEUS_URL",
                # A Grafana that has a default of its own would not start.
                "isDefault": False,
                "editable": False,
                "jsonData": {
                    "httpMethod": "POST",
                    "prometheusType": "Prometheus",
                    # What Prometheus scrapes by: shorter ranges would hold no two samples.
                    "timeInterval": "10s",
                    "exemplarTraceIdDestinations": [
                        {"name": "trace_id", "datasourceUid": JAEGER.uid, "urlDisplayLabel": "Trace in Jaeger"},
                        {"name": "trace_id", "datasourceUid": TEMPO.uid, "urlDisplayLabel": "Trace in Tempo"},
                    ],
                },
            },
            {
                "name": "otel-storage traces (Jaeger)",
                "uid": JAEGER.uid,
                "type": "jaeger",
                "access": "proxy",
                "orgId": 1,
                "url": "$OTEL_STORAGE_JAEGER_URL",
                "editable": False,
                "jsonData": {"tracesToMetrics": _traces_to_metrics(), "nodeGraph": {"enabled": True}},
            },
            {
                "name": "otel-storage traces (Tempo)",
                "uid": TEMPO.uid,
                "type": "tempo",
                "access": "proxy",
                "orgId": 1,
                "url": "$OTEL_STORAGE_TEMPO_URL",
                "editable": False,
                "jsonData": {"tracesToMetrics": _traces_to_metrics(), "nodeGraph": {"enabled": True}},
            },
        ],
    }


def dashboards() -> dict[str, Any]:
    """Where Grafana finds the dashboards."""
    return {
        "apiVersion": 1,
        "providers": [
            {
                "name": "otel-storage",
                "orgId": 1,
                "folder": FOLDER,
                "folderUid": "otel-storage",
                "type": "file",
                "disableDeletion": False,
                "allowUiUpdates": False,
                "updateIntervalSeconds": 30,
                "options": {"path": DASHBOARDS_PATH, "foldersFromFilesStructure": False},
            }
        ],
    }


def contact_points() -> dict[str, Any]:
    """Where Grafana's own alerts go: to the Alertmanager that Prometheus' go to, with its silences and receivers."""
    return {
        "apiVersion": 1,
        "contactPoints": [
            {
                "orgId": 1,
                "name": "otel-storage",
                "receivers": [
                    {
                        "uid": "otel-storage-alertmanager",
                        "type": "prometheus-alertmanager",
                        "settings": {"url": "$OTEL_STORAGE_ALERTMANAGER_URL"},
                        "disableResolveMessage": False,
                    }
                ],
            }
        ],
    }


def policies() -> dict[str, Any]:
    """One notification for what fails in one pipeline; what is only information is told of once a day.

    They take the place of all policies that a Grafana has.
    """
    return {
        "apiVersion": 1,
        "policies": [
            {
                "orgId": 1,
                "receiver": "otel-storage",
                "group_by": ["grafana_folder", "alertname", "job", "pipeline"],
                "group_wait": "10s",
                "group_interval": "1m",
                "repeat_interval": "4h",
                "routes": [
                    {
                        "receiver": "otel-storage",
                        "object_matchers": [["severity", "=", "info"]],
                        "group_by": ["grafana_folder", "alertname", "job", "pipeline"],
                        "repeat_interval": "24h",
                    }
                ],
            }
        ],
    }
