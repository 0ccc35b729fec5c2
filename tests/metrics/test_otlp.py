"""Metrics pushed over OTLP, decoded by real receivers."""

from __future__ import annotations

import logging
import os
import time

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from otel_storage.metrics import reading
from otel_storage.metrics.families import FAMILIES, Kind
from otel_storage.metrics.otlp import Pusher
from otel_storage.ports.totals import BOUNDS
from otel_storage.results.status import PipelineTaskStatus as Status
from otel_storage.telemetry.spans import ids
from tests.metrics.conftest import Site
from tests.metrics.receivers import GrpcReceiver, MetricsReceiver, attributes, metrics

CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE


@pytest.fixture(autouse=True)
def keep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each push reads."""
    monkeypatch.setattr(reading, "KEPT", 0.0)


def test_what_arrives(site: Site, receiver: MetricsReceiver) -> None:
    """Each metric with its unit, kind, attributes, since when it is counted, and the trace of its last run."""
    began = site.clock()
    site.reader().read()
    site.build()
    site.reader().read()
    last = site.run(Status.RUNTIME_ERROR)
    pusher = Pusher(site.reader())

    assert pusher.push()
    pusher.close()

    [request] = receiver.requests
    assert receiver.paths == ["/v1/metrics"]
    found = metrics(request)
    known = {family.name: family for family in FAMILIES}
    # Absent are the times that never were.
    assert set(known) - set(found) == {"otel_storage.delivery.last_success", "otel_storage.delivery.last_failure"}
    kinds = {Kind.COUNTER: "sum", Kind.UP_DOWN: "sum", Kind.GAUGE: "gauge", Kind.HISTOGRAM: "histogram"}
    for name, metric in found.items():
        family = known[name]
        assert (metric.unit, metric.description) == (family.unit, family.description)
        assert metric.WhichOneof("data") == kinds[family.kind]
        data = getattr(metric, metric.WhichOneof("data"))
        if family.kind is not Kind.GAUGE:
            assert data.aggregation_temporality == CUMULATIVE
        if family.kind in (Kind.COUNTER, Kind.UP_DOWN):
            assert data.is_monotonic is (family.kind is Kind.COUNTER)
        for point in data.data_points:
            assert set(attributes(point.attributes)) <= set(family.attributes)
            assert abs(point.time_unix_nano / 1e9 - time.time()) < 600
            is_counted = family.kind in (Kind.COUNTER, Kind.HISTOGRAM)
            assert point.start_time_unix_nano == (round(began.timestamp() * 1e9) if is_counted else 0)
    [resource] = request.resource_metrics
    assert attributes(resource.resource.attributes) == {"service.name": "otel-storage"}

    [failures] = [
        point
        for point in found["otel_storage.runs"].sum.data_points
        if attributes(point.attributes)["otel_storage.status"] == "RUNTIME_ERROR"
    ]
    [exemplar] = failures.exemplars
    assert failures.as_int == 1
    assert exemplar.trace_id.hex() == last.get_run_id().replace("-", "")
    assert int.from_bytes(exemplar.span_id, "big") == ids.span_id("PipelineExecution", last.get_id())
    assert exemplar.time_unix_nano == round(site.clock().timestamp() * 1e6) * 1000

    [duration] = [
        point
        for point in found["cicd.pipeline.run.duration"].histogram.data_points
        if attributes(point.attributes)
        == {
            "cicd.pipeline.name": "shop.Orders",
            "cicd.pipeline.run.state": "executing",
            "cicd.pipeline.result": "failure",
            "error.type": "RUNTIME_ERROR",
        }
    ]
    assert (duration.count, duration.sum, list(duration.explicit_bounds)) == (1, 2.0, list(BOUNDS))
    assert list(duration.bucket_counts) == [0] * 4 + [1] + [0] * 14
    assert not duration.HasField("min")
    watching = {
        attributes(point.attributes)["otel_storage.sender.watching"]
        for point in found["otel_storage.senders"].sum.data_points
    }
    assert watching == {True, False}


def test_grpc(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics are pushed over gRPC if the protocol variable says so."""
    site.run()
    with GrpcReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"http://127.0.0.1:{receiver.port}")
        pusher = Pusher(site.reader())
        assert pusher.endpoint == f"http://127.0.0.1:{receiver.port} (gRPC)"
        assert pusher.push()
        pusher.close()

    [request] = receiver.requests
    assert "otel_storage.runs" in metrics(request)


