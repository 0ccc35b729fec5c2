"""The variables of OTLP, through what opens the exporters of both signals: each is read alike."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent import futures
from contextlib import closing
from datetime import timedelta
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_storage.composite import OtelPipelineStorage
from otel_storage.metrics.otlp import Pusher
from otel_storage.metrics.reading import Reader
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.telemetry.otlp.acknowledgement import Verdict
from otel_storage.telemetry.otlp.exporter import open_exporter
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from otel_storage.testing.receiver import OtlpReceiver, Slow
from tests.metrics.receivers import MetricsReceiver
from tests.telemetry.test_exporter import GRPC, HTTP, has_grpc_retry_option, make_spans

SIGNALS = ("TRACES", "METRICS")
PATHS = {"TRACES": "/v1/traces", "METRICS": "/v1/metrics"}
GARBAGE = "x" * 500


class Empty:
    """A reader of metrics that has none: what is pushed arrives as a request all the same."""

    def read(self) -> list[Any]:
        """Nothing."""
        return []

    def shown(self) -> None:
        """Nothing was."""


class Opened:
    """What the variables open for a signal: where it goes, and what became of an export."""

    def __init__(self, signal: str) -> None:
        self._traces = open_exporter(None) if signal == "TRACES" else None
        self._metrics = None if signal == "TRACES" else Pusher(cast("Reader", Empty()))

    @property
    def endpoint(self) -> str:
        """Where it goes."""
        if self._traces is not None:
            return self._traces.description
        assert self._metrics is not None
        return self._metrics.endpoint

    def export(self) -> bool:
        """Export something; whether it was accepted."""
        if self._traces is not None:
            return self._traces.export(make_spans("a")).verdict is Verdict.ACCEPTED
        assert self._metrics is not None
        return self._metrics.push()

    def close(self) -> None:
        """Shut it down."""
        if self._traces is not None:
            self._traces.shutdown()
        if self._metrics is not None:
            self._metrics.close()


class Endpoint:
    """A receiver of OTLP/HTTP for a signal; keeps the headers of each request."""

    def __init__(self, signal: str) -> None:
        self.receiver: Any = OtlpReceiver() if signal == "TRACES" else MetricsReceiver()

    @property
    def headers(self) -> list[dict[str, str]]:
        """Of each request, with names in lower case."""
        receiver = self.receiver
        found = receiver.headers if isinstance(receiver, MetricsReceiver) else [r.headers for r in receiver.requests]
        return [{name.lower(): value for name, value in headers.items()} for headers in found]


@pytest.fixture(params=SIGNALS)
def signal(request: pytest.FixtureRequest) -> str:
    """Each of the signals."""
    return str(request.param)


@pytest.fixture
def endpoint(signal: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A receiver that the common variable names."""
    made = Endpoint(signal)
    with made.receiver as started:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", started.endpoint)
        yield made


def own(signal: str, name: str) -> str:
    """The signal's own variable."""
    return f"OTEL_EXPORTER_OTLP_{signal}_{name}"


def common(_signal: str, name: str) -> str:
    """The common variable."""
    return f"OTEL_EXPORTER_OTLP_{name}"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was warned of."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# Values that cannot be used


