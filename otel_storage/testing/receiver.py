"""A small OTLP/HTTP receiver for tests: it decodes what arrives and can be told to misbehave.

The receiver is a real server on a real port, so tests see real behaviour: compression, lost connections, a closed
port, late answers, and partial success.

    with OtlpReceiver() as receiver:
        exporter = OTLPSpanExporter(endpoint=receiver.traces_endpoint)
        receiver.misbehave(Respond(503), times=2)
        ...
        assert receiver.wait_for(1)
        assert receiver.spans[0].name == "RUN nightly"

The receiver takes spans as protobuf over HTTP and keeps everything in memory.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
import random
import socket
import socketserver
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Protocol

# Neither of these two Google packages ships type information.
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
from google.rpc.status_pb2 import Status as RpcStatus  # type: ignore[import-untyped, unused-ignore]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status as SpanStatus

__all__ = [
    "Answer",
    "DropAcknowledgement",
    "Exchange",
    "Fault",
    "Fraction",
    "OtlpReceiver",
    "PartialSuccess",
    "ReceivedEvent",
    "ReceivedLink",
    "ReceivedRequest",
    "ReceivedSpan",
    "RefuseSpan",
    "Respond",
    "Slow",
    "Times",
]

_logger = logging.getLogger(__name__)

TRACES_PATH = "/v1/traces"
PROTOBUF = "application/x-protobuf"

_STOP_TIMEOUT = 5.0  # seconds that stop() waits for requests in progress


# What arrives


@dataclass(frozen=True)
class ReceivedEvent:
    """An event of a received span."""

    name: str
    """The event's name."""
    time: int
    """The event's time, in nanoseconds since the epoch."""
    attributes: dict[str, Any] = field(hash=False)
    """The event's attributes as Python values."""


@dataclass(frozen=True)
class ReceivedLink:
    """A link of a received span to another span."""

    trace_id: str
    """The other span's trace, 32 hexadecimal digits."""
    span_id: str
    """The other span, 16 hexadecimal digits."""
    attributes: dict[str, Any] = field(hash=False)
    """The link's attributes as Python values."""


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it arrived, with the resource and the scope it arrived under."""

    trace_id: str
    """The trace's id, 32 hexadecimal digits."""
    span_id: str
    """The span's id, 16 hexadecimal digits."""
    parent_span_id: str
    """The parent span's id, 16 hexadecimal digits, or "" for a root."""
    name: str
    """The span's name."""
    kind: str
    """One of "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER" and "UNSPECIFIED"."""
    start_time_unix_nano: int
    """Start, in nanoseconds since the epoch."""
    end_time_unix_nano: int
    """End, in nanoseconds since the epoch."""
    attributes: dict[str, Any] = field(hash=False)
    """The span's attributes as Python values (str, bool, int, float, bytes, list, dict, None)."""
    events: list[ReceivedEvent] = field(hash=False)
    """The span's events, in their order."""
    links: list[ReceivedLink] = field(hash=False)
    """The span's links, in their order."""
    status_code: str
    """One of "UNSET", "OK" and "ERROR"."""
    status_message: str
    """The description of an error, or ""."""
    resource: dict[str, Any] = field(hash=False)
    """The resource's attributes as Python values."""
    scope_name: str
    """The name of the instrumentation scope, or ""."""
    scope_version: str
    """The version of the instrumentation scope, or ""."""
    raw: bytes = field(repr=False)
    """The protobuf span, serialised deterministically: equal bytes mean an equal span."""


@dataclass(eq=False)
class ReceivedRequest:
    """An HTTP request as it arrived, accepted or not."""

    method: str
    """The HTTP method; "" if the request could not be parsed as HTTP."""
    path: str
    """The requested path; the first line of the request if that could not be parsed as HTTP."""
    headers: Message
    """The headers; names are looked up in any case."""
    body: bytes
    """The body, decompressed if possible, otherwise as it arrived."""
    spans: tuple[ReceivedSpan, ...] = ()
    """Every span of the request, in order; empty if the body could not be decoded."""
    accepted_spans: tuple[ReceivedSpan, ...] = ()
    """The spans that the receiver accepted."""
    accepted: bool = False
    """Whether the receiver accepted any part of the request; False if a ``PartialSuccess`` rejected all spans."""
    status: int | None = None
    """The HTTP status of the answer; None before the answer, and if the connection was closed without one."""