def test_variables(site: Site, receiver: MetricsReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint of metrics comes first, as it is; headers, compression and resource are as the variables say."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{receiver.endpoint}/otlp?tenant=s3cret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=abc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    monkeypatch.setitem(os.environb, b"OTEL_RESOURCE_ATTRIBUTES", b"deployment.environment.name=test,team=\xff")
    pusher = Pusher(site.reader())

    assert pusher.push()

    assert receiver.paths == ["/otlp?tenant=s3cret"]
    assert "s3cret" not in pusher.endpoint
    headers = {name.lower(): value for name, value in receiver.headers[0].items()}
    assert (headers["x-token"], headers["content-encoding"]) == ("abc", "gzip")
    [resource] = receiver.requests[0].resource_metrics
    assert attributes(resource.resource.attributes) == {
        "service.name": "shop",
        "deployment.environment.name": "test",
        "team": "?",
    }


def test_an_outage(site: Site, receiver: MetricsReceiver, caplog: pytest.LogCaptureFixture) -> None:
    """A failure is logged once per cause, and once when it is over; no value is lost, because values are totals."""
    caplog.set_level(logging.INFO)
    pusher = Pusher(site.reader())
    receiver.status = 503
    site.run()
    for _ in range(3):
        assert not pusher.push()
    receiver.status = 302
    assert not pusher.push()
    receiver.status = 200
    receiver.rejected = 7
    assert not pusher.push()
    receiver.rejected = 0
    receiver.requests.clear()

    assert pusher.push()

    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 4
    assert all(
        message.startswith(f"metrics cannot be pushed to {receiver.endpoint}/v1/metrics: ") for message in messages[:3]
    )
    assert "503" in messages[0]
    assert "302" in messages[1]
    assert "7" in messages[2]
    assert "too many series" in messages[2]
    assert messages[3] == f"metrics are pushed to {receiver.endpoint}/v1/metrics"
    done = metrics(receiver.requests[0])["otel_storage.runs"].sum.data_points
    assert sum(point.as_int for point in done) == 1


def test_nobody_listens(site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A push that nobody takes fails, without its credentials in the log."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:hunter2@127.0.0.1:9")
    pusher = Pusher(site.reader())

    assert not pusher.push()

    assert "hunter2" not in caplog.text + pusher.endpoint
    assert "metrics cannot be pushed to http://***@127.0.0.1:9/v1/metrics" in caplog.text


def test_a_database_that_fails(
    site: Site, receiver: MetricsReceiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is pushed that was not read."""
    pusher = Pusher(site.reader())
    with monkeypatch.context() as patch:
        patch.setattr(site.records.totals, "count", lambda **_: False)
        assert not pusher.push()
    assert receiver.requests == []
    assert "metrics cannot be read: finished records are still being counted" in caplog.text
    assert pusher.push()


def test_zero_arrives_first(site: Site, receiver: MetricsReceiver) -> None:
    """A series is 0 until ten seconds after that was accepted, however long nobody took it."""
    pusher = Pusher(site.reader(as_shown=True))

    def failures() -> int:
        points = metrics(receiver.requests[-1])["otel_storage.runs"].sum.data_points
        return sum(point.as_int for point in points)

    site.run(Status.RUNTIME_ERROR)
    receiver.status = 503
    assert not pusher.push()
    site.clock.advance(60)
    receiver.status = 200
    assert pusher.push()
    assert failures() == 0
    site.clock.advance(9.9)
    assert pusher.push()
    assert failures() == 0
    site.clock.advance(0.1)
    assert pusher.push()
    assert failures() == 1


def test_a_push_is_not_traced(site: Site, receiver: MetricsReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instrumented HTTP clients are told to leave it alone."""
    import requests
    from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, get_value

    seen: list[object] = []
    send = requests.Session.send

    def watched(self: requests.Session, *args: object, **kwargs: object) -> requests.Response:
        seen.append(get_value(_SUPPRESS_INSTRUMENTATION_KEY))
        return send(self, *args, **kwargs)  # type: ignore[arg-type]  # passed on as they are

    monkeypatch.setattr(requests.Session, "send", watched)

    assert Pusher(site.reader()).push()

    assert seen == [True]
