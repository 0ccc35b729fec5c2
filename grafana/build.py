"""Writes the dashboards, the rules and Grafana's provisioning: ``python -m grafana.build``, with PyYAML.

``--check`` writes nothing, and exits 1 if a file is not what it would write.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from grafana import alerts, delivery, pipelines, run, sources
from grafana.panels import JAEGER, TEMPO, Dashboard

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Made by `python -m grafana.build` from grafana/{source}: change that. Limits are in grafana/limits.py.\n"


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as a block, and indents lists."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def as_yaml(document: dict[str, Any], source: str) -> str:
    """The document as a file."""
    return HEADER.format(source=source) + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=10_000)


def dashboards() -> list[Dashboard]:
    """All of them: those that show traces once for each kind of trace store."""
    return [
        *(pipelines.dashboard(source) for source in (JAEGER, TEMPO)),
        *(run.dashboard(source) for source in (JAEGER, TEMPO)),
        delivery.dashboard(),
    ]


def files() -> dict[str, str]:
    """What every generated file holds, by its path in the tree."""
    found = alerts.alerts()
    return {
        **{
            f"grafana/dashboards/{dashboard.file}": json.dumps(dashboard.as_json(), indent=2) + "\n"
            for dashboard in dashboards()
        },
        "grafana/provisioning/datasources/otel-storage.yaml": as_yaml(sources.data_sources(), "sources.py"),
        "grafana/provisioning/dashboards/otel-storage.yaml": as_yaml(sources.dashboards(), "sources.py"),
        "grafana/provisioning/alerting/contact-points.yaml": as_yaml(sources.contact_points(), "sources.py"),
        "grafana/provisioning/alerting/policies.yaml": as_yaml(sources.policies(), "sources.py"),
        # Of a collector that is not scraped the second file can be left out.
        "collector/prometheus/rules.yml": as_yaml(
            alerts.prometheus_rules([alert for alert in found if alert.group != alerts.COLLECTOR]), "alerts.py"
        ),
        "collector/prometheus/collector.yml": as_yaml(
            alerts.prometheus_rules([alert for alert in found if alert.group == alerts.COLLECTOR]), "alerts.py"
        ),
        "grafana/provisioning/alerting/rules.yaml": as_yaml(alerts.grafana_rules(found), "alerts.py"),
    }


def main() -> int:
    """Write what differs; or, with ``--check``, say what does."""
    check = sys.argv[1:] == ["--check"]
    differ = []
    for name, content in files().items():
        path = ROOT / name
        if path.is_file() and path.read_text() == content:
            continue
        differ.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    sys.stdout.writelines(f"{name}\n" for name in differ)
    return 1 if check and differ else 0


if __name__ == "__main__":
    sys.exit(main())
