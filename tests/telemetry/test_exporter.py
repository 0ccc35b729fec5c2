"""What an exporter says of an export, against real receivers that behave and misbehave."""

from __future__ import annotations

import inspect
import io
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import context as otel_context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    ConsoleSpanExporter,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_storage.privacy.secrets import LONGEST_TEXT, secrets_in, without_credentials, without_secrets
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.telemetry.otlp.exporter import AcknowledgedExporter, ExportOutcome, Verdict, open_exporter
from otel_storage.telemetry.otlp.session import LARGEST_ANSWER, NotAccepted, OneAttemptSession, judge, retry_after
from otel_storage.testing.receiver import (
    Answer,
    DropAcknowledgement,
    Exchange,
    Fault,
    OtlpReceiver,
    PartialSuccess,
    RefuseSpan,
    Respond,
    Slow,
)

HTTP = "opentelemetry.exporter.otlp.proto.http.trace_exporter.OTLPSpanExporter"
GRPC = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter.OTLPSpanExporter"
HTTP_LOGGER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"

ACCEPTED = ExportOutcome(Verdict.ACCEPTED)


def make_spans(*names: str) -> list[ReadableSpan]:
    """Finished spans with these names."""
    kept = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "test"}))
    provider.add_span_processor(SimpleSpanProcessor(kept))
    for name in names:
        provider.get_tracer("test").start_span(name).end()
    return list(kept.get_finished_spans())


class AnswerWith:
    """A fault that gives any answer, with any headers."""

    def __init__(self, status: int, body: bytes, **headers: str) -> None:
        self.answer = Answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})

    def __call__(self, exchange: Exchange) -> bool:
        """Decide on the answer."""
        return exchange.settle(self.answer)


class Scripted(SpanExporter):
    """An exporter that does what a function says."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act
        self.shutdowns = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Do it."""
        result: SpanExportResult = self.act()
        return result

    def shutdown(self) -> None:
        """Count."""
        self.shutdowns += 1


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """A receiver that behaves."""
    with OtlpReceiver() as started:
        yield started


@pytest.fixture
def exporter(receiver: OtlpReceiver) -> Iterator[AcknowledgedExporter]:
    """An OTLP/HTTP exporter to the receiver."""
    opened = open_exporter((HTTP, {"endpoint": receiver.traces_endpoint}))
    yield opened
    opened.shutdown()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine that refuses connections; bound, so that nobody else gets it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


# HTTP: accepted


def test_accepted(receiver: OtlpReceiver, exporter: AcknowledgedExporter) -> None:
    """A receiver that takes the spans is believed, and has them all, from one request."""
    assert exporter.export(make_spans("a", "b")) == ACCEPTED
    assert [span.name for span in receiver.spans] == ["a", "b"]
    assert len(receiver.requests) == 1


def test_no_spans_are_accepted_without_a_request(receiver: OtlpReceiver, exporter: AcknowledgedExporter) -> None:
    """There is nothing to lose."""
    assert exporter.export([]) == ACCEPTED
    assert receiver.requests == []


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        (200, "text/plain", b""),
        (202, "", b""),
        (204, "application/x-protobuf", b""),
        (200, "application/x-protobuf", Answer.success(message="slow down").body),
        (200, "application/json; charset=utf-8", b"{}"),
        (200, "application/json", b'{"partialSuccess": {}}'),
        (200, "application/json", b'{"partialSuccess": {"rejectedSpans": "0", "errorMessage": "hm"}}'),
    ],
)
def test_otlp_answers_are_believed(
    receiver: OtlpReceiver, exporter: AcknowledgedExporter, status: int, content_type: str, body: bytes
) -> None:
    """Any success without a word of rejection is one, in protobuf or JSON."""
    headers = {"Content_Type": content_type} if content_type else {}
    receiver.misbehave(AnswerWith(status, body, **headers))
    assert exporter.export(make_spans("a")) == ACCEPTED


def test_warning_is_accepted_and_logged_once(
    receiver: OtlpReceiver, exporter: AcknowledgedExporter, caplog: pytest.LogCaptureFixture
) -> None:
    """A partial success that rejects nothing is a success with a word of advice."""
    receiver.misbehave(PartialSuccess(0, "use gzip"))
    assert exporter.export(make_spans("a")) == ACCEPTED
    assert exporter.export(make_spans("b")) == ACCEPTED
    assert [record.getMessage().endswith("says: use gzip") for record in caplog.records] == [True]


