"""The OTLP receiver: it decodes what a real exporter sends, and its faults are what a sender would meet."""

from __future__ import annotations

import gzip
import http.client
import os
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

import otel_storage.testing
from otel_storage.testing import (
    DropAcknowledgement,
    Exchange,
    Fault,
    Fraction,
    OtlpReceiver,
    PartialSuccess,
    ReceivedEvent,
    ReceivedLink,
    RefuseSpan,
    Respond,
    Slow,
    Times,
)

PROTOBUF = {"Content-Type": "application/x-protobuf"}
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"

Export = Callable[..., SpanExportResult]


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """A receiver that listens."""
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture
def export(receiver: OtlpReceiver) -> Iterator[Export]:
    """Send named spans with the real exporter."""
    exporter = OTLPSpanExporter(endpoint=receiver.traces_endpoint, timeout=5)

    def send(*names: str) -> SpanExportResult:
        return exporter.export([sdk_span(name) for name in names])

    yield send
    exporter.shutdown()  # type: ignore[no-untyped-call]  # the exporter has left its annotations out


def context(span_id: int) -> SpanContext:
    """A span context in the one trace of these tests."""
    return SpanContext(int(TRACE_ID, 16), span_id, is_remote=False, trace_flags=TraceFlags(1))


def sdk_span(name: str) -> ReadableSpan:
    """A finished span whose id depends on its name alone."""
    return ReadableSpan(
        name=name,
        context=context(zlib.crc32(name.encode()) + 1),
        resource=Resource({"service.name": "tests"}),
        instrumentation_scope=InstrumentationScope("scope", "1.2"),
        start_time=1,
        end_time=2,
    )


def body_of(*names: str) -> bytes:
    """An export request with spans of these names, for plain HTTP."""
    spans = [
        SpanMessage(trace_id=bytes.fromhex(TRACE_ID), span_id=(number + 1).to_bytes(8, "big"), name=name)
        for number, name in enumerate(names)
    ]
    return request_of(*spans)


def request_of(*spans: SpanMessage) -> bytes:
    """An export request with these protobuf spans."""
    resource_spans = ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])
    body: bytes = ExportTraceServiceRequest(resource_spans=[resource_spans]).SerializeToString()
    return body