def _value(value: AnyValue) -> Any:
    """Return a protobuf value as the Python value it stands for."""
    which = value.WhichOneof("value")
    if which is None:
        return None
    if which == "array_value":
        return [_value(item) for item in value.array_value.values]
    if which == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, which)


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _identifier(value: bytes, length: int, what: str) -> str:
    """Return an id in hexadecimal.

    Raises:
        ValueError: the id has not ``length`` bytes, or is all zero: backends refuse such a request.
    """
    if len(value) != length or not any(value):
        raise ValueError(f"{what} must be {length} bytes and not all zero, not {value.hex() or 'empty'}")
    return value.hex()


def _enum_name(enum: Any, number: int, prefix: str) -> str:
    try:
        name: str = enum.Name(number)
    except ValueError:  # newer than the protobuf definitions installed here
        return str(number)
    return name.removeprefix(prefix)


def _received_span(span: SpanMessage, resource: dict[str, Any], scope: InstrumentationScope) -> ReceivedSpan:
    return ReceivedSpan(
        trace_id=_identifier(span.trace_id, 16, "a trace id"),
        span_id=_identifier(span.span_id, 8, "a span id"),
        parent_span_id=_identifier(span.parent_span_id, 8, "a parent span id") if span.parent_span_id else "",
        name=span.name,
        kind=_enum_name(SpanMessage.SpanKind, span.kind, "SPAN_KIND_"),
        start_time_unix_nano=span.start_time_unix_nano,
        end_time_unix_nano=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        events=[
            ReceivedEvent(event.name, event.time_unix_nano, _attributes(event.attributes)) for event in span.events
        ],
        links=[
            ReceivedLink(
                _identifier(link.trace_id, 16, "a link's trace id"),
                _identifier(link.span_id, 8, "a link's span id"),
                _attributes(link.attributes),
            )
            for link in span.links
        ],
        status_code=_enum_name(SpanStatus.StatusCode, span.status.code, "STATUS_CODE_"),
        status_message=span.status.message,
        resource=resource,
        scope_name=scope.name,
        scope_version=scope.version,
        raw=span.SerializeToString(deterministic=True),
    )


def _decode_spans(body: bytes) -> tuple[ReceivedSpan, ...]:
    """Return the spans of an export request.

    Raises:
        ValueError: the body is not an export request, or an id in it is malformed.
    """
    try:
        message = ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise ValueError(f"not an ExportTraceServiceRequest: {error}") from error
    return tuple(
        _received_span(span, _attributes(resource_spans.resource.attributes), scope_spans.scope)
        for resource_spans in message.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    )


def _decompress(body: bytes, encoding: str) -> bytes:
    """Undo a Content-Encoding.

    Raises:
        ValueError: the encoding is unknown, or the body is not encoded so.
    """
    try:
        match encoding.strip().lower():
            case "" | "identity":
                return body
            case "gzip":
                return gzip.decompress(body)
            case "deflate":
                try:
                    return zlib.decompress(body)
                except zlib.error:  # some clients leave the zlib wrapper out
                    return zlib.decompress(body, -zlib.MAX_WBITS)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"the body is not {encoding}: {error}") from error
    raise ValueError(f"unsupported Content-Encoding {encoding!r}: gzip, deflate or none")