def test_warnings_are_logged_so_often_and_no_more(
    receiver: OtlpReceiver, exporter: AcknowledgedExporter, caplog: pytest.LogCaptureFixture
) -> None:
    """A receiver that finds new words each time does not fill the log."""
    for number in range(30):
        receiver.misbehave(PartialSuccess(0, f"warning {number}"), times=1)
        assert exporter.export(make_spans("a")) == ACCEPTED
    assert len(caplog.records) == 10


# HTTP: refused


@pytest.mark.parametrize("status", [400, 413, 422])
def test_refusing_statuses(receiver: OtlpReceiver, exporter: AcknowledgedExporter, status: int) -> None:
    """What is said of the data itself is final, and is said in the server's words."""
    receiver.misbehave(RefuseSpan(lambda span: span.name == "bad", status=status))
    outcome = exporter.export(make_spans("good", "bad"))
    assert outcome.verdict is Verdict.REFUSED
    assert outcome.reason.startswith(f"HTTP {status} ")
    assert "is refused" in outcome.reason
    assert len(receiver.requests) == 1
    assert exporter.export(make_spans("good")) == ACCEPTED


@pytest.mark.parametrize(
    ("rejected", "message", "reason"),
    [
        (1, "attribute too long", "1 span rejected: attribute too long"),
        (2, "", "2 spans rejected: no reason given"),
    ],
)
def test_rejected_spans_are_a_refusal(
    receiver: OtlpReceiver, exporter: AcknowledgedExporter, rejected: int, message: str, reason: str
) -> None:
    """A 200 that says it has left spans out is no success."""
    receiver.misbehave(PartialSuccess(rejected, message))
    assert exporter.export(make_spans("a", "b")) == ExportOutcome(Verdict.REFUSED, reason)


def test_rejection_in_json(receiver: OtlpReceiver, exporter: AcknowledgedExporter) -> None:
    """A gateway that answers in JSON is understood as well."""
    body = b'{"partialSuccess": {"rejectedSpans": "1", "errorMessage": "no"}}'
    receiver.misbehave(AnswerWith(200, body, Content_Type="application/json"))
    assert exporter.export(make_spans("a")) == ExportOutcome(Verdict.REFUSED, "1 span rejected: no")


def test_spans_that_cannot_be_encoded_are_refused(receiver: OtlpReceiver, exporter: AcknowledgedExporter) -> None:
    """A poisoned span is found before any request, and must not block the others."""
    poisoned = ReadableSpan(name=object(), context=make_spans("a")[0].context)  # type: ignore[arg-type]
    outcome = exporter.export([poisoned])
    assert outcome.verdict is Verdict.REFUSED
    assert outcome.reason.startswith("no request could be made of the spans: ")
    assert "TypeError" in outcome.reason or "encode" in outcome.reason
    assert receiver.requests == []
    assert exporter.export(make_spans("a")) == ACCEPTED


@pytest.mark.skipif(
    "max_request_size" not in inspect.signature(OTLPSpanExporter).parameters,
    reason="this version of the exporter has no limit",
)
def test_request_above_the_exporters_limit_is_refused(receiver: OtlpReceiver) -> None:
    """What the exporter drops without sending is refused, so that the caller sends less at a time."""
    exporter = open_exporter((HTTP, {"endpoint": receiver.traces_endpoint, "max_request_size": 1_000}))
    outcome = exporter.export(make_spans("long" * 1_000))
    assert outcome.verdict is Verdict.REFUSED
    assert "max_request_size" in outcome.reason
    assert receiver.requests == []
    assert exporter.export(make_spans("short")) == ACCEPTED


# HTTP: to be tried again


@pytest.mark.parametrize("status", [401, 403, 404, 405, 408, 409, 415, 429, 500, 501, 502, 503, 504, 599])
def test_retried_statuses(receiver: OtlpReceiver, exporter: AcknowledgedExporter, status: int) -> None:
    """A receiver in trouble and a wrong setting cost no span; one export is one request."""
    receiver.misbehave(Respond(status, body=b"so sorry"))
    outcome = exporter.export(make_spans("a"))
    assert outcome.verdict is Verdict.RETRY
    assert outcome.reason.startswith(f"HTTP {status}")
    assert "so sorry" in outcome.reason
    assert outcome.retry_after is None
    assert len(receiver.requests) == 1


def test_outcome_is_that_of_the_last_export(receiver: OtlpReceiver, exporter: AcknowledgedExporter) -> None:
    """Neither a failure nor a success is remembered too long."""
    receiver.misbehave(Respond(503), times=1)
    verdicts = [exporter.export(make_spans("a")).verdict for _ in range(2)]
    receiver.misbehave(Respond(503))
    verdicts.append(exporter.export(make_spans("a")).verdict)
    assert verdicts == [Verdict.RETRY, Verdict.ACCEPTED, Verdict.RETRY]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_retry_after_is_passed_on(receiver: OtlpReceiver, exporter: AcknowledgedExporter, status: int) -> None:
    """The receiver's wish reaches the one who waits."""
    receiver.misbehave(Respond(status, retry_after=7))
    assert exporter.export(make_spans("a")).retry_after == 7


