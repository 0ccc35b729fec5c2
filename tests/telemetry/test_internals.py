"""What is used of OpenTelemetry without a public name: each test says what an upgrade changed."""

from __future__ import annotations

import ast
import inspect
import logging
import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

import otel_storage
from otel_storage.telemetry import recording
from otel_storage.telemetry.otlp import internals
from otel_storage.telemetry.otlp.opening import CLASSES
from otel_storage.telemetry.otlp.settings import GRPC, METRICS, TRACES, Signal
from tests.telemetry.test_exporter import make_spans

HOME = "mend otel_storage/telemetry/otlp/internals.py"


@pytest.fixture(params=[TRACES, METRICS], ids=["traces", "metrics"])
def signal(request: pytest.FixtureRequest) -> Signal:
    """Each of the signals."""
    found: Signal = request.param
    return found


def grpc_class(signal: Signal) -> Any:
    """OpenTelemetry's exporter of the signal over gRPC."""
    module, _, name = CLASSES[signal, GRPC].rpartition(".")
    return getattr(pytest.importorskip(module), name)


@pytest.fixture
def refusal() -> list[logging.LogRecord]:
    """What the gRPC exporter logs of a port where nobody listens."""
    exporter = grpc_class(TRACES)(endpoint="http://127.0.0.1:9", timeout=0.5)
    internals.quieten(exporter)
    with internals.listening() as complaints:
        assert exporter.export(make_spans("a")) is SpanExportResult.FAILURE
    exporter.shutdown()
    return complaints


def test_suppression() -> None:
    """The keys are there, and OpenTelemetry's own instrumentation asks for them."""
    for name in ("_SUPPRESS_INSTRUMENTATION_KEY", "_SUPPRESS_HTTP_INSTRUMENTATION_KEY"):
        assert hasattr(otel_context, name), f"opentelemetry.context has no {name} any more; {HOME}"
    utils = pytest.importorskip("opentelemetry.instrumentation.utils")
    with internals.without_instrumentation():
        still = [
            name for name in ("is_instrumentation_enabled", "is_http_instrumentation_enabled") if getattr(utils, name)()
        ]
    assert still == [], f"OpenTelemetry's instrumentation heeds other keys than ours: {still}; {HOME}"
    assert utils.is_http_instrumentation_enabled()


def test_exporters_log_under_the_name_of_a_module_of_their_class(refusal: list[logging.LogRecord]) -> None:
    """The reason of a failure is heard."""
    assert refusal, f"the gRPC exporter logs its failure under another name, or not at all; {HOME}"


def test_http_exporters_log_under_the_name_of_a_module_of_their_class() -> None:
    """Also over HTTP, where the session says more; what is not heard would be in the log at every attempt."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter: Any = OTLPSpanExporter(endpoint="http://127.0.0.1:9", timeout=0.5)
    internals.quieten(exporter)
    exporter.shutdown()  # it says so, and makes no request
    with internals.listening() as complaints:
        exporter.export(make_spans("a"))
    assert complaints, f"the HTTP exporter logs its failure under another name, or not at all; {HOME}"


def test_the_grpc_exporter_logs_the_status(refusal: list[logging.LogRecord]) -> None:
    """The status is an argument of the log record: the only place that has it."""
    grpc = pytest.importorskip("grpc")
    codes = [arg for record in refusal for arg in record.args or () if isinstance(arg, grpc.StatusCode)]
    assert codes, f"the gRPC exporter's log record has no StatusCode among its arguments any more; {HOME}"


def test_the_grpc_exporters_logger_drops_duplicates() -> None:
    """Our filter must come before the exporter's, which would hide the second failure of a kind from us."""
    exporter = grpc_class(TRACES)(endpoint="http://127.0.0.1:9", timeout=0.5)
    internals.quieten(exporter)
    heard = []
    for _ in range(2):
        with internals.listening() as complaints:
            exporter.export(make_spans("a"))
        heard.append(bool(complaints))
    exporter.shutdown()
    assert heard == [True, True], f"the same failure is heard once only; {HOME}"


def test_grpc_retries_can_be_switched_off(signal: Signal) -> None:
    """The argument is there in the versions that have it, for both signals."""
    cls = grpc_class(signal)
    has_argument = "retryable_error_codes" in inspect.signature(cls).parameters
    assert bool(internals.without_grpc_retries(cls)) is has_argument
    release = tuple(map(int, version("opentelemetry-exporter-otlp-proto-grpc").split(".")[:2]))
    # 1.35 has none, 1.45 has it.
    assert has_argument or release < (1, 45), f"the gRPC exporter of {signal.name} has no retryable_error_codes; {HOME}"


def test_the_grpc_exporter_reads_a_timeout_that_it_does_not_need(
    signal: Signal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why the environment is changed meanwhile; where this fails, ``environment_as_read`` may have less to do."""
    variable = f"OTEL_EXPORTER_OTLP_{signal.name}_TIMEOUT"
    monkeypatch.setenv(variable, "ten")
    cls = grpc_class(signal)
    with pytest.raises(ValueError, match="could not convert"):
        cls(endpoint="http://127.0.0.1:9", timeout=1, insecure=True)
    with internals.environment_as_read(signal.name):
        cls(endpoint="http://127.0.0.1:9", timeout=1, insecure=True).shutdown()
    assert os.environ[variable] == "ten"


def test_headers_are_logged_with_their_values(caplog: pytest.LogCaptureFixture) -> None:
    """Under this name, which is listened to while an exporter is made."""
    from opentelemetry.util.re import parse_env_headers

    parse_env_headers("s3cret\x01", liberal=True)
    loggers = {record.name for record in caplog.records if "s3cret" in record.getMessage()}
    assert loggers == {internals.HEADERS_LOGGER}, f"headers that cannot be read are logged under {loggers}; {HOME}"


def test_what_our_spans_replace_is_public() -> None:
    """The classes that ours extend have the methods that ours replace, and no other abstract ones."""
    replaced = {name for name in vars(recording._TaskSpan) if not name.startswith("_")}
    public = {name for name in dir(trace.Span) if not name.startswith("_")}
    assert replaced == public, "opentelemetry.trace.Span has other methods: mend _TaskSpan in telemetry/recording.py"
    for cls in (ReadableSpan, Event):
        assert isinstance(inspect.getattr_static(cls, "dropped_attributes"), property), (
            f"{cls.__name__}.dropped_attributes is no property any more: mend telemetry/spans/building.py"
        )


def test_nothing_else_is_private() -> None:
    """No other module of the package imports a private name of OpenTelemetry's, but the names for pipelines."""
    package = Path(next(iter(otel_storage.__path__)))
    private = [
        f"{path.relative_to(package)}: {node.module}.{alias.name}"
        for path in sorted(package.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("opentelemetry")
        for alias in node.names
        if any(re.match("_[^_]", name) for name in f"{node.module}.{alias.name}".split("."))
    ]
    homes = {each.partition(":")[0] for each in private}
    assert homes == {"telemetry/otlp/internals.py", "telemetry/semconv.py"}, private
