"""Runs, through the real collector, in the real Jaeger: what its query API tells of them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.receiver import OtlpReceiver, ReceivedSpan, Respond
from tests.stack.processes import fetch, free_port, wait_until
from tests.stack.runs import check, otel_storage
from tests.stack.stack import Collector, Jaeger, tags

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def demo(module_folder: Path, collector: Collector) -> dict[str, Any]:
    """The demo's runs, of a time when there was no collector, delivered to it later."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    told: dict[str, Any] = json.loads(otel_storage("demo", "--json", folder=module_folder, endpoint=nowhere))
    assert told["spans"]["state"] == "waiting", told["spans"]
    delivered = json.loads(otel_storage("deliver", "--json", folder=module_folder, endpoint=collector.endpoint))
    assert delivered["sent"] == told["spans"]["count"]
    return told


@pytest.fixture(scope="module")
def storage(demo: dict[str, Any]) -> Iterator[SqlPipelineStorage]:
    """The records of the demo's runs."""
    with closing(SqlPipelineStorage(demo["storage"])) as storage:
        yield storage


def test_every_run_of_the_demo_is_a_trace(jaeger: Jaeger, demo: dict[str, Any], storage: SqlPipelineStorage) -> None:
    """Jaeger finds each run by its id: one root, the tree of the records, their statuses, and nothing to warn of."""
    found = [check(jaeger, storage, run["run_id"]) for run in demo["runs"]]

    assert {run["status"] for run in demo["runs"]} == {"DONE", "RUNTIME_ERROR", "CONFIG_ERROR"}
    assert sum(len(trace.spans) for trace in found) == demo["spans"]["count"]


def test_the_links_that_are_told_open_the_runs(jaeger: Jaeger, demo: dict[str, Any]) -> None:
    """The demo prints a link for each run, the last part of which is an id that Jaeger knows."""
    assert len(demo["links"]) == len(demo["runs"])
    for link in demo["links"]:
        assert jaeger.trace(link.rpartition("/trace/")[2]) is not None


def test_the_exception_is_told(jaeger: Jaeger, demo: dict[str, Any], storage: SqlPipelineStorage) -> None:
    """The task that failed has its exception as an event, with the stack trace."""
    [run] = [run for run in demo["runs"] if run["status"] == "RUNTIME_ERROR"]
    told = check(jaeger, storage, run["run_id"])

    [exception] = [tags(log) for span in told.spans for log in span["logs"] if tags(log).get("event") == "exception"]
    assert exception["exception.type"] == "LookupError"
    assert "no exchange rate for XAU" in exception["exception.message"]
    assert exception["exception.stacktrace"].startswith("Traceback")


def test_the_collector_changes_nothing_of_ours(
    jaeger: Jaeger, demo: dict[str, Any], storage: SqlPipelineStorage, module_folder: Path
) -> None:
    """Every attribute, event, name and description in Jaeger is as it was sent: masking harms none of ours."""
    with OtlpReceiver() as receiver:
        otel_storage("replay", "--since", "1h", folder=module_folder, endpoint=receiver.endpoint)
        otel_storage("deliver", folder=module_folder, endpoint=receiver.endpoint)
        sent = list(receiver.spans)
    assert len(sent) == demo["spans"]["count"]
    told = {run["trace_id"]: check(jaeger, storage, run["run_id"]) for run in demo["runs"]}
    for span in sent:
        compare(span, told[span.trace_id].span(span.span_id))


def compare(sent: ReceivedSpan, told: dict[str, Any]) -> None:
    """Check that Jaeger tells a span as it was sent.

    Raises:
        AssertionError: it does not.
    """
    assert told["operationName"] == sent.name
    found = tags(told)
    description = found.pop("otel.status_description", "")
    assert description == sent.status_message
    for own in ("otel.scope.name", "otel.scope.version", "otel.status_code", "error", "span.kind"):
        found.pop(own, None)
    assert found == dict(sent.attributes)
    events = [(each.name, dict(each.attributes)) for each in sent.events]
    assert [
        (tags(log)["event"], {k: v for k, v in tags(log).items() if k != "event"}) for log in told["logs"]
    ] == events