def test_retry_after_in_its_forms() -> None:
    """Seconds and dates are read; the past is now; nonsense is nothing."""
    assert retry_after(" 2.5 ") == 2.5
    assert retry_after("-3") == 0
    in_an_hour = retry_after(format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True))
    assert in_an_hour is not None
    assert 3_500 < in_an_hour <= 3_600
    assert retry_after("Fri, 31 Dec 1999 23:59:59 GMT") == 0
    assert [retry_after(value) for value in ("", "soon", "nan", "inf")] == [None] * 4


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(receiver: OtlpReceiver, exporter: AcknowledgedExporter, status: int) -> None:
    """OpenTelemetry's exporter takes them for success; nobody has the spans."""
    receiver.misbehave(Respond(status, location="https://me:hunter22@sso.example/login?state=s3cret"))
    outcome = exporter.export(make_spans("a"))
    assert outcome.verdict is Verdict.RETRY
    assert "redirected to https://***@sso.example/login?***:" in outcome.reason
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in outcome.reason
    assert "hunter22" not in outcome.reason
    assert "s3cret" not in outcome.reason
    assert len(receiver.requests) == 1


def test_relative_redirect_names_the_final_address(receiver: OtlpReceiver, exporter: AcknowledgedExporter) -> None:
    """A location without a host is one of the same host."""
    receiver.misbehave(Respond(307, location="/elsewhere"))
    assert f"redirected to {receiver.endpoint}/elsewhere:" in exporter.export(make_spans("a")).reason


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", b"<html><title>Please log in</title></html>"),
        ("text/plain", b"Please log in"),
        ("application/x-protobuf", b"Please log in"),
        ("application/json", b'{"error": "Please log in"}'),
        ("application/json", b"[]"),
        ("application/json", b"null"),
        ("application/json", b"{"),
        ("application/json", b'{"partialSuccess": ' + b"[" * 50_000),
        ("application/x-protobuf", b"\x12\x00" * LARGEST_ANSWER),
        ("", b"Please log in"),
    ],
)
def test_a_success_that_is_not_otlp_is_not_believed(
    receiver: OtlpReceiver, exporter: AcknowledgedExporter, content_type: str, body: bytes
) -> None:
    """A login page, or whatever else listens there, says 200 too."""
    headers = {"Content_Type": content_type} if content_type else {}
    receiver.misbehave(AnswerWith(200, body, **headers))
    outcome = exporter.export(make_spans("a"))
    assert outcome.verdict is Verdict.RETRY
    assert outcome.reason.startswith("HTTP 200 OK, but the answer is not OTLP")
    assert "<" not in outcome.reason


@pytest.mark.parametrize("fault", [Respond(302), Respond(503), DropAcknowledgement()])
def test_session_makes_one_request_however_often_it_is_asked(receiver: OtlpReceiver, fault: Fault) -> None:
    """Exporters of all versions are kept from trying again, and never see a failure as an answer."""
    receiver.misbehave(fault)
    with OneAttemptSession(timeout=5) as session:
        session.begin()
        headers = {"Content-Type": "application/x-protobuf"}
        for _ in range(2):
            with pytest.raises(NotAccepted):
                session.post(receiver.traces_endpoint, data=b"", headers=headers)
        assert session.outcome is not None
        assert session.outcome.verdict is Verdict.RETRY
    assert len(receiver.requests) == 1


def test_lost_acknowledgement_is_retried(receiver: OtlpReceiver, exporter: AcknowledgedExporter) -> None:
    """The exporter's own second attempt on a lost connection is not made: its caller decides."""
    receiver.misbehave(DropAcknowledgement(), times=1)
    outcome = exporter.export(make_spans("a"))
    assert outcome.verdict is Verdict.RETRY
    assert outcome.reason.startswith("ConnectionError: ")
    assert len(receiver.requests) == 1
    assert exporter.export(make_spans("a")) == ACCEPTED


def test_closed_port_is_retried(closed_port: int) -> None:
    """With nobody there the reason is the system's own words, the same each time."""
    exporter = open_exporter((HTTP, {"endpoint": f"http://127.0.0.1:{closed_port}/v1/traces?key=s3cret"}))
    (outcome,) = {exporter.export(make_spans("a")) for _ in range(2)}
    assert outcome.verdict is Verdict.RETRY
    assert re.fullmatch(r"ConnectionError: \[Errno \d+\] Connection refused", outcome.reason)