def ask(
    receiver: OtlpReceiver,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    *,
    method: str = "POST",
    path: str = "/v1/traces",
) -> tuple[int, dict[str, str], bytes]:
    """Make one request with http.client; returns status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=10)
    try:
        connection.request(method, path, body, PROTOBUF if headers is None else headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def names(receiver: OtlpReceiver) -> list[str]:
    """The names of the accepted spans."""
    return [span.name for span in receiver.spans]


class TestDecoding:
    """What arrives is what was sent."""

    def test_every_part_of_a_span_arrives(self, receiver: OtlpReceiver) -> None:
        """Ids, times, attributes, events, links, status, resource and scope are decoded."""
        span = ReadableSpan(
            name="RUN nightly",
            context=context(1),
            parent=context(2),
            kind=SpanKind.SERVER,
            resource=Resource({"service.name": "pipelines"}),
            instrumentation_scope=InstrumentationScope("otel_storage", "1.2"),
            attributes={"s": "x", "b": True, "i": 7, "f": 0.5, "list": ("a", "b")},
            events=[Event("exception", {"exception.type": "ValueError"}, timestamp=1_500)],
            links=[Link(context(3), {"why": "retry"})],
            status=Status(StatusCode.ERROR, "broken"),
            start_time=1_000,
            end_time=2_000,
        )
        exporter = OTLPSpanExporter(endpoint=receiver.traces_endpoint)
        assert exporter.export([span]) is SpanExportResult.SUCCESS
        (received,) = receiver.spans
        assert received.trace_id == TRACE_ID
        assert received.span_id == "0000000000000001"
        assert received.parent_span_id == "0000000000000002"
        assert received.name == "RUN nightly"
        assert received.kind == "SERVER"
        assert (received.start_time_unix_nano, received.end_time_unix_nano) == (1_000, 2_000)
        assert received.attributes == {"s": "x", "b": True, "i": 7, "f": 0.5, "list": ["a", "b"]}
        assert received.events == [ReceivedEvent("exception", 1_500, {"exception.type": "ValueError"})]
        assert received.links == [ReceivedLink(TRACE_ID, "0000000000000003", {"why": "retry"})]
        assert (received.status_code, received.status_message) == ("ERROR", "broken")
        assert received.resource["service.name"] == "pipelines"
        assert (received.scope_name, received.scope_version) == ("otel_storage", "1.2")
        assert SpanMessage.FromString(received.raw).name == "RUN nightly"
        assert hash(received) == hash(received)

    def test_a_plain_root_span_has_empty_parts(self, receiver: OtlpReceiver) -> None:
        """What was left out is "", empty or its default, never missing."""
        assert ask(receiver, body_of("root"))[0] == 200
        (span,) = receiver.spans
        assert span.parent_span_id == ""
        assert (span.kind, span.status_code, span.status_message) == ("UNSPECIFIED", "UNSET", "")
        assert (span.attributes, span.events, span.links, span.resource) == ({}, [], [], {})
        assert (span.scope_name, span.scope_version) == ("", "")

    def test_values_the_sdk_does_not_send(self, receiver: OtlpReceiver) -> None:
        """Bytes, maps, nested lists, empty values and unknown enum numbers are decoded as well."""
        nested = KeyValueList(values=[KeyValue(key="k", value=AnyValue(int_value=1))])
        array = ArrayValue(values=[AnyValue(kvlist_value=nested), AnyValue()])
        span = SpanMessage(
            trace_id=bytes.fromhex(TRACE_ID),
            span_id=b"12345678",
            attributes=[
                KeyValue(key="bytes", value=AnyValue(bytes_value=b"\x00\xff")),
                KeyValue(key="array", value=AnyValue(array_value=array)),
                KeyValue(key="none"),
            ],
        )
        span.MergeFromString(b"\x30\x63")  # kind = 99, which typed code cannot say
        ask(receiver, request_of(span))
        assert receiver.spans[0].attributes == {"bytes": b"\x00\xff", "array": [{"k": 1}, None], "none": None}
        assert receiver.spans[0].kind == "99"

    @pytest.mark.parametrize("compression", list(Compression))
    def test_the_exporter_may_compress(self, receiver: OtlpReceiver, compression: Compression) -> None:
        """Each compression of the real exporter is undone; the body is kept decompressed."""
        exporter = OTLPSpanExporter(endpoint=receiver.traces_endpoint, compression=compression)
        assert exporter.export([sdk_span("compressed")]) is SpanExportResult.SUCCESS
        assert names(receiver) == ["compressed"]
        assert b"compressed" in receiver.requests[0].body

    def test_deflate_without_a_zlib_wrapper(self, receiver: OtlpReceiver) -> None:
        """Raw deflate, which some clients send, is understood too."""
        raw = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = raw.compress(body_of("raw")) + raw.flush()
        assert ask(receiver, body, {**PROTOBUF, "Content-Encoding": "deflate"})[0] == 200
        assert names(receiver) == ["raw"]

    def test_a_success_is_an_empty_response(self, receiver: OtlpReceiver) -> None:
        """The answer is a protobuf response that mentions no partial success."""
        status, headers, body = ask(receiver, body_of("a"))
        assert (status, headers["Content-Type"]) == (200, "application/x-protobuf")
        assert not ExportTraceServiceResponse.FromString(body).HasField("partial_success")

    def test_a_request_without_spans_is_accepted(self, receiver: OtlpReceiver) -> None:
        """OTLP wants an empty request answered with success."""
        assert ask(receiver, b"")[0] == 200
        assert receiver.requests[0].accepted
        assert receiver.spans == []

    def test_a_span_sent_again_has_the_same_bytes(self, receiver: OtlpReceiver, export: Export) -> None:
        """Duplicates are kept, in order of arrival, and can be compared; a trace has each span once."""
        export("a", "b")
        export("a")
        assert names(receiver) == ["a", "b", "a"]
        twice, once = receiver.spans_by_id.values()
        assert [len(twice), len(once)] == [2, 1]
        assert twice[0].raw == twice[1].raw
        assert twice[0] == twice[1] != once[0]
        assert [span.name for span in receiver.traces()[TRACE_ID]] == ["a", "b"]


class TestRefusals:
    """What is not an export request is refused, recorded, and never taken."""

    @pytest.mark.parametrize(
        ("body", "headers", "status"),
        [
            pytest.param(b"\xff\xff\xff", PROTOBUF, 400, id="not protobuf"),
            pytest.param(b"\x00", {**PROTOBUF, "Content-Encoding": "gzip"}, 400, id="not gzip"),
            pytest.param(gzip.compress(b"x")[:-5], {**PROTOBUF, "Content-Encoding": "gzip"}, 400, id="cut gzip"),
            pytest.param(b"\xff", {**PROTOBUF, "Content-Encoding": "deflate"}, 400, id="not deflate"),
            pytest.param(b"", {**PROTOBUF, "Content-Encoding": "br"}, 400, id="unknown encoding"),
            pytest.param(b"{}", {"Content-Type": "application/json"}, 415, id="json"),
            pytest.param(b"", {}, 415, id="no content type"),
            pytest.param(b"", {**PROTOBUF, "Content-Length": "many"}, 400, id="bad length"),
            pytest.param(None, {**PROTOBUF, "Transfer-Encoding": "chunked"}, 411, id="chunked"),
        ],
    )
    def test_garbage(self, receiver: OtlpReceiver, body: bytes | None, headers: dict[str, str], status: int) -> None:
        """Each kind of garbage has its status, and the receiver works on."""
        assert ask(receiver, body, headers)[0] == status
        (request,) = receiver.requests
        assert (request.status, request.accepted, request.spans) == (status, False, ())
        assert ask(receiver, body_of("fine"))[0] == 200

    @pytest.mark.parametrize(
        "span",
        [
            pytest.param(SpanMessage(trace_id=b"short", span_id=b"12345678"), id="trace id"),
            pytest.param(SpanMessage(trace_id=b"1" * 16, span_id=bytes(8)), id="zero span id"),
            pytest.param(SpanMessage(trace_id=b"1" * 16, span_id=b"12345678", parent_span_id=b"1"), id="parent id"),
            pytest.param(SpanMessage(trace_id=b"1" * 16, span_id=b"12345678", links=[SpanMessage.Link()]), id="link"),
        ],
    )
    def test_malformed_ids(self, receiver: OtlpReceiver, span: SpanMessage) -> None:
        """Ids that a trace store would refuse are refused here."""
        status, _, body = ask(receiver, request_of(span))
        assert status == 400
        assert b"bytes and not all zero" in body

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
    def test_other_methods(self, receiver: OtlpReceiver, method: str) -> None:
        """405, with the method that is allowed."""
        status, headers, _ = ask(receiver, method=method)
        assert (status, headers["Allow"]) == (405, "POST")

    @pytest.mark.parametrize("path", ["/", "/v1/metrics", "/v1/traces/"])
    def test_other_paths(self, receiver: OtlpReceiver, path: str) -> None:
        """404, whatever is sent there."""
        assert ask(receiver, body_of("a"), path=path)[0] == 404
        assert ask(receiver, method="GET", path=path)[0] == 404
        assert receiver.spans == []

    def test_a_body_cut_short(self, receiver: OtlpReceiver) -> None:
        """A body that ends early is refused even where what arrived happens to decode."""
        head = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as connection:
            connection.sendall(head + b"Content-Length: 1000\r\n\r\n" + body_of("a"))
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
        assert receiver.spans == []

    def test_what_is_not_http_is_recorded_too(self, receiver: OtlpReceiver) -> None:
        """A first line that makes no sense is answered 400 and can be searched."""
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as connection:
            connection.sendall(b"one secret too many words\r\n\r\n")
            assert b" 400 " in connection.recv(1_000)
        assert b"secret" in receiver.bytes_received
        assert [request.status for request in receiver.requests] == [400]

    def test_a_body_too_large(self) -> None:
        """413 above the limit, 200 at it; the limit is on the decompressed body."""
        body = body_of("x" * 10_000)
        packed = {**PROTOBUF, "Content-Encoding": "gzip"}
        with OtlpReceiver(max_body_bytes=len(body)) as receiver:
            assert ask(receiver, gzip.compress(body), packed)[0] == 200
        with OtlpReceiver(max_body_bytes=len(body) - 1) as receiver:
            assert ask(receiver, gzip.compress(body), packed)[0] == 413
            assert not receiver.requests[0].accepted

    def test_everything_that_arrived_can_be_searched(self, receiver: OtlpReceiver) -> None:
        """Paths, headers, compressed bodies and the bodies of refused requests are all there."""
        receiver.misbehave(Respond(503))
        packed = {**PROTOBUF, "Content-Encoding": "gzip", "X-Key": "in a header"}
        ask(receiver, gzip.compress(body_of("in a body")), packed, path="/v1/traces?key=in-a-query")
        ask(receiver, gzip.compress(b"in a lost body"), packed, path="/nowhere")
        ask(receiver, b"not gzip", packed)
        for found in (b"in a header", b"in a body", b"in-a-query", b"in a lost body", b"not gzip"):
            assert found in receiver.bytes_received
        assert receiver.spans == []
        assert receiver.requests[0].headers["x-key"] == "in a header"


class TestFaults:
    """Each fault does what its name says to the sender and to the record."""

    def test_unavailable_then_well(self, receiver: OtlpReceiver, export: Export) -> None:
        """The exporter's own retry gets through after a 503 with Retry-After."""
        receiver.misbehave(Respond(503, retry_after=0.05), times=2)
        assert export("a") is SpanExportResult.SUCCESS
        assert [request.status for request in receiver.requests] == [503, 503, 200]
        assert [request.accepted for request in receiver.requests] == [False, False, True]
        assert names(receiver) == ["a"]

    @pytest.mark.parametrize("status", [400, 413])
    def test_refused_for_good(self, receiver: OtlpReceiver, export: Export, status: int) -> None:
        """The exporter does not try again, and the spans carried can still be seen."""
        receiver.faults.append(Respond(status, body=b"no"))
        assert export("a") is SpanExportResult.FAILURE
        assert [request.status for request in receiver.requests] == [status]
        assert [span.name for span in receiver.requests[0].spans] == ["a"]
        assert receiver.spans == []

    @pytest.mark.parametrize("status", [200, 302])
    def test_the_exporter_believes_a_lie(self, receiver: OtlpReceiver, export: Export, status: int) -> None:
        """A 200 from something that is no collector is a success to it; so is a redirect that it does not follow."""
        receiver.misbehave(Respond(status))
        result = export("a")
        followed = len(receiver.requests) > 1
        assert result is (SpanExportResult.FAILURE if followed else SpanExportResult.SUCCESS)
        assert not receiver.requests[0].accepted
        assert receiver.spans == []

    def test_what_respond_sends(self, receiver: OtlpReceiver) -> None:
        """Retry-After, Location and body are sent as they were given."""
        receiver.misbehave(Respond(429, retry_after=7, body=b"slow down"), times=1)
        receiver.misbehave(Respond(302, location="http://elsewhere/"), times=1)
        receiver.misbehave(Respond(204, body=b"never sent"), times=1)
        status, headers, body = ask(receiver, body_of("a"))
        assert (status, headers["Retry-After"], body) == (429, "7", b"slow down")
        assert "Location" not in headers
        status, headers, _ = ask(receiver, body_of("a"))
        assert (status, headers["Location"]) == (302, "http://elsewhere/")
        assert ask(receiver, body_of("a"))[::2] == (204, b"")

    def test_a_lost_acknowledgement(self, receiver: OtlpReceiver, export: Export) -> None:
        """The spans are taken, the exporter hears nothing and sends them again."""
        receiver.misbehave(DropAcknowledgement(), times=1)
        assert export("a") is SpanExportResult.SUCCESS
        assert [request.status for request in receiver.requests] == [None, 200]
        assert [request.accepted for request in receiver.requests] == [True, True]
        assert names(receiver) == ["a", "a"]

    def test_a_lost_acknowledgement_closes_the_connection(self, receiver: OtlpReceiver) -> None:
        """Not one byte of an answer is sent."""
        receiver.misbehave(DropAcknowledgement())
        with pytest.raises(http.client.RemoteDisconnected):
            ask(receiver, body_of("a"))
        assert names(receiver) == ["a"]

    def test_a_partial_success(self, receiver: OtlpReceiver, export: Export) -> None:
        """The first spans are not taken, the answer says so, and the exporter calls it a success."""
        receiver.misbehave(PartialSuccess(rejected=1, message="too old"))
        assert export("a", "b", "c") is SpanExportResult.SUCCESS
        assert names(receiver) == ["b", "c"]
        assert receiver.requests[0].accepted
        assert len(receiver.requests[0].spans) == 3
        _, _, body = ask(receiver, body_of("d", "e"))
        partial = ExportTraceServiceResponse.FromString(body).partial_success
        assert (partial.rejected_spans, partial.error_message) == (1, "too old")

    @pytest.mark.parametrize(("rejected", "taken", "accepted"), [(0, 2, True), (2, 0, False), (9, 0, False)])
    def test_the_ends_of_a_partial_success(
        self, receiver: OtlpReceiver, rejected: int, taken: int, accepted: bool
    ) -> None:
        """None rejected is a warning; all rejected is nothing accepted; more than all is all."""
        receiver.misbehave(PartialSuccess(rejected))
        status, _, body = ask(receiver, body_of("a", "b"))
        partial = ExportTraceServiceResponse.FromString(body).partial_success
        assert (status, partial.rejected_spans) == (200, 2 - taken)
        assert len(receiver.spans) == taken
        assert receiver.requests[0].accepted is accepted

    def test_a_span_that_is_refused(self, receiver: OtlpReceiver, export: Export) -> None:
        """One bad span makes the receiver refuse its whole request, and no other request."""
        receiver.misbehave(RefuseSpan(lambda span: span.name == "bad"))
        assert export("a", "bad") is SpanExportResult.FAILURE
        assert export("a") is SpanExportResult.SUCCESS
        assert [request.status for request in receiver.requests] == [400, 200]
        assert names(receiver) == ["a"]

    def test_a_slow_answer(self, receiver: OtlpReceiver, export: Export) -> None:
        """A slow answer is accepted like any other."""
        receiver.misbehave(Slow(0.05))
        assert export("a") is SpanExportResult.SUCCESS
        assert names(receiver) == ["a"]

    def test_an_answer_too_late(self, receiver: OtlpReceiver) -> None:
        """A sender that gives up does not know that its spans were taken."""
        receiver.misbehave(Slow(3_600))
        exporter = OTLPSpanExporter(endpoint=receiver.traces_endpoint, timeout=0.1)
        with suppress(requests.exceptions.Timeout):  # OpenTelemetry 1.36 and older raise it
            assert exporter.export([sdk_span("a")]) is SpanExportResult.FAILURE
        assert receiver.wait_for(1)
        assert receiver.requests[0].status is None

    def test_stop_ends_a_slow_answer(self, receiver: OtlpReceiver) -> None:
        """The wait is cut short, the answer lost, the spans kept."""
        receiver.misbehave(Slow(3_600))
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(ask, receiver, body_of("a"))
            assert receiver.wait_for(1)
            receiver.stop()
            assert isinstance(answer.exception(timeout=10), (http.client.RemoteDisconnected, ConnectionError))
        assert names(receiver) == ["a"]
        assert receiver.requests[0].status is None

    def test_a_fraction(self, receiver: OtlpReceiver) -> None:
        """The same seed picks the same requests; another one others; 0 none and 1 all."""

        def statuses(p: float, seed: int) -> list[int]:
            receiver.behave()
            receiver.misbehave(Fraction(p, Respond(503), seed))
            return [ask(receiver, body_of("a"))[0] for _ in range(20)]

        assert set(statuses(0.5, seed=1)) == {200, 503}
        assert statuses(0.5, seed=1) == statuses(0.5, seed=1) != statuses(0.5, seed=2)
        assert set(statuses(0, seed=1)) == {200}
        assert set(statuses(1, seed=1)) == {503}

    def test_faults_compose(self, receiver: OtlpReceiver) -> None:
        """Delays add to an outcome, the first outcome wins, and those after it keep their times."""
        receiver.misbehave(Slow(0.01))
        receiver.misbehave(Respond(503), times=1)
        receiver.misbehave(Fraction(1, RefuseSpan(lambda span: True, status=422)), times=1)
        receiver.misbehave(PartialSuccess(1), times=1)
        assert [ask(receiver, body_of("a"))[0] for _ in range(4)] == [503, 422, 200, 200]
        assert [request.accepted for request in receiver.requests] == [False, False, False, True]

    def test_times_count_what_was_done(self, receiver: OtlpReceiver) -> None:
        """A fault that leaves a request alone does not use up its times."""
        receiver.misbehave(RefuseSpan(lambda span: span.name == "bad"), times=1)
        order = ["good", "bad", "bad"]
        assert [ask(receiver, body_of(name))[0] for name in order] == [200, 400, 200]

    def test_times_are_exact_under_concurrency(self, receiver: OtlpReceiver) -> None:
        """Many senders at once see a fault as often as it was ordered."""
        receiver.misbehave(Respond(503), times=7)
        with ThreadPoolExecutor(10) as pool:
            statuses = list(pool.map(lambda _: ask(receiver, body_of("a"))[0], range(40)))
        assert (statuses.count(503), statuses.count(200)) == (7, 33)
        assert len(receiver.spans) == 33

    def test_behave_lifts_faults(self, receiver: OtlpReceiver) -> None:
        """After it requests are answered as they should be."""
        receiver.misbehave(Respond(503))
        receiver.faults.append(Times(3, DropAcknowledgement()))
        receiver.behave()
        assert ask(receiver, body_of("a"))[0] == 200
        assert receiver.faults == []

    def test_a_fault_of_ones_own(self, receiver: OtlpReceiver) -> None:
        """A function of the exchange is a fault; the request's headers can be looked at."""

        def only_with_key(exchange: Exchange) -> bool:
            if exchange.headers["x-key"] == "right":
                return False
            return Respond(401)(exchange)

        fault: Fault = only_with_key
        receiver.misbehave(fault)
        assert ask(receiver, body_of("a"))[0] == 401
        assert ask(receiver, body_of("a"), {**PROTOBUF, "X-Key": "right"})[0] == 200

    def test_a_fault_that_raises_is_seen(self, receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture) -> None:
        """A mistake in a test's own predicate is a 500 and a logged traceback, not a passing test."""
        receiver.misbehave(RefuseSpan(lambda span: bool(span.attributes["absent"])))
        assert ask(receiver, body_of("a"))[0] == 500
        assert receiver.spans == []
        assert "KeyError: 'absent'" in caplog.text

    @pytest.mark.parametrize(
        "make",
        [
            lambda: Respond(99),
            lambda: Respond(600),
            lambda: PartialSuccess(-1),
            lambda: Fraction(1.5, DropAcknowledgement()),
        ],
    )
    def test_nonsense_is_refused(self, make: Callable[[], Fault]) -> None:
        """A fault that can mean nothing is an error where it is made."""
        with pytest.raises(ValueError, match="not"):
            make()