@pytest.mark.parametrize("which", [own, common])
@pytest.mark.parametrize(
    ("name", "value", "mend"),
    [
        *(("TIMEOUT", value, "seconds above 0") for value in ("ten", "0", "-1", "nan", "inf", GARBAGE)),
        *(("PROTOCOL", value, "http/protobuf or grpc") for value in ("http/json", "http", GARBAGE)),
        *(("COMPRESSION", value, "none, gzip or deflate") for value in ("zip", GARBAGE)),
    ],
)
def test_a_value_that_cannot_be_used(
    signal: str,
    which: Any,
    name: str,
    value: str,
    mend: str,
    endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The default is used; the variable, its value and the mend are logged, once however often it is read."""
    variable = which(signal, name)
    monkeypatch.setenv(variable, value)

    for _ in range(2):
        with closing(Opened(signal)) as opened:
            assert opened.export()
            assert opened.endpoint == endpoint.receiver.endpoint + PATHS[signal]

    [said] = warnings(caplog)
    assert said.startswith(f"{variable} is {value[:80]!r}")
    assert mend in said
    assert len(said) < 300
    assert os.environ[variable] == value
    assert all("content-encoding" not in headers for headers in endpoint.headers)


def test_credentials_are_not_warned_of(
    signal: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An address that stands in the wrong variable, and a header that cannot be read, are shown without secrets."""
    monkeypatch.setenv(own(signal, "PROTOCOL"), "http://user:hunter2@collector:4318/?key=s3cret")
    monkeypatch.setenv(own(signal, "HEADERS"), "x-tenant=blue,Bearer t0pS3cret\x01")

    with closing(Opened(signal)) as opened:
        assert opened.export()

    protocol, header = warnings(caplog)
    assert own(signal, "PROTOCOL") in protocol
    assert header.startswith(f"{own(signal, 'HEADERS')}: header 2 of 2 cannot be used")
    assert not [secret for secret in ("hunter2", "s3cret", "t0pS3cret") if secret in caplog.text]
    assert endpoint.headers[0]["x-tenant"] == "blue"


# Values that can


@pytest.mark.parametrize("which", [own, common])
@pytest.mark.parametrize("value", ["GZIP", " gzip ", "Gzip"])
def test_names_in_any_case(
    signal: str, which: Any, value: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """A name is a name, however it is written."""
    monkeypatch.setenv(which(signal, "PROTOCOL"), "HTTP/protobuf")
    monkeypatch.setenv(which(signal, "COMPRESSION"), value)

    with closing(Opened(signal)) as opened:
        assert opened.export()

    assert endpoint.headers[0]["content-encoding"] == "gzip"
    assert warnings(caplog) == []


@pytest.mark.parametrize("which", [own, common])
@pytest.mark.parametrize("value", ["grpc", "GRPC", " Grpc "])
def test_grpc_in_any_case(signal: str, which: Any, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol too."""
    pytest.importorskip("grpc")
    monkeypatch.setenv(which(signal, "PROTOCOL"), value)

    with closing(Opened(signal)) as opened:
        assert opened.endpoint == "http://localhost:4317 (gRPC)"


def test_the_signals_own_comes_first(signal: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two variables the signal's own counts; its endpoint is taken as it is."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(own(signal, "ENDPOINT"), f"{endpoint.receiver.endpoint}{PATHS[signal]}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv(own(signal, "PROTOCOL"), "http/protobuf")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate")
    monkeypatch.setenv(own(signal, "COMPRESSION"), "gzip")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=common")
    monkeypatch.setenv(own(signal, "HEADERS"), "x-tenant=own")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0")
    monkeypatch.setenv(own(signal, "TIMEOUT"), "5")

    with closing(Opened(signal)) as opened:
        assert opened.export()

    [headers] = endpoint.headers
    assert (headers["content-encoding"], headers["x-tenant"]) == ("gzip", "own")


@pytest.mark.parametrize("blank", ["", " "])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_empty_is_unset(signal: str, blank: str, protocol: str, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """An empty variable of the signal leaves the common one in force, and is no value that cannot be used."""
    pytest.importorskip("grpc")
    names = ("ENDPOINT", "PROTOCOL", "COMPRESSION", "TIMEOUT", "INSECURE", "HEADERS", "CERTIFICATE", "CLIENT_KEY")
    for name in names:
        monkeypatch.setenv(own(signal, name), blank)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:1234")

    with closing(Opened(signal)) as opened:
        path = PATHS[signal] if protocol == "http/protobuf" else " (gRPC)"
        assert opened.endpoint == f"http://collector:1234{path}"

    assert warnings(caplog) == []
    assert os.environ[own(signal, "TIMEOUT")] == blank


@pytest.mark.parametrize("blank", ["", " "])
def test_empty_headers_leave_the_common_ones(
    signal: str, blank: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where OpenTelemetry's exporter reads the variables itself."""
    monkeypatch.setenv(own(signal, "HEADERS"), blank)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")

    with closing(Opened(signal)) as opened:
        assert opened.export()

    assert endpoint.headers[0]["x-tenant"] == "blue"
    assert os.environ[own(signal, "HEADERS")] == blank


@pytest.mark.parametrize("which", [own, common])
@pytest.mark.parametrize(
    ("name", "value", "is_warned_of"),
    [
        ("TIMEOUT", "ten", True),
        ("COMPRESSION", "zip", True),
        ("COMPRESSION", "none", False),
        ("COMPRESSION", "deflate", False),
        ("INSECURE", "maybe", True),
    ],
)
def test_values_that_the_grpc_exporter_chokes_on(
    signal: str,
    which: Any,
    name: str,
    value: str,
    is_warned_of: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """OpenTelemetry's exporter raises for some of them, or takes them for another; ours are read alike everywhere."""
    pytest.importorskip("grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv(which(signal, name), value)

    with closing(Opened(signal)) as opened:
        assert opened.endpoint == "http://localhost:4317 (gRPC)"

    assert [said.startswith(f"{which(signal, name)} is {value!r}") for said in warnings(caplog)] == [
        True
    ] * is_warned_of
    assert os.environ[which(signal, name)] == value


# Timeouts


@pytest.mark.parametrize("which", [own, common])
def test_milliseconds(signal: str, which: Any, endpoint: Endpoint, monkeypatch: Any, caplog: Any) -> None:
    """A timeout that other SDKs would take for milliseconds is warned of, and used."""
    monkeypatch.setenv(which(signal, "TIMEOUT"), "10000")

    with closing(Opened(signal)) as opened:
        assert opened.export()

    [said] = warnings(caplog)
    assert said.startswith(f"{which(signal, 'TIMEOUT')} is 10000 seconds, which is probably meant as milliseconds")
    assert endpoint.headers


@pytest.mark.parametrize("place", ["variable", "argument", "pair"])
def test_a_timeout_longer_than_the_lease(
    place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The timeout is cut to 0.8 of the lease: after the lease another process sends the same spans."""
    with OtlpReceiver() as receiver:
        receiver.misbehave(Slow(30))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        if place == "variable":
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "100")
        exporter: Any = (HTTP, {"timeout": 100}) if place == "pair" else None
        timeout = 100 if place == "argument" else None
        opened = open_exporter(exporter, timeout=timeout, lease=timedelta(seconds=0.25))
        assert opened.export(make_spans("a")).reason.startswith("ReadTimeout: ")
        opened.shutdown()

    [said] = warnings(caplog)
    assert said.startswith(
        "an export may take 100 seconds, too long for the storage's lease of 0.25: 0.2 seconds are used"
    )


def test_a_timeout_within_the_lease(caplog: pytest.LogCaptureFixture) -> None:
    """The default fits the default lease."""
    open_exporter(None, lease=timedelta(seconds=60)).shutdown()
    assert warnings(caplog) == []


def test_the_storage_passes_its_lease(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A sender gives up before others may take its references over, and so every span is sent once a lease at most."""
    with OtlpReceiver() as receiver:
        receiver.misbehave(Slow(30))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "100")
        with closing(OtelPipelineStorage(url=sqlite_url, delivery="external", lease=0.5)) as storage:
            storage.build_pipeline_execution(Pipeline(Task()), "run", Runner(), RecordingReporter(), {})
            for record in storage.get_task_results("run"):
                record.report_status_change(RecordingReporter(), PipelineTaskStatus.DONE)
            assert "ReadTimeout" in storage.delivery.deliver_due().error

    assert "lease of 0.5: 0.4 seconds are used" in caplog.text


# gRPC


@pytest.fixture
def busy_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """An OTLP/gRPC server that the variables name and that is never available; gives the requests of both signals."""
    grpc = pytest.importorskip("grpc")
    requests: list[Any] = []

    def unavailable(request: Any, context: Any) -> None:
        requests.append(request)
        context.abort(grpc.StatusCode.UNAVAILABLE, "busy")

    handlers = [
        grpc.method_handlers_generic_handler(
            f"opentelemetry.proto.collector.{signal}.v1.{signal.title()}Service",
            {"Export": grpc.unary_unary_rpc_method_handler(unavailable)},
        )
        for signal in ("trace", "metrics")
    ]
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    yield requests
    server.stop(None).wait()


def test_grpc_exports_are_one_attempt(signal: str, busy_collector: list[Any]) -> None:
    """Trying again is for us, of either signal."""
    if not has_grpc_retry_option():
        pytest.skip("this version of the gRPC exporter cannot be kept from trying again")
    with closing(Opened(signal)) as opened:
        assert not opened.export()

    assert len(busy_collector) == 1


# Endpoints


@pytest.mark.parametrize("which", [own, common])
@pytest.mark.parametrize(
    ("value", "mend"),
    [
        ("collector:4318", "set it to http://collector:4318"),
        ("collector", "set it to http://collector"),
        ("//collector:4318", "set it to http://collector:4318"),
        ("user:hunter2@collector:4318", "set it to http://***@collector:4318"),
        ("grpc://collector:4317", "takes http://HOST:PORT or https://HOST:PORT"),
        ("http://", "takes http://HOST:PORT or https://HOST:PORT"),
    ],
)
def test_an_endpoint_that_is_no_address(
    signal: str, which: Any, value: str, mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing could be sent to it over HTTP: the error names the variable and the mend, and no password."""
    monkeypatch.setenv(which(signal, "ENDPOINT"), value)

    with pytest.raises(ConfigurationError) as raised:
        Opened(signal)

    assert str(raised.value).startswith(f"{which(signal, 'ENDPOINT')} is ")
    assert str(raised.value).endswith(mend)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("value", ["collector:4317", "http://collector:4317", "https://collector:4317"])
def test_an_endpoint_of_grpc(signal: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC takes a host and a port without a scheme."""
    pytest.importorskip("grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", value)

    with closing(Opened(signal)) as opened:
        assert opened.endpoint == f"{value} (gRPC)"


@pytest.mark.parametrize("delivery", ["thread", "external"])
def test_a_wrong_endpoint_loses_nothing(
    delivery: Any, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The storage says so when it starts, and once; runs go on, and their spans wait until it is mended."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")
    with closing(OtelPipelineStorage(url=sqlite_url, delivery=delivery)) as storage:
        [at_start] = warnings(caplog)
        storage.build_pipeline_execution(Pipeline(Task()), "run", Runner(), RecordingReporter(), {})
        for record in storage.get_task_results("run"):
            record.report_status_change(RecordingReporter(), PipelineTaskStatus.DONE)
        assert not storage.flush(0.5)
        assert storage.records.outbox.status().waiting == 2

    assert warnings(caplog) == [at_start]
    assert at_start.startswith("spans wait in the outbox, nothing is lost: ")
    assert "set it to http://collector:4318" in at_start
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        with closing(OtelPipelineStorage(url=sqlite_url, delivery="external")) as storage:
            assert storage.delivery.deliver_due().error == ""
        assert len(receiver.spans) == 4


@pytest.mark.parametrize(
    ("exporter", "variables", "is_wrong"),
    [
        (None, {}, True),
        (HTTP, {}, True),
        ((HTTP, {"endpoint": "http://elsewhere:4318/v1/traces"}), {}, False),
        ((GRPC, {}), {}, False),
        (None, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
        (None, {"OTEL_TRACES_EXPORTER": "console"}, False),
        (None, {"OTEL_SDK_DISABLED": "true"}, False),
        (InMemorySpanExporter(), {}, False),
    ],
)
def test_whom_a_wrong_endpoint_concerns(
    exporter: Any, variables: dict[str, str], is_wrong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a storage that sends there over HTTP."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with closing(OtelPipelineStorage(url="sqlite://", exporter=exporter, delivery="external")) as storage:
        assert (storage.export_problem is not None) is is_wrong