def test_grpc_arrives_too(jaeger: Jaeger, collector: Collector, tmp_path: Path) -> None:
    """What is sent by OTLP/gRPC is in Jaeger as well."""
    endpoint = f"http://127.0.0.1:{collector.grpc}"
    told = json.loads(
        otel_storage("demo", "--json", folder=tmp_path, endpoint=endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    )
    assert told["spans"]["state"] == "delivered", told["spans"]
    with closing(SqlPipelineStorage(told["storage"])) as storage:
        for run in told["runs"]:
            check(jaeger, storage, run["run_id"])


def test_both_backends_and_their_credentials(tmp_path: Path) -> None:
    """Both exporters send every span, each with its own credential; one that is away does not hold up the other."""
    with (
        OtlpReceiver() as one,
        OtlpReceiver() as other,
        Collector(
            tmp_path,
            one.endpoint,
            COLLECTOR_TRACES_TO="[otlp_http/jaeger, otlp_http/tempo]",
            JAEGER_AUTHORIZATION="Bearer of-jaeger",
            TEMPO_OTLP_ENDPOINT=other.endpoint,
            TEMPO_AUTHORIZATION="Bearer of-tempo",
        ) as program,
    ):
        assert isinstance(program, Collector)
        other.misbehave(Respond(503))
        told = json.loads(otel_storage("demo", "--json", folder=tmp_path, endpoint=program.endpoint))
        count = told["spans"]["count"]
        wait_until(lambda: len(one.spans) == count, "every span at one backend")
        assert other.spans == []
        other.behave()
        wait_until(lambda: len(other.spans) == count, "every span at the other")
        assert len(one.spans) == count
        for receiver, credential in ((one, "Bearer of-jaeger"), (other, "Bearer of-tempo")):
            assert {request.headers["authorization"] for request in receiver.requests} == {credential}
        assert "of-jaeger" not in program.log
        assert "of-tempo" not in program.log


# --- secrets ---

SECRETS = {
    "postgresql://app:hunter2-url@db.example.com/app": "hunter2-url",
    "Authorization: Bearer abcDEF123456.token-of-someone": "abcDEF123456.token-of-someone",
    "sent with Basic dXNlcjpodW50ZXIyLWJhc2lj": "dXNlcjpodW50ZXIyLWJhc2lj",
    "jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl": "eyJhbGciOiJIUzI1NiJ9",
    "key AKIAIOSFODNN7EXAMPLE was refused": "AKIAIOSFODNN7EXAMPLE",
    "token ghp_abcdefghijklmnopqrstuvwx0123456789": "ghp_abcdefghijklmnopqrstuvwx0123456789",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIBOgIBAAJBAKj\n-----END RSA PRIVATE KEY-----": "MIIBOgIBAAJBAKj",
    "connect(user=app&password=hunter2-pair&x=1)": "hunter2-pair",
    'POST {"api_key": "hunter2-json", "page": 3}': "hunter2-json",
}
"""Texts, each with the secret in it."""
HARMLESS = "Basic authentication is off: https://example.com:8443/a@b?page=2 token: missing 0123456789abcdef"


def test_secrets_do_not_reach_jaeger(jaeger: Jaeger, collector: Collector) -> None:
    """Secrets in spans of somebody else's code are masked wherever the configuration says; what is none is kept."""
    provider = TracerProvider(resource=Resource({"service.name": "leaky", "db.url": next(iter(SECRETS))}))
    exporter = OTLPSpanExporter(endpoint=f"{collector.endpoint}/v1/traces")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("leaky", attributes={"scope.url": next(iter(SECRETS))})
    with tracer.start_as_current_span("every place") as span:
        for number, text in enumerate(SECRETS):
            span.set_attribute(f"text.{number}", text)
            span.set_attribute(f"list.{number}", ["first", text])
            span.add_event("event", {"text": text})
            span.add_event(f"name of {text}")
            with tracer.start_as_current_span(f"name of {text}") as below:
                below.set_status(trace.StatusCode.ERROR, f"description: {text}")
        for key in ("db.password", "api_key", "http.request.header.authorization", "client.secret", "session.cookie"):
            span.set_attribute(key, "hunter2-by-its-key")
        span.set_attribute("harmless", HARMLESS)
        span.set_attribute("harmless.token.count", 3)
    provider.shutdown()

    trace_of_it = f"{span.get_span_context().trace_id:032x}"
    wait_until(lambda: (t := jaeger.trace(trace_of_it)) and len(t.spans) == 1 + len(SECRETS), "all spans in Jaeger")
    told = jaeger.trace(trace_of_it)
    assert told is not None
    text = json.dumps(told.data)
    for secret in [*SECRETS.values(), "hunter2"]:
        assert secret not in text
    # And it is the secrets that are gone, not what is around them.
    [parent] = [span for span in told.spans if span["operationName"] == "every place"]
    found = tags(parent)
    assert found["text.0"] == "postgresql****db.example.com/app"
    assert found["harmless"] == HARMLESS
    assert found["harmless.token.count"] == 3
    assert sum("collector." in str(tag["key"]) for span in told.spans for tag in span["tags"]) == 0
    assert [log for log in parent["logs"] if tags(log)["event"].startswith("name of ")]
    assert all(tags(s)["otel.status_description"].startswith("description: ") for s in told.spans if s is not parent)


def test_a_full_queue_refuses(module_folder: Path) -> None:
    """A collector whose queue is full says "later" and acknowledges nothing: the runs' spans stay in the outbox."""
    folder = module_folder / uuid.uuid4().hex
    folder.mkdir()
    # No Jaeger, and room for a few requests: not less than what a batch is to be.
    with Collector(folder, COLLECTOR_QUEUE_BYTES="600000") as program:
        assert isinstance(program, Collector)
        for size in (50_000, 5_000, 500):
            answers = [fetch(f"{program.endpoint}/v1/traces", one_span(size))[0] for _ in range(20)]
            assert answers[-1] == 503
            assert set(answers) == {200, 503}
        told = json.loads(otel_storage("demo", "--json", folder=folder, endpoint=program.endpoint))
        assert told["spans"]["state"] == "waiting"
        assert "503" in told["spans"]["reason"]
        assert program.metric("otelcol_exporter_send_failed_spans_total") == 0
        status = json.loads(otel_storage("status", "--json", folder=folder, endpoint=program.endpoint, expected=(0, 1)))
        assert status["outbox"]["waiting"] > 0
        assert status["outbox"]["refused"] == 0


def test_what_a_backend_refuses_for_good_is_counted(module_folder: Path) -> None:
    """The collector drops what its backend will never take, and counts it under the names that the rules ask for.

    The records are still there: a replay sends the spans once more.
    """
    folder = module_folder / uuid.uuid4().hex
    folder.mkdir()
    with OtlpReceiver() as backend, Collector(folder, backend.endpoint) as program:
        assert isinstance(program, Collector)
        of_traces = {"exporter": "otlp_http/jaeger", "data_type": "traces"}
        assert program.metric("otelcol_exporter_queue_capacity", **of_traces) == 1_000_000_000
        backend.misbehave(Respond(401))
        told = json.loads(otel_storage("demo", "--json", folder=folder, endpoint=program.endpoint))
        assert told["spans"]["state"] == "delivered"
        wait_until(
            lambda: program.metric("otelcol_exporter_send_failed_spans_total", exporter="otlp_http/jaeger"),
            "the collector has given up",
        )
        wait_until(lambda: program.metric("otelcol_exporter_queue_size", **of_traces) == 0, "the queue is empty")
        backend.behave()
        otel_storage("replay", "--since", "1h", folder=folder, endpoint=program.endpoint)
        otel_storage("deliver", folder=folder, endpoint=program.endpoint)
        wait_until(lambda: len(backend.spans) == told["spans"]["count"], "the spans, replayed")


def one_span(size: int) -> bytes:
    """A request of one span, of a bit more than so many bytes."""
    span = {"traceId": uuid.uuid4().hex, "spanId": uuid.uuid4().hex[:16], "name": "x" * size}
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()