class TestLife:
    """Starting, stopping, waiting."""

    def test_an_outage(self, receiver: OtlpReceiver, export: Export) -> None:
        """A stopped receiver refuses connections, and comes back on the same port with what it had."""
        assert export("before") is SpanExportResult.SUCCESS
        port = receiver.port
        receiver.stop()
        with pytest.raises(ConnectionRefusedError):
            ask(receiver, body_of("during"))
        receiver.start()
        assert receiver.port == port
        # The exporter's kept-alive connection broke with the outage.
        assert export("after") is SpanExportResult.SUCCESS
        assert names(receiver) == ["before", "after"]

    def test_stop_closes_kept_alive_connections(self, receiver: OtlpReceiver) -> None:
        """A connection opened before the outage is no way around it."""
        connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=10)
        for _ in range(2):
            connection.request("POST", "/v1/traces", body_of("a"), PROTOBUF)
            connection.getresponse().read()
        kept = connection.sock
        receiver.stop()
        assert kept.recv(1) == b""
        connection.close()
        assert len(receiver.spans) == 2

    def test_stop_closes_a_port_a_child_has_inherited(self, receiver: OtlpReceiver) -> None:
        """A process that holds a copy of the listening socket keeps neither the port open nor it from us."""
        listening = receiver._server
        assert listening is not None
        wait_for_end_of_input = "import sys; sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", wait_for_end_of_input],
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
        ) as child:
            receiver.stop()
            with pytest.raises(ConnectionRefusedError):
                ask(receiver, body_of("during"))
            receiver.start()
            assert ask(receiver, body_of("after"))[0] == 200
            child.communicate()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    @pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
    def test_stop_in_a_forked_process_leaves_the_parent_alone(self, receiver: OtlpReceiver) -> None:
        """A child that leaves the `with` it was forked in neither hangs nor closes its parent's port."""
        child = os.fork()
        if child == 0:
            receiver.stop()
            os._exit(7)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        assert ask(receiver, body_of("a"))[0] == 200

    def test_another_receiver_can_take_the_port(self) -> None:
        """A port that was given up can be asked for by number; one in use cannot."""
        with OtlpReceiver() as first:
            with pytest.raises(OSError, match="in use"):
                OtlpReceiver(first.port).start()
            ask(first, body_of("a"))
        with OtlpReceiver(first.port) as second:
            assert second.endpoint == f"http://127.0.0.1:{first.port}"
            assert second.traces_endpoint == second.endpoint + "/v1/traces"
            assert ask(second, body_of("a"))[0] == 200

    def test_a_failed_start_can_be_repeated(self) -> None:
        """A taken port leaves the receiver stopped, not half started."""
        with OtlpReceiver() as first:
            second = OtlpReceiver(first.port)
            with pytest.raises(OSError, match="in use"):
                second.start()
        with second:
            assert ask(second, body_of("a"))[0] == 200

    def test_life_has_an_order(self) -> None:
        """No port before the start, no second start; a second stop is nothing."""
        receiver = OtlpReceiver()
        with pytest.raises(RuntimeError, match="call start"):
            _ = receiver.endpoint
        with receiver, pytest.raises(RuntimeError, match="already"):
            receiver.start()
        receiver.stop()

    def test_nothing_is_left_behind(self) -> None:
        """A stopped receiver leaves no thread, even while a connection was open."""
        before = set(threading.enumerate())
        with OtlpReceiver() as receiver:
            connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=10)
            connection.request("POST", "/v1/traces", body_of("a"), PROTOBUF)
            connection.getresponse().read()
        connection.close()
        left = set(threading.enumerate()) - before
        for thread in left:  # one may be past its last step and not yet gone
            thread.join(10)
        assert not any(thread.is_alive() for thread in left)

    def test_wait_for_a_count(self, receiver: OtlpReceiver) -> None:
        """The wait counts spans that are there and spans that arrive later, and ends at the timeout."""
        assert receiver.wait_for(0, timeout=0)
        assert not receiver.wait_for(1, timeout=0.01)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(receiver.wait_for, 3)
            ask(receiver, body_of("a", "b"))
            ask(receiver, body_of("c"))
            assert waiting.result(10)

    def test_wait_for_a_predicate(self, receiver: OtlpReceiver) -> None:
        """The predicate may use the receiver, and sees refusals as well."""
        receiver.misbehave(Respond(503))
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(
                receiver.wait_for, lambda seen: any(request.status == 503 for request in seen.requests)
            )
            ask(receiver, body_of("a"))
            assert waiting.result(10)
        assert not receiver.wait_for(lambda seen: bool(seen.traces()), timeout=0)

    def test_clear_forgets_what_arrived_and_keeps_faults(self, receiver: OtlpReceiver) -> None:
        """The record is empty afterwards; what was returned before is the caller's own."""
        ask(receiver, body_of("a"))
        spans = receiver.spans
        receiver.misbehave(Respond(503))
        receiver.clear()
        assert (receiver.requests, receiver.spans, receiver.traces()) == ([], [], {})
        assert receiver.bytes_received == b""
        assert len(spans) == 1
        assert ask(receiver, body_of("a"))[0] == 503


class TestPackage:
    """The public names."""

    def test_every_name_can_be_imported(self) -> None:
        """`__all__` tells the truth, and other names are errors."""
        for name in otel_storage.testing.__all__:
            assert getattr(otel_storage.testing, name).__name__ == name
        assert set(otel_storage.testing.__all__) <= set(dir(otel_storage.testing))
        with pytest.raises(AttributeError, match="Nonsense"):
            _ = otel_storage.testing.Nonsense