def test_reason_is_not_what_was_being_handled(closed_port: int) -> None:
    """An exception that the caller handles meanwhile is no part of the story."""
    exporter = open_exporter((HTTP, {"endpoint": f"http://127.0.0.1:{closed_port}/"}))
    try:
        raise RuntimeError("unrelated")
    except RuntimeError:
        assert exporter.export(make_spans("a")).reason.endswith("Connection refused")


def test_endpoint_that_is_no_url_is_retried() -> None:
    """A misspelt variable costs no span."""
    outcome = open_exporter((HTTP, {"endpoint": "localhost:4318"})).export(make_spans("a"))
    assert outcome.verdict is Verdict.RETRY
    assert outcome.reason.startswith("InvalidSchema: ")


def test_timeout_is_retried(receiver: OtlpReceiver) -> None:
    """An answer that does not come in time is none, though the spans may be there."""
    receiver.misbehave(Slow(30))
    exporter = open_exporter((HTTP, {"endpoint": receiver.traces_endpoint}), timeout=0.1)
    outcome = exporter.export(make_spans("a"))
    assert outcome.verdict is Verdict.RETRY
    assert outcome.reason.startswith("ReadTimeout: ")
    assert len(receiver.requests) == 1


def test_answer_that_never_ends_is_given_up() -> None:
    """A server that keeps the connection busy with single bytes cannot hold the sender."""
    stop = threading.Event()

    def trickle(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            try:
                while not stop.wait(0.02):
                    connection.sendall(b"1\r\n\n\r\n")
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=trickle, args=(listening,), daemon=True)
        server.start()
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}/v1/traces"
        outcome = open_exporter((HTTP, {"endpoint": endpoint}), timeout=0.1).export(make_spans("a"))
        stop.set()
        server.join(5)
    assert outcome == ExportOutcome(Verdict.RETRY, "ReadTimeout: the answer did not end in time")


@given(
    status=st.integers(200, 599),
    content_type=st.sampled_from(
        ["", "text/html", "application/json", "application/x-protobuf", "application/x-protobuf; x", "?"]
    ),
    body=st.binary(max_size=200) | st.text(max_size=100).map(str.encode),
    location=st.text(max_size=50),
    wait=st.text(max_size=20),
)
def test_every_answer_has_a_verdict(status: int, content_type: str, body: bytes, location: str, wait: str) -> None:
    """No answer is too strange; only a success in OTLP is accepted, and everything else says why in one line."""
    headers = {"Content-Type": content_type, "Location": location, "Retry-After": wait}
    outcome, warning = judge(status, headers, body, url="http://localhost:4318/v1/traces")
    if outcome.verdict is Verdict.ACCEPTED:
        assert status <= 299
        assert outcome.reason == ""
    else:
        assert outcome.reason
        assert warning == ""
    assert len((outcome.reason + warning).splitlines()) <= 1
    assert outcome.retry_after is None or outcome.retry_after >= 0


# Secrets


