"""Pushes metrics over OTLP with OpenTelemetry's own exporters, configured by its standard variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import Exemplar as SdkExemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as SdkHistogram
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_storage.metrics.families import Kind
from otel_storage.metrics.points import Attributes, Exemplar, FamilyPoints, Point, sorted_points
from otel_storage.metrics.troubles import Troubles
from otel_storage.ports.totals import BOUNDS, Histogram
from otel_storage.privacy.lines import in_utf8
from otel_storage.privacy.secrets import explain, without_secrets
from otel_storage.telemetry.otlp.acknowledgement import Verdict
from otel_storage.telemetry.otlp.internals import listening, without_instrumentation
from otel_storage.telemetry.otlp.opening import open_otlp
from otel_storage.telemetry.otlp.settings import METRICS, Settings

if TYPE_CHECKING:
    from otel_storage.metrics.reading import Reader

SERVICE_NAME = "otel-storage"
"""The default service name of the metrics, unless ``OTEL_SERVICE_NAME`` is set; Prometheus uses it as the job label."""

_SCOPE = "otel_storage.metrics"


class Pusher:
    """Pushes the metrics to the endpoint that ``OTEL_EXPORTER_OTLP_*`` names.

    Args:
        reader: Gives the metrics.

    Raises:
        ConfigurationError: the endpoint is no address, or the exporter cannot be made.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._resource = _resource()
        opened = open_otlp(METRICS, Settings(METRICS).protocol, {}, expected=MetricExporter)
        self._exporter, self._session, self._secrets = opened.exporter, opened.session, opened.secrets
        self.endpoint = opened.description
        """The endpoint, without credentials."""
        self._reading = Troubles("metrics cannot be read", "metrics are read again")
        self._pushing = Troubles(
            f"metrics cannot be pushed to {self.endpoint}", f"metrics are pushed to {self.endpoint}"
        )

    def push(self) -> bool:
        """Push the current metrics; a failure is logged once per cause, and the next push tries again."""
        families: Sequence[FamilyPoints] = ()
        with self._reading.told() as told:
            families = self._reader.read()
        if told:
            return False
        reason = self._export(metrics_data(families, self._resource, datetime.now(UTC)))
        if reason:
            self._pushing.say(reason)
            return False
        self._pushing.end()
        with self._reading.told():
            self._reader.shown()
        return True

    def close(self) -> None:
        """Shut the exporter down."""
        self._exporter.shutdown()

    def _export(self, data: MetricsData) -> str:
        """Export once; returns why the export failed, empty if it succeeded."""
        if self._session is not None:
            self._session.begin()
        result: object = None
        with without_instrumentation(), listening() as complaints:
            try:
                result = self._exporter.export(data)
            except Exception as error:  # noqa: BLE001 - the caller logs the reason, and the next push tries again
                complaint = explain(error, self._secrets)
            else:
                said = [without_secrets(record.getMessage(), self._secrets) for record in complaints]
                complaint = next(filter(None, reversed(said)), "the exporter failed and gave no reason")
        if self._session is not None and self._session.outcome is not None:
            outcome = self._session.outcome
            return "" if outcome.verdict is Verdict.ACCEPTED else outcome.reason
        return "" if result is MetricExportResult.SUCCESS else complaint


def metrics_data(families: Sequence[FamilyPoints], resource: Resource, at: datetime) -> MetricsData:
    """The metrics as OpenTelemetry's exporters take them: cumulative, with the traces of the last runs as exemplars."""
    now = _nanoseconds(at)
    metrics = [
        Metric(one.family.name, one.family.description, one.family.unit, _data(one, now))
        for one in families
        if one.points
    ]
    scope = ScopeMetrics(InstrumentationScope(_SCOPE), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _data(one: FamilyPoints, now: int) -> Sum | Gauge | SdkHistogram:
    cumulative = AggregationTemporality.CUMULATIVE
    if one.family.kind is Kind.HISTOGRAM:
        return SdkHistogram([_histogram(*item, now) for item in sorted_points(one.points)], cumulative)
    points = [_number(*item, now) for item in sorted_points(one.points)]
    if one.family.kind is Kind.GAUGE:
        return Gauge(points)
    return Sum(points, cumulative, is_monotonic=one.family.kind is Kind.COUNTER)


def _number(attributes: Attributes, point: Point, now: int) -> NumberDataPoint:
    value: Any = point.value
    return NumberDataPoint(dict(attributes), _start(point), now, value, _exemplars(point.exemplar))


def _histogram(attributes: Attributes, point: Point, now: int) -> HistogramDataPoint:
    histogram = point.value
    assert isinstance(histogram, Histogram)  # noqa: S101 - the kind of the family decides the type of its values
    unknown: Any = None
    return HistogramDataPoint(
        attributes=dict(attributes),
        start_time_unix_nano=_start(point),
        time_unix_nano=now,
        count=histogram.count,
        sum=histogram.total / 1_000_000,
        bucket_counts=histogram.counts,
        explicit_bounds=BOUNDS,
        min=unknown,
        max=unknown,
        exemplars=_exemplars(point.exemplar),
    )


def _start(point: Point) -> int:
    return 0 if point.start is None else _nanoseconds(point.start)


def _exemplars(exemplar: Exemplar | None) -> list[SdkExemplar]:
    if exemplar is None:
        return []
    return [SdkExemplar({}, exemplar.value, _nanoseconds(exemplar.at), exemplar.span_id, exemplar.trace_id)]


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000


def _resource() -> Resource:
    """The service's name and ``OTEL_RESOURCE_ATTRIBUTES``.

    No process id: each process would become a series of its own.
    """
    from opentelemetry.sdk.resources import OTELResourceDetector

    found: Mapping[str, Any] = OTELResourceDetector().detect().attributes
    texts = {in_utf8(key): in_utf8(value) for key, value in found.items() if isinstance(value, str)}
    return Resource({"service.name": SERVICE_NAME, **texts})