# How it is answered


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    """The HTTP status."""
    body: bytes = b""
    """The body."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers; Content-Length is added when it is sent."""

    @classmethod
    def success(cls, *, rejected: int = 0, message: str = "") -> Answer:
        """Return the 200 of OTLP, with a ``partial_success`` if it says anything."""
        response = ExportTraceServiceResponse()
        if rejected or message:
            response.partial_success.CopyFrom(ExportTracePartialSuccess(rejected_spans=rejected, error_message=message))
        return cls(200, response.SerializeToString(), {"Content-Type": PROTOBUF})

    @classmethod
    def error(cls, status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Return an error as OTLP wants it: a status, and a ``google.rpc.Status`` with the reason."""
        body = RpcStatus(message=message).SerializeToString()
        return cls(status, body, {"Content-Type": PROTOBUF, **(headers or {})})


class Exchange:
    """A well-formed export request and its answer: a fault reads and changes this."""

    def __init__(self, headers: Message, spans: tuple[ReceivedSpan, ...]) -> None:
        """Start with an undecided outcome."""
        self.headers = headers
        """The request's headers."""
        self.spans = spans
        """The spans of the request."""
        self.delay = 0.0
        """Seconds to wait before the answer."""
        self.settled = False
        """Whether the outcome has been decided."""
        self.answer: Answer | None = None
        """The decided answer; None closes the connection without an answer."""
        self.accepted = False
        """Whether the request is accepted, in whole or in part."""
        self.accepted_spans: tuple[ReceivedSpan, ...] = ()
        """The spans that are accepted."""

    def settle(self, answer: Answer | None, accepted: Iterable[ReceivedSpan] | None = None) -> bool:
        """Decide the outcome, unless it has been decided already.

        Args:
            answer: What to answer; None closes the connection without an answer.
            accepted: The spans that the receiver takes; None refuses the request.

        Returns:
            Whether this call decided it: the first one does.
        """
        if self.settled:
            return False
        self.settled = True
        self.answer = answer
        self.accepted_spans = tuple(accepted or ())
        # A request without spans is accepted; a request whose spans were all rejected is not.
        self.accepted = accepted is not None and (bool(self.accepted_spans) or not self.spans)
        return True


class Fault(Protocol):
    """Anything that can be called with an ``Exchange`` to change how it ends.

    Faults are asked in order, one request at a time, about well-formed export requests only. Delays add up;
    the first fault that decides the outcome wins, and those after it do nothing and use up none of their
    times.
    """

    def __call__(self, exchange: Exchange, /) -> bool:
        """Act on the request, or leave it alone.

        Returns:
            Whether it acted.
        """


@dataclass(frozen=True)
class Respond:
    """Answers with this status and takes no span, whatever the status says (so ``Respond(200)`` is a lie).

    Raises:
        ValueError: the status cannot end a request.
    """

    status: int
    """The HTTP status, 200 to 599."""
    retry_after: float | str | None = None
    """The Retry-After header: seconds, or an HTTP date. None leaves it out."""
    body: bytes = b""
    """The body, sent as it is."""
    location: str = "/elsewhere"
    """The Location header, sent with a 3xx status only."""

    def __post_init__(self) -> None:
        """Check the status."""
        if not 200 <= self.status <= 599:
            raise ValueError(f"an answer's status is 200 to 599, not {self.status}")

    def __call__(self, exchange: Exchange) -> bool:
        """Decide on this answer."""
        headers = {"Content-Type": "text/plain"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if 300 <= self.status < 400:
            headers["Location"] = self.location
        return exchange.settle(Answer(self.status, self.body, headers))


@dataclass(frozen=True)
class Slow:
    """Takes the spans at once and answers late; ``OtlpReceiver.stop`` ends the wait without an answer."""

    seconds: float
    """Seconds until the answer."""

    def __call__(self, exchange: Exchange) -> bool:
        """Add to the delay."""
        exchange.delay += self.seconds
        return True


@dataclass(frozen=True)
class DropAcknowledgement:
    """Takes the spans, then closes the connection without an answer; a careful sender sends them again."""

    def __call__(self, exchange: Exchange) -> bool:
        """Decide to take everything and say nothing."""
        return exchange.settle(None, exchange.spans)


@dataclass(frozen=True)
class PartialSuccess:
    """Answers 200 with a ``partial_success``, and does not take the first spans of the request.

    Raises:
        ValueError: ``rejected`` is negative.
    """

    rejected: int
    """The most spans that are rejected; the answer has the real number. With 0, the message is a warning."""
    message: str = "rejected by the test receiver"
    """The reason in the answer."""

    def __post_init__(self) -> None:
        """Check the number."""
        if self.rejected < 0:
            raise ValueError(f"a number of spans is not negative: {self.rejected}")

    def __call__(self, exchange: Exchange) -> bool:
        """Decide to take the rest."""
        rejected = min(self.rejected, len(exchange.spans))
        return exchange.settle(Answer.success(rejected=rejected, message=self.message), exchange.spans[rejected:])


@dataclass(frozen=True)
class RefuseSpan:
    """Refuses, as a whole, each request that contains a matching span; other requests pass."""

    predicate: Callable[[ReceivedSpan], bool]
    """Whether a span matches."""
    status: int = 400
    """The HTTP status of the refusal."""

    def __call__(self, exchange: Exchange) -> bool:
        """Decide to refuse, if there is such a span."""
        if exchange.settled:
            return False
        disliked = next((span for span in exchange.spans if self.predicate(span)), None)
        if disliked is None:
            return False
        return exchange.settle(Answer.error(self.status, f"span {disliked.span_id} is refused"))


@dataclass
class Fraction:
    """Applies another fault to a random part of the requests.

    Raises:
        ValueError: ``p`` is not a probability.
    """

    p: float
    """The probability, 0 to 1."""
    fault: Fault
    """The fault."""
    seed: int = 0
    """The seed of the random numbers: the same seed selects the same requests, counted in order of arrival."""
    _random: random.Random = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the probability, seed the random numbers."""
        if not 0 <= self.p <= 1:
            raise ValueError(f"a probability is 0 to 1, not {self.p}")
        self._random = random.Random(self.seed)

    def __call__(self, exchange: Exchange) -> bool:
        """Throw the dice."""
        return self._random.random() < self.p and self.fault(exchange)


@dataclass
class Times:
    """Applies another fault until it has acted a number of times."""

    times: int
    """How many times are left."""
    fault: Fault
    """The fault."""

    def __call__(self, exchange: Exchange) -> bool:
        """Apply the fault and count, if times are left."""
        if self.times <= 0 or not self.fault(exchange):
            return False
        self.times -= 1
        return True


# The server


class OtlpReceiver:
    """An OTLP/HTTP receiver on 127.0.0.1 that remembers what it was sent.

    ``POST /v1/traces`` takes ``application/x-protobuf``, plain or with ``Content-Encoding: gzip`` or ``deflate``. It
    answers 400 to what cannot be decoded, 404 to other paths, 405 to other methods, 411 without a
    Content-Length, 413 to a body that is too large, 415 to another content type, and 500 if a fault raises
    (it is logged).

    A request is recorded before its answer leaves: when an export returns, it can be asserted on. All methods
    may be called from any thread; lists and dicts returned are the caller's own. Records and faults outlive
    ``stop`` and a new ``start``.
    """

    def __init__(self, port: int = 0, *, max_body_bytes: int | None = None) -> None:
        """Make a receiver; it listens from ``start`` on, or inside ``with``.

        Args:
            port: The port to listen on. 0 lets the system choose one, which is kept from then on, so that a
                receiver that was stopped can be started again on it.
            max_body_bytes: A decompressed body larger than this is answered 413. None sets no limit.
        """
        self.faults: list[Fault] = []
        """The faults in force, asked in order; see ``Fault``. Append to it, or use ``misbehave``."""
        self._port = port
        self._max_body_bytes = max_body_bytes
        self._requests: list[ReceivedRequest] = []
        self._changed = threading.Condition()  # re-entrant: predicates and faults may look at the receiver
        self._server: _Server | None = None

    # Life

    def start(self) -> None:
        """Listen.

        Raises:
            RuntimeError: the receiver listens already.
            OSError: the port is taken.
        """
        if self._server is not None:
            raise RuntimeError("this receiver has been started already")
        self._server = _Server(self, self._port)
        self._port = self._server.server_address[1]
        self._server.serve_in_background()

    def stop(self) -> None:
        """Close the port and every open connection, kept-alive ones too; a second call does nothing.

        Requests being answered lose their answer. After it returns, nothing more is recorded and the port
        refuses connections, even if a forked process has inherited it. In such a process, where the server
        does not run, it only lets go of the inherited port.
        """
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def __enter__(self) -> OtlpReceiver:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    @property
    def port(self) -> int:
        """The port, also while stopped.

        Raises:
            RuntimeError: the system chooses the port, and the receiver was never started.
        """
        if not self._port:
            raise RuntimeError("the port is chosen when the receiver is started: call start() first")
        return self._port

    @property
    def endpoint(self) -> str:
        """The base URL, for ``OTEL_EXPORTER_OTLP_ENDPOINT``; errors as for ``port``."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def traces_endpoint(self) -> str:
        """The URL that spans are posted to, for an exporter's ``endpoint``; errors as for ``port``."""
        return self.endpoint + TRACES_PATH

    # What arrived

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Every request in order of arrival, including refused and malformed ones."""
        with self._changed:
            return list(self._requests)

    @property
    def spans(self) -> list[ReceivedSpan]:
        """The accepted spans in order of arrival, duplicates included."""
        with self._changed:
            return [span for request in self._requests for span in request.accepted_spans]

    @property
    def spans_by_id(self) -> dict[tuple[str, str], list[ReceivedSpan]]:
        """The accepted spans by (trace id, span id); a list has several if a span was sent again."""
        found: dict[tuple[str, str], list[ReceivedSpan]] = {}
        for span in self.spans:
            found.setdefault((span.trace_id, span.span_id), []).append(span)
        return found

    def traces(self) -> dict[str, list[ReceivedSpan]]:
        """Return the accepted spans by trace id, the first arrival alone of each span id."""
        found: dict[str, list[ReceivedSpan]] = {}
        for (trace_id, _), spans in self.spans_by_id.items():
            found.setdefault(trace_id, []).append(spans[0])
        return found

    @property
    def bytes_received(self) -> bytes:
        """All received bytes (request lines, headers, bodies), to search for data that should not be sent.

        Refused requests are included; bodies are decompressed if possible.
        """
        parts: list[bytes] = []
        for request in self.requests:
            head = [f"{request.method} {request.path}"]
            head += [f"{name}: {value}" for name, value in request.headers.raw_items()]
            # http.server reads headers as latin-1, so this gives back the bytes that were sent.
            parts += ["\r\n".join(head).encode("latin-1", "replace"), b"\r\n\r\n", request.body, b"\r\n"]
        return b"".join(parts)

    def wait_for(self, predicate_or_count: Callable[[OtlpReceiver], bool] | int, timeout: float = 10.0) -> bool:
        """Wait until enough has arrived.

        Args:
            predicate_or_count: A number of accepted spans (duplicates count), or a function of the receiver
                that is asked after every request and answer, and holds up others while it runs.
            timeout: Seconds to wait at most.

        Returns:
            Whether the condition was met in time.
        """
        if isinstance(predicate_or_count, int):
            count = predicate_or_count

            def reached() -> bool:
                return sum(len(request.accepted_spans) for request in self._requests) >= count

        else:
            predicate = predicate_or_count

            def reached() -> bool:
                return predicate(self)

        with self._changed:
            return self._changed.wait_for(reached, timeout)

    def clear(self) -> None:
        """Forget what arrived; faults stay in force."""
        with self._changed:
            self._requests.clear()

    # Misbehaviour

    def misbehave(self, fault: Fault, times: int | None = None) -> None:
        """Put a fault in force, after the existing ones.

        Args:
            fault: The fault.
            times: How many times the fault may act; None for any number.
        """
        with self._changed:
            self.faults.append(fault if times is None else Times(times, fault))

    def behave(self) -> None:
        """Lift all faults; their decisions about requests in progress stand."""
        with self._changed:
            self.faults.clear()

    # For the handlers

    def _record(self, request: ReceivedRequest) -> None:
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()

    def _answering(self, request: ReceivedRequest, status: int) -> None:
        with self._changed:
            request.status = status
            self._changed.notify_all()

    def _decide(self, request: ReceivedRequest, content_type: str) -> tuple[Answer | None, float]:
        """Record a decompressed POST to the right path, and return its answer and the delay before it."""
        if self._max_body_bytes is not None and len(request.body) > self._max_body_bytes:
            self._record(request)
            message = f"{len(request.body)} bytes are more than {self._max_body_bytes}"
            return Answer.error(413, message), 0.0
        if content_type != PROTOBUF:
            self._record(request)
            return Answer.error(415, f"Content-Type {content_type!r} is not {PROTOBUF}"), 0.0
        try:
            request.spans = _decode_spans(request.body)
        except ValueError as error:
            self._record(request)
            return Answer.error(400, str(error)), 0.0

        exchange = Exchange(request.headers, request.spans)
        with self._changed:  # one request at a time: counts and seeded dice must not race
            try:
                for fault in list(self.faults):
                    fault(exchange)
            except Exception:
                _logger.exception("a fault of the test receiver raised")
                exchange = Exchange(request.headers, request.spans)
                exchange.settle(Answer.error(500, "a fault of the test receiver raised, see its log"))
            exchange.settle(Answer.success(), exchange.spans)
            request.accepted_spans = exchange.accepted_spans
            request.accepted = exchange.accepted
            self._record(request)
        return exchange.answer, exchange.delay


class _Server(ThreadingHTTPServer):
    """Listens once; a receiver that is started again gets a new one."""

    daemon_threads = True
    allow_reuse_address = True  # a restart gets the same port at once, while old connections linger
    allow_reuse_port = False  # newer Pythons enable it, and two receivers would silently share a port
    request_queue_size = 128

    def __init__(self, receiver: OtlpReceiver, port: int) -> None:
        self.receiver = receiver
        self._pid = os.getpid()
        self.closing = threading.Event()
        self._connections: set[socket.socket] = set()
        self._connections_changed = threading.Condition()
        self._thread = threading.Thread(
            # A stop is noticed after this interval at the latest.
            target=self.serve_forever,
            kwargs={"poll_interval": 0.02},
            name="otlp-receiver",
            daemon=True,
        )
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer.server_bind() looks the address up in DNS, which can take seconds.
        socketserver.TCPServer.server_bind(self)

    def serve_in_background(self) -> None:
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._connections_changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._connections_changed:
            self._connections.discard(request)
            self._connections_changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if isinstance(error, OSError):  # the client went away, or stop() closed the connection
            _logger.debug("a connection broke", exc_info=error)
        else:
            _logger.error("the test receiver failed", exc_info=error)

    def close(self) -> None:
        if os.getpid() != self._pid:  # forked: the thread and the port belong to the parent
            self.socket.close()
            return
        self.closing.set()
        self.shutdown()
        self._thread.join()
        # close() alone would leave the port open if a forked process has a copy of the socket.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.server_close()
        with self._connections_changed:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            if not self._connections_changed.wait_for(lambda: not self._connections, _STOP_TIMEOUT):
                _logger.warning("%d requests outlive the test receiver", len(self._connections))


class _Handler(BaseHTTPRequestHandler):
    """One connection, kept alive over several requests."""

    server: _Server
    protocol_version = "HTTP/1.1"  # exporters keep connections alive, which tests must cover
    server_version = "otel-storage-test-receiver"
    disable_nagle_algorithm = True
    raw_requestline: bytes  # set by http.server, unknown to its stubs

    def _handle(self) -> None:
        request = ReceivedRequest(self.command, self.path, self.headers, body=b"")
        refusal = self._read_body(request) or self._check_route()
        if refusal is None:
            try:
                request.body = _decompress(request.body, self.headers.get("Content-Encoding", ""))
            except ValueError as error:
                refusal = Answer.error(400, str(error))
        else:
            # The answer is known already; decompress anyway, for ``bytes_received``.
            with contextlib.suppress(ValueError):
                request.body = _decompress(request.body, self.headers.get("Content-Encoding", ""))

        answer: Answer | None
        if refusal is not None:
            self.server.receiver._record(request)
            answer = refusal
        else:
            answer, delay = self.server.receiver._decide(request, self.headers.get_content_type())
            if self.server.closing.wait(delay):
                answer = None
        self._send(request, answer)

    # The names that http.server looks for; it answers 501 to any other method.
    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _handle

    def _read_body(self, request: ReceivedRequest) -> Answer | None:
        """Read the body, even of a request that will be refused: otherwise the answer could meet a reset connection."""
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
            return Answer.error(411, "the test receiver takes no chunked bodies")
        length = self.headers.get("Content-Length")
        if length is None:
            return Answer.error(411, "Content-Length is missing") if self.command == "POST" else None
        if not (length.isascii() and length.isdigit()):
            self.close_connection = True
            return Answer.error(400, f"Content-Length {length!r} is not a number")
        request.body = self.rfile.read(int(length))
        if len(request.body) < int(length):  # a truncated message may decode as another message
            self.close_connection = True
            return Answer.error(400, f"{len(request.body)} of {length} bytes arrived")
        return None

    def _check_route(self) -> Answer | None:
        if self.path.partition("?")[0] != TRACES_PATH:
            return Answer.error(404, f"there is nothing but {TRACES_PATH}")
        if self.command != "POST":
            return Answer.error(405, "use POST", {"Allow": "POST"})
        return None

    def _send(self, request: ReceivedRequest, answer: Answer | None) -> None:
        if answer is None:
            self.close_connection = True
            return
        self.server.receiver._answering(request, answer.status)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        # If HTTP allows no body, a client would read one as the start of the next answer.
        body = b"" if self.command == "HEAD" or answer.status in (204, 304) else answer.body
        if answer.status != 204:
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if body:
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        # http.server calls this for data that is not HTTP; record that too.
        line = self.raw_requestline.decode("latin-1").rstrip("\r\n")
        self.server.receiver._record(ReceivedRequest("", line, Message(), body=b"", status=code))
        super().send_error(code, message, explain)

    def log_message(self, format: str, *args: Any) -> None:
        _logger.debug("%s %s", self.address_string(), format % args)