def test_no_secret_is_in_a_reason(receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that echoes what it was sent gives nothing away, nor does the description."""
    host = receiver.endpoint.removeprefix("http://")
    endpoint = f"http://us%40er:pass%2Fword@{host}/v1/traces?api-key=qu3ry"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=h3ader%20value,authorization2=Bearer%20t0kent0ken")
    exporter = open_exporter(None)
    assert exporter.description == f"http://***@{host}/v1/traces?***"

    class Echo:
        def __call__(self, exchange: Exchange) -> bool:
            sent = (exchange.headers[name] for name in ("x-api-key", "Authorization"))
            said = "; ".join(["pass/word", "qu3ry", "t0kent0ken", endpoint, *sent, "that was all"])
            return exchange.settle(Answer(401, said.encode()))

    receiver.misbehave(Echo())
    receiver.clear()
    reason = exporter.export(make_spans("a")).reason
    assert reason.startswith("HTTP 401 ")
    assert "that was all" in reason  # so nothing was cut off
    sent = receiver.requests[0].headers
    assert sent["x-api-key"] == "h3ader value"  # or the test would prove nothing
    encoded = sent["Authorization"].removeprefix("Basic ")
    for secret in ("pass%2Fword", "pass/word", "qu3ry", "h3ader", "t0kent0ken", encoded):
        assert secret not in reason


@given(
    secret=st.text("abcXYZ0123456789-._~", min_size=12, max_size=40),
    before=st.text(max_size=LONGEST_TEXT),
    after=st.text(max_size=20),
)
def test_secrets_are_cut_whole(secret: str, before: str, after: str) -> None:
    """Wherever a secret stands, and wherever the text is cut, it is not to be seen; the text is one short line."""
    text = without_secrets(f"{before} {secret} {after}", secrets_in(headers={"x-key": secret}))
    assert secret not in text
    assert not text.endswith(secret[:8] + "…")
    assert len(text) <= LONGEST_TEXT
    assert len(text.splitlines()) <= 1
    assert text.isprintable()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://localhost:4318/v1/traces", "http://localhost:4318/v1/traces"),
        ("https://key@h.example/x#frag", "https://***@h.example/x"),
        ("https://u:p@ss@h.example/?a=b", "https://***@h.example/?***"),
        ("http://[::1]:4318/", "http://[::1]:4318/"),
        ("http://[oops/", "http://[oops/"),
        ("http://u:p@[oops/", "http://***@[oops/"),
        ("localhost:4317", "localhost:4317"),
        ("user:pass@localhost:4317", "***@localhost:4317"),
        ("", ""),
    ],
)
def test_addresses_are_shown_without_credentials(url: str, shown: str) -> None:
    """An address stays recognisable."""
    assert without_credentials(url) == shown


def test_escape_sequences_do_not_reach_the_terminal() -> None:
    """A server's message is shown by the command line."""
    assert without_secrets("\x1b[2Jboo\r\n\tboo\u2028boo") == "[2Jboo boo boo"


# Any exporter


def test_in_memory_exporter_is_used_as_it_is() -> None:
    """An instance gets the spans, and its success is acceptance."""
    kept = InMemorySpanExporter()
    exporter = open_exporter(kept)
    assert exporter.export(make_spans("a")) == ACCEPTED
    assert [span.name for span in kept.get_finished_spans()] == ["a"]
    assert exporter.description.endswith("in_memory_span_exporter.InMemorySpanExporter")


def test_an_exporter_that_raises() -> None:
    """Its exception is the reason to try again, and is cut and cleaned."""

    def fail() -> None:
        raise OSError("cannot reach https://me:hunter2@example.org/x\nfrom here" + "!" * 1_000)

    outcome = AcknowledgedExporter(Scripted(fail)).export(make_spans("a"))
    assert outcome.verdict is Verdict.RETRY
    assert outcome.reason.startswith("OSError: cannot reach https://***@example.org/x from here!!!")
    assert len(outcome.reason) <= LONGEST_TEXT + len("OSError: ")


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (SpanExportResult.FAILURE, "the exporter failed and gave no reason"),
        (None, "the exporter returned None, which is not a SpanExportResult"),
        (True, "the exporter returned True, which is not a SpanExportResult"),
    ],
)
def test_anything_but_success_is_retried(result: object, reason: str) -> None:
    """An exporter that forgets its return value has not said that the spans arrived."""
    assert AcknowledgedExporter(Scripted(lambda: result)).export(make_spans("a")) == ExportOutcome(
        Verdict.RETRY, reason
    )


