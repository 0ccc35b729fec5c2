"""The programs of ``collector/`` with the configurations that are shipped there, on ports of a test's own.

The collector and Jaeger take every address from the environment, and the very files. Prometheus and Alertmanager take
none: of their files a copy is made in which addresses are others, see :func:`replaced`.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.programs import program
from tests.stack.processes import Program, fetch, free_port

SHIPPED = Path(__file__).parents[2] / "collector"
OURS = "otel_storage"
"""The scope of the spans that our records became."""


def replaced(text: str, addresses: Mapping[str, str]) -> str:
    """The text with other addresses, each of which is in it.

    Raises:
        AssertionError: One is not: the file was changed, and the test proves nothing of it.
    """
    for shipped, own in addresses.items():
        assert shipped in text, shipped
        text = text.replace(shipped, own)
    return text


class Jaeger(Program):
    """A Jaeger whose traces outlive it."""

    def __init__(self, folder: Path) -> None:
        self.otlp, self.query, health, grpc, api, metrics = (free_port() for _ in range(6))
        super().__init__(
            [program("JAEGER"), "--config", str(SHIPPED / "jaeger" / "config.yaml")],
            folder / "jaeger",
            f"http://127.0.0.1:{health}/status",
            {
                "JAEGER_HTTP_ADDRESS": f"127.0.0.1:{self.otlp}",
                "JAEGER_GRPC_ADDRESS": f"127.0.0.1:{grpc}",
                "JAEGER_QUERY_ADDRESS": f"127.0.0.1:{self.query}",
                "JAEGER_API_ADDRESS": f"127.0.0.1:{api}",
                "JAEGER_HEALTH_ADDRESS": f"127.0.0.1:{health}",
                "JAEGER_METRICS_PORT": str(metrics),
                "JAEGER_DATA_DIR": str(folder / "jaeger" / "data"),
            },
        )

    @property
    def otlp_endpoint(self) -> str:
        """Where it takes spans."""
        return f"http://127.0.0.1:{self.otlp}"

    def trace(self, trace_id: str) -> JaegerTrace | None:
        """The trace, as the query API tells it; None where it has none of that id."""
        status, body = fetch(f"http://127.0.0.1:{self.query}/api/traces/{trace_id}")
        if status == 404:
            return None
        assert status == 200, body
        [trace] = json.loads(body)["data"]
        return JaegerTrace(trace)


class JaegerTrace:
    """A trace as Jaeger's query API tells it."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.spans: list[dict[str, Any]] = data["spans"]

    @property
    def tree(self) -> dict[str, str]:
        """The parent of each span of ours, by its id; empty for the root's. A span that is there twice is an error."""
        tree = {}
        for span in self.spans:
            if tags(span).get("otel.scope.name") == OURS:
                assert span["spanID"] not in tree, f"twice: {span['spanID']}"
                parents = [r["spanID"] for r in span["references"] if r["refType"] == "CHILD_OF"]
                tree[span["spanID"]] = parents[0] if parents else ""
        return tree

    @property
    def roots(self) -> list[dict[str, Any]]:
        """The spans that have no parent, or one that is not there."""
        known = {span["spanID"] for span in self.spans}
        return [s for s in self.spans if not any(r["spanID"] in known for r in s["references"])]

    @property
    def warnings(self) -> list[str]:
        """What Jaeger finds wrong with it."""
        found = [self.data.get("warnings"), *(span.get("warnings") for span in self.spans)]
        return [warning for warnings in found for warning in warnings or []]

    def span(self, span_id: str) -> dict[str, Any]:
        """The span of that id."""
        [span] = [span for span in self.spans if span["spanID"] == span_id]
        return span