def test_interrupts_pass() -> None:
    """Control-C ends the program, not the export, and leaves the exporter usable."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    inner = Scripted(interrupt)
    exporter = AcknowledgedExporter(inner)
    with pytest.raises(KeyboardInterrupt):
        exporter.export(make_spans("a"))
    inner.act = lambda: SpanExportResult.SUCCESS
    assert exporter.export(make_spans("a")) == ACCEPTED


def test_instrumentation_is_suppressed_while_exporting() -> None:
    """Instrumented HTTP clients must not make spans of the export of spans."""
    keys = (otel_context._SUPPRESS_INSTRUMENTATION_KEY, otel_context._SUPPRESS_HTTP_INSTRUMENTATION_KEY)
    seen: list[object] = []

    def look() -> SpanExportResult:
        seen.extend(otel_context.get_value(key) for key in keys)
        return SpanExportResult.SUCCESS

    AcknowledgedExporter(Scripted(look)).export(make_spans("a"))
    assert seen == [True, True]
    assert [otel_context.get_value(key) for key in keys] == [None, None]


def test_exports_wait_for_each_other() -> None:
    """Two threads never are in one exporter at a time."""
    inside = threading.Semaphore(1)
    met: list[bool] = []
    entered = threading.Event()
    second_started = threading.Event()

    def act() -> SpanExportResult:
        met.append(not inside.acquire(blocking=False))
        entered.set()
        second_started.wait(5)
        threading.Event().wait(0.05)  # long enough for the other to come in, if it could
        inside.release()
        return SpanExportResult.SUCCESS

    exporter = AcknowledgedExporter(Scripted(act))
    spans = make_spans("a")

    def second() -> None:
        second_started.set()
        exporter.export(spans)

    with futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(exporter.export, spans)
        assert entered.wait(5)
        pool.submit(second).result(5)
        assert first.result(5) == ACCEPTED
    assert met == [False, False]


def test_shutdown(receiver: OtlpReceiver, exporter: AcknowledgedExporter) -> None:
    """After it, spans are neither sent nor lost; a second call does nothing."""
    exporter.shutdown()
    exporter.shutdown()
    assert exporter.export(make_spans("a")) == ExportOutcome(Verdict.RETRY, "the exporter has been shut down")
    assert receiver.requests == []


def test_shutdown_while_exporting_does_not_refuse_the_spans() -> None:
    """An exporter that gives up because it is shut down has not judged the spans."""
    exporter: AcknowledgedExporter

    def act() -> SpanExportResult:
        exporter.shutdown()
        return SpanExportResult.FAILURE

    inner = Scripted(act)
    exporter = AcknowledgedExporter(inner)
    assert exporter.export(make_spans("a")).verdict is Verdict.RETRY
    assert inner.shutdowns == 1


def test_shutdown_of_the_http_exporter_from_outside_the_lock(receiver: OtlpReceiver) -> None:
    """Shut down between our check and the exporter's, no request is made, and nothing is refused for that."""
    exporter = open_exporter((HTTP, {"endpoint": receiver.traces_endpoint}))

    class ShutsDownWhenEncoded(list[ReadableSpan]):
        def __iter__(self) -> Iterator[ReadableSpan]:
            exporter.shutdown()
            raise ValueError("too late")

    outcome = exporter.export(ShutsDownWhenEncoded(make_spans("a")))
    assert outcome.verdict is Verdict.RETRY


def test_failing_shutdown_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A failing shutdown is logged, and raises nothing."""

    class Stubborn(InMemorySpanExporter):
        def shutdown(self) -> None:
            raise OSError("I stay")

    open_exporter(Stubborn()).shutdown()
    assert "OSError: I stay" in caplog.text


# Logs


def test_the_exporters_complaints_are_ours_to_report(
    receiver: OtlpReceiver, exporter: AcknowledgedExporter, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage is not logged at every attempt; the exporter's logger speaks on elsewhere."""
    receiver.misbehave(Respond(503))
    exporter.export(make_spans("a"))
    receiver.behave()
    receiver.misbehave(Respond(400))
    exporter.export(make_spans("a"))
    assert caplog.records == []
    logging.getLogger(HTTP_LOGGER).warning("somebody else's")
    assert [record.getMessage() for record in caplog.records] == ["somebody else's"]


def test_other_threads_are_heard_during_an_export(caplog: pytest.LogCaptureFixture) -> None:
    """What is silenced is our export, not the logger."""
    logger = logging.getLogger(__name__)  # as an exporter of this module would name it

    def act() -> SpanExportResult:
        logger.warning("ours")
        other = threading.Thread(target=logger.warning, args=("theirs",))
        other.start()
        other.join()
        return SpanExportResult.FAILURE

    outcome = AcknowledgedExporter(Scripted(act)).export(make_spans("a"))
    assert [record.getMessage() for record in caplog.records] == ["theirs"]
    assert outcome == ExportOutcome(Verdict.RETRY, "ours")


# gRPC


@pytest.fixture
def collector() -> Iterator[Any]:
    """A real OTLP/gRPC server; ``answer`` decides on each request, ``requests`` are those that arrived."""
    grpc = pytest.importorskip("grpc")
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

    class Collector(trace_service_pb2_grpc.TraceServiceServicer):
        def __init__(self) -> None:
            self.requests: list[Any] = []
            self.abort: tuple[Any, str] | None = None
            self.response = trace_service_pb2.ExportTraceServiceResponse()
            self.endpoint = ""
            self.grpc = grpc

        def Export(self, request: Any, context: Any) -> Any:
            self.requests.append(request)
            if self.abort is not None:
                context.abort(*self.abort)
            return self.response

    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", 100_000)])
    register: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    register(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield collector
    server.stop(None).wait()


@pytest.fixture
def grpc_exporter(collector: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[AcknowledgedExporter]:
    """An exporter from the variables of OTLP/gRPC."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    exporter = open_exporter(None, timeout=5)
    yield exporter
    exporter.shutdown()


def test_grpc_accepted(collector: Any, grpc_exporter: AcknowledgedExporter) -> None:
    """Spans arrive, and the address is named."""
    assert grpc_exporter.export(make_spans("a")) == ACCEPTED
    (request,) = collector.requests
    assert [span.name for span in request.resource_spans[0].scope_spans[0].spans] == ["a"]
    assert grpc_exporter.description == f"{collector.endpoint} (gRPC)"


def test_grpc_partial_success_is_not_seen(collector: Any, grpc_exporter: AcknowledgedExporter) -> None:
    """The documented limit: should the exporter learn to say it, this test fails and the limit can go."""
    collector.response.partial_success.rejected_spans = 1
    assert grpc_exporter.export(make_spans("a")) == ACCEPTED


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("PERMISSION_DENIED", Verdict.RETRY),
        ("INTERNAL", Verdict.RETRY),
        ("UNIMPLEMENTED", Verdict.RETRY),
        ("INVALID_ARGUMENT", Verdict.REFUSED),
    ],
)
def test_grpc_statuses(
    collector: Any,
    grpc_exporter: AcknowledgedExporter,
    caplog: pytest.LogCaptureFixture,
    code: str,
    verdict: Verdict,
) -> None:
    """Bad data alone is refused; the status is in the reason, every time, and nothing is logged."""
    collector.abort = (collector.grpc.StatusCode[code], "because")
    for _ in range(2):
        outcome = grpc_exporter.export(make_spans("a"))
        assert outcome.verdict is verdict
        assert code in outcome.reason
    assert len(collector.requests) == 2
    assert caplog.records == []


def has_grpc_retry_option() -> bool:
    """Whether this version of the exporter can be told not to try again by itself."""
    exporter = pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc.trace_exporter").OTLPSpanExporter
    return "retryable_error_codes" in inspect.signature(exporter).parameters


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"])
def test_grpc_transient_errors_are_one_attempt(collector: Any, grpc_exporter: AcknowledgedExporter, code: str) -> None:
    """Trying again is for the caller, not the exporter."""
    if not has_grpc_retry_option():
        pytest.skip("this version of the gRPC exporter cannot be kept from trying again")
    collector.abort = (collector.grpc.StatusCode[code], "busy")
    outcome = grpc_exporter.export(make_spans("a"))
    assert outcome.verdict is Verdict.RETRY
    assert code in outcome.reason
    assert len(collector.requests) == 1
    collector.abort = None
    assert grpc_exporter.export(make_spans("a")) == ACCEPTED


def test_grpc_message_above_the_receivers_limit_is_refused(collector: Any, grpc_exporter: AcknowledgedExporter) -> None:
    """The same message would always be too large; half of it may not be."""
    if not has_grpc_retry_option():
        pytest.skip("this version of the gRPC exporter tries again until its time is up")
    outcome = grpc_exporter.export(make_spans(*["long" * 1_000] * 30))
    assert outcome.verdict is Verdict.REFUSED
    assert "larger than max" in outcome.reason
    assert collector.requests == []


def test_grpc_spans_that_cannot_be_encoded_are_refused(collector: Any, grpc_exporter: AcknowledgedExporter) -> None:
    """A poisoned span is refused before any request."""
    poisoned = ReadableSpan(name=object(), context=make_spans("a")[0].context)  # type: ignore[arg-type]
    assert grpc_exporter.export([poisoned]).verdict is Verdict.REFUSED
    assert collector.requests == []


def test_grpc_closed_port_is_retried(closed_port: int, caplog: pytest.LogCaptureFixture) -> None:
    """A closed port is named in the reason, and not logged."""
    if not has_grpc_retry_option():
        pytest.skip("this version of the gRPC exporter tries again until its time is up")
    kwargs = {"endpoint": f"http://me:hunter2@127.0.0.1:{closed_port}"}
    exporter = open_exporter((GRPC, kwargs))
    outcome = exporter.export(make_spans("a"))
    exporter.shutdown()
    assert outcome.verdict is Verdict.RETRY
    assert "UNAVAILABLE" in outcome.reason
    assert "hunter2" not in outcome.reason + exporter.description
    assert caplog.records == []


# Which exporter is opened


def test_default_is_otlp_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing set it is the collector of this machine; the traces' own address is taken as it is."""
    assert open_exporter(None).description == "http://localhost:4318/v1/traces"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/base/")
    assert open_exporter(None).description == "http://collector:4318/base/v1/traces"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/mine")
    assert open_exporter(None).description == "http://collector:4318/mine"


def test_variables_reach_the_exporter(receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Address, headers and compression are OpenTelemetry's own."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2.5")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    assert open_exporter(None).export(make_spans("a")) == ACCEPTED
    headers = receiver.requests[0].headers
    assert (headers["x-tenant"], headers["Content-Encoding"]) == ("blue", "gzip")
    assert [span.name for span in receiver.spans] == ["a"]


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"])
def test_timeout_variable(receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """The variable is in seconds, and fractions are kept."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    monkeypatch.setenv(variable, "0.1")
    receiver.misbehave(Slow(30))
    assert open_exporter(None).export(make_spans("a")).reason.startswith("ReadTimeout: ")


@pytest.mark.parametrize("value", ["ten", "0", "-1", "nan", "inf"])
def test_bad_timeout_variable_is_the_default(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    """As in the SDK, it is said and does no harm."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", value)
    assert open_exporter(None).export(make_spans("a")) == ACCEPTED
    assert "OTEL_EXPORTER_OTLP_TIMEOUT" in caplog.text


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "soon"])
def test_bad_timeout_argument_is_refused(value: Any) -> None:
    """A mistake in the code is the programmer's to mend, also where the exporter has no use for it."""
    for exporter in (None, InMemorySpanExporter()):
        with pytest.raises(ConfigurationError, match="timeout"):
            open_exporter(exporter, timeout=value)
    with pytest.raises(ConfigurationError, match="timeout"):
        open_exporter((HTTP, {"timeout": value}))


def test_traces_protocol_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal's own variable comes before the common one."""
    pytest.importorskip("grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    exporter = open_exporter(None)
    assert exporter.description == "http://localhost:4317 (gRPC)"
    exporter.shutdown()


def test_exporter_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_TRACES_EXPORTER=console is the console's exporter, and takes spans."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    exporter = open_exporter(None)
    assert exporter.description.endswith("ConsoleSpanExporter")
    assert exporter.export(make_spans("printed")) == ACCEPTED


@pytest.mark.parametrize("value", ["", " ", "otlp", "console, otlp", "otlp_proto_http"])
def test_otlp_is_checked_whatever_names_it(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Among several names OTLP wins, and the name of the HTTP exporter is not a way round the check."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", value)
    assert open_exporter(None).description == "http://localhost:4318/v1/traces"


@pytest.mark.parametrize(("value", "match"), [("zipkinn", r"'zipkinn' .* console.* otlp"), ("none", "none")])
def test_unusable_exporter_name_is_refused(monkeypatch: pytest.MonkeyPatch, value: str, match: str) -> None:
    """The error names what there is."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", value)
    with pytest.raises(ConfigurationError, match=match):
        open_exporter(None)


def test_exporter_by_path() -> None:
    """A path names a class, a pair adds its arguments, a list is what JSON makes of a pair."""
    path = f"{ConsoleSpanExporter.__module__}.{ConsoleSpanExporter.__qualname__}"
    out = io.StringIO()
    for spec in (path, (path, {"out": out}), [path, {"out": out}]):
        assert open_exporter(spec).export(make_spans("printed")) == ACCEPTED
    assert out.getvalue().count('"name": "printed"') == 2


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("nowhere.Exporter", "nowhere"),
        ((HTTP, {"endpint": "x"}), "endpint"),
        ((HTTP, {"endpoint": "http://localhost"}, 3), "pair"),
        ("logging.Filter", "SpanExporter"),
        (object(), "SpanExporter"),
    ],
)
def test_wrong_exporters_are_refused(spec: Any, match: str) -> None:
    """The error names the setting and what is wrong with it."""
    with pytest.raises(ConfigurationError, match=match) as raised:
        open_exporter(spec)
    assert str(raised.value).startswith("exporter")


def test_exporter_that_cannot_be_made_is_a_configuration_error() -> None:
    """What its class raises is reported with the path, and without the arguments' secrets."""
    with pytest.raises(ConfigurationError, match=r"raises cannot be made: ValueError: bad \*\*\*") as raised:
        open_exporter((f"{__name__}.raises", {"headers": {"x-key": "s3cret"}}))
    assert "s3cret" not in str(raised.value)


def raises(headers: dict[str, str]) -> SpanExporter:
    """A factory that fails, and says too much."""
    raise ValueError(f"bad {headers['x-key']}")


def test_http_instance_is_used_as_it_is_and_warned_of(receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture) -> None:
    """The documented limit: its answers cannot be checked, so that a redirect counts as success."""
    exporter = open_exporter(OTLPSpanExporter(endpoint=receiver.traces_endpoint))
    assert "redirects" in caplog.text
    assert exporter.export(make_spans("a")) == ACCEPTED
    receiver.misbehave(Respond(304))
    assert exporter.export(make_spans("a")) == ACCEPTED