def tags(thing: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a span or of what else has tags in Jaeger's answers."""
    return {tag["key"]: tag["value"] for tag in thing.get("tags", thing.get("fields", []))}


class Collector(Program):
    """A collector whose queue outlives it.

    Args:
        jaeger: Where traces go; nowhere that exists if None.
        prometheus: The address of a Prometheus that metrics are written to.
        settings: Further variables of its configuration.
    """

    def __init__(self, folder: Path, jaeger: str | None = None, prometheus: str | None = None, **settings: str) -> None:
        self.http, self.grpc, health, self.metrics = (free_port() for _ in range(4))
        super().__init__(
            [program("COLLECTOR"), "--config", str(SHIPPED / "config.yaml")],
            folder / "collector",
            f"http://127.0.0.1:{health}/",
            {
                "COLLECTOR_HTTP_ADDRESS": f"127.0.0.1:{self.http}",
                "COLLECTOR_GRPC_ADDRESS": f"127.0.0.1:{self.grpc}",
                "COLLECTOR_HEALTH_ADDRESS": f"127.0.0.1:{health}",
                "COLLECTOR_METRICS_PORT": str(self.metrics),
                "COLLECTOR_QUEUE_DIR": str(folder / "collector" / "queue"),
                "JAEGER_OTLP_ENDPOINT": jaeger or f"http://127.0.0.1:{free_port()}",
                "PROMETHEUS_WRITE_URL": f"{prometheus or f'http://127.0.0.1:{free_port()}'}/api/v1/write",
                **settings,
            },
        )

    @property
    def endpoint(self) -> str:
        """Where it takes OTLP/HTTP."""
        return f"http://127.0.0.1:{self.http}"

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric of its own over all series that have the labels; 0 where there is none."""
        status, body = fetch(f"http://127.0.0.1:{self.metrics}/metrics")
        assert status == 200, body
        wanted = {f'{label}="{value}"' for label, value in labels.items()}
        found = re.findall(rf"^{name}(?:\{{([^}}]*)\}})? (\S+)$", body.decode(), re.MULTILINE)
        return sum(float(value) for series, value in found if wanted <= set(series.split(",")))


class Alertmanager(Program):
    """An Alertmanager that tells a receiver of the test's own."""

    def __init__(self, folder: Path, webhook: str) -> None:
        self.port = free_port()
        (folder / "alertmanager").mkdir(parents=True)
        config = folder / "alertmanager" / "alertmanager.yml"
        shipped = (SHIPPED / "alertmanager" / "alertmanager.yml").read_text()
        config.write_text(replaced(shipped, {"http://host.docker.internal:5001/": webhook}))
        super().__init__(
            [
                program("ALERTMANAGER"),
                f"--config.file={config}",
                f"--storage.path={folder / 'alertmanager' / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                # Alone.
                "--cluster.listen-address=",
            ],
            folder / "alertmanager",
            f"http://127.0.0.1:{self.port}/-/ready",
        )

    @property
    def address(self) -> str:
        """Where Prometheus finds it."""
        return f"127.0.0.1:{self.port}"


class Prometheus(Program):
    """A Prometheus with the rules that are shipped.

    Args:
        otel_storage: The address that `otel-storage metrics` serves; none that exists if None.
        collector: The address of a collector's own metrics.
        alertmanager: The address of an Alertmanager.
        rules: Texts of the rules that are replaced.
    """

    def __init__(
        self,
        folder: Path,
        *,
        otel_storage: str | None = None,
        collector: str | None = None,
        alertmanager: str | None = None,
        rules: Mapping[str, str] | None = None,
        traces_url: str = "http://jaeger.example.com",
    ) -> None:
        self.port = free_port()
        place = folder / "prometheus"
        place.mkdir(parents=True)
        config = replaced(
            (SHIPPED / "prometheus" / "prometheus.yml").read_text(),
            {
                "host.docker.internal:9464": otel_storage or f"127.0.0.1:{free_port()}",
                "collector:8888": collector or f"127.0.0.1:{free_port()}",
                "alertmanager:9093": alertmanager or f"127.0.0.1:{free_port()}",
                "localhost:9090": f"127.0.0.1:{self.port}",
            },
        )
        (place / "prometheus.yml").write_text(config)
        (place / "rules.yml").write_text(replaced((SHIPPED / "prometheus" / "rules.yml").read_text(), rules or {}))
        shutil.copy(SHIPPED / "prometheus" / "collector.yml", place)
        super().__init__(
            [
                program("PROMETHEUS"),
                f"--config.file={place / 'prometheus.yml'}",
                f"--storage.tsdb.path={place / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--web.enable-remote-write-receiver",
                "--enable-feature=expand-external-labels,exemplar-storage",
            ],
            place,
            f"http://127.0.0.1:{self.port}/-/ready",
            {"OTEL_STORAGE_TRACES_URL": traces_url},
        )

    @property
    def address(self) -> str:
        """Its own."""
        return f"http://127.0.0.1:{self.port}"

    def query(self, expression: str) -> list[dict[str, str]]:
        """The labels of what the expression gives now."""
        status, body = fetch(f"{self.address}/api/v1/query?{urlencode({'query': expression})}")
        assert status == 200, body
        return [each["metric"] for each in json.loads(body)["data"]["result"]]

    def exemplars(self, expression: str) -> list[dict[str, str]]:
        """The labels of the exemplars of the last minutes, of the series that the expression names."""
        now = time.time()
        query = urlencode({"query": expression, "start": now - 600, "end": now + 60})
        status, body = fetch(f"{self.address}/api/v1/query_exemplars?{query}")
        assert status == 200, body
        return [exemplar["labels"] for each in json.loads(body)["data"] for exemplar in each["exemplars"]]
