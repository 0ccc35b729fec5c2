"""Renders the metrics in Prometheus' formats, and serves them for its scrapes."""

from __future__ import annotations

import logging
import socket
import socketserver
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from otel_storage.metrics.families import Family, Kind
from otel_storage.metrics.points import Attributes, Exemplar, FamilyPoints, Point, sorted_points
from otel_storage.metrics.troubles import Troubles
from otel_storage.ports.totals import BOUNDS, Histogram
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.results.extras import to_install

if TYPE_CHECKING:
    from prometheus_client import Metric

    from otel_storage.metrics.reading import Reader

logger = logging.getLogger("otel_storage.metrics")

DEFAULT_PORT = 9464
"""OpenTelemetry's default port for Prometheus exporters."""

DEFAULT_HOST = "127.0.0.1"
"""The loopback only: the operator decides whether other machines may see the names of pipelines."""

MOST_CONNECTIONS = 32
"""The most connections that are served at once; further ones are refused."""

LONGEST_CONNECTION = 30.0
"""Seconds after which a connection is closed even if its client is not done."""

_READ_TIMEOUT = 10.0
_UNITS = {"s": "seconds"}
_TYPES = {Kind.COUNTER: "counter", Kind.UP_DOWN: "gauge", Kind.GAUGE: "gauge", Kind.HISTOGRAM: "histogram"}


def prometheus_name(family: Family) -> str:
    """The metric's name by OpenTelemetry's rule for Prometheus, without the ``_total`` of counters."""
    name = prometheus_label(family.name)
    unit = _UNITS.get(family.unit, "")
    return name if not unit or name.endswith(f"_{unit}") else f"{name}_{unit}"


def prometheus_label(name: str) -> str:
    """The attribute's name as a Prometheus label."""
    return name.replace(".", "_")


def render(families: Sequence[FamilyPoints], accept: str = "") -> tuple[bytes, str]:
    """The metrics in the format that ``accept`` asks for (OpenMetrics or Prometheus' text), and the content type.

    Raises:
        ConfigurationError: prometheus-client is not installed.
    """
    exposition = _prometheus_client("exposition")
    encode, content_type = exposition.choose_encoder(accept)
    text: bytes = encode(_Collected([_as_metric(one) for one in families]))
    return text, str(content_type)


def check_installed() -> None:
    """Check that prometheus-client is installed.

    Raises:
        ConfigurationError: prometheus-client is not installed; the message says how to install it.
    """
    _prometheus_client("exposition")


def _prometheus_client(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"prometheus_client.{module}")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"metrics for Prometheus need prometheus-client, which is not installed; {to_install('prometheus')}"
        ) from error


class _Collected:
    """The rendered families in the shape of a registry of prometheus-client."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


def _as_metric(one: FamilyPoints) -> Metric:
    core: Any = _prometheus_client("metrics_core")
    family = one.family
    name = prometheus_name(family)
    metric: Metric = core.Metric(name, family.description, _TYPES[family.kind], _UNITS.get(family.unit, ""))
    for attributes, point in sorted_points(one.points):
        labels = _labels(attributes)
        if isinstance(point.value, Histogram):
            _add_histogram(metric, name, labels, point, point.value)
        elif family.kind is Kind.COUNTER:
            metric.add_sample(f"{name}_total", labels, point.value, exemplar=_exemplar(point.exemplar))
        else:
            metric.add_sample(name, labels, point.value)
    return metric


def _labels(attributes: Attributes) -> dict[str, str]:
    return {
        prometheus_label(name): str(value).lower() if isinstance(value, bool) else value for name, value in attributes
    }


def _add_histogram(metric: Metric, name: str, labels: dict[str, str], point: Point, histogram: Histogram) -> None:
    marked = None if point.exemplar is None else bisect_left(BOUNDS, point.exemplar.value)
    so_far = 0
    for number, count in enumerate(histogram.counts):
        so_far += count
        bound = str(float(BOUNDS[number])) if number < len(BOUNDS) else "+Inf"
        # An empty bucket has no run that could be its exemplar.
        exemplar = _exemplar(point.exemplar) if number == marked and count else None
        metric.add_sample(f"{name}_bucket", {**labels, "le": bound}, so_far, exemplar=exemplar)
    metric.add_sample(f"{name}_count", labels, so_far)
    metric.add_sample(f"{name}_sum", labels, histogram.total / 1_000_000)


def _exemplar(exemplar: Exemplar | None) -> Any:
    if exemplar is None:
        return None
    samples: Any = _prometheus_client("samples")
    return samples.Exemplar({"trace_id": f"{exemplar.trace_id:032x}"}, exemplar.value, exemplar.at.timestamp())


def parse_address(value: str) -> tuple[str, int]:
    """Parse ``HOST:PORT``, ``[IPV6]:PORT``, ``:PORT`` or ``PORT``; the default host is the loopback.

    Raises:
        ValueError: ``value`` has none of these forms.
    """
    host, _, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{value!r}: an IPv6 address is written in brackets, [::1]:{DEFAULT_PORT}")
    if not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise ValueError(f"{value!r} is no address: use HOST:PORT, e.g. {DEFAULT_HOST}:{DEFAULT_PORT}")
    return host or DEFAULT_HOST, int(port)


class MetricsServer:
    """Serves ``/metrics`` and ``/health`` over HTTP, in threads of this process.

    Args:
        reader: Gives the metrics.
        host: The address to listen on.
        port: The port to listen on; 0 for any free port.

    Raises:
        ConfigurationError: prometheus-client is not installed, or the address cannot be listened on.
    """

    def __init__(self, reader: Reader, host: str, port: int) -> None:
        check_installed()
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self._server = _Server(reader, (host, port), family)
        except OSError as error:
            raise ConfigurationError(f"cannot listen on {_address(host, port)}: {error.strerror or error}") from error
        self._host = host
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="otel-storage-metrics", daemon=True
        )

    @property
    def url(self) -> str:
        """The address of the metrics."""
        return f"http://{_address(self._host, self._server.server_address[1])}/metrics"

    def start(self) -> None:
        """Serve until :meth:`close`."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and close open connections."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.hang_up(older_than=0)
        self._server.server_close()


def _address(host: str, port: Any) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, reader: Reader, address: tuple[str, int], family: socket.AddressFamily) -> None:
        self.address_family = family
        self.reader = reader
        self.troubles = Troubles("metrics cannot be read", "metrics are read again")
        self._open: dict[Any, float] = {}
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer.server_bind() looks the host's name up in DNS, which may take long.
        socketserver.TCPServer.server_bind(self)

    def verify_request(self, request: Any, _client_address: Any) -> bool:
        with self._lock:
            return len(self._open) < MOST_CONNECTIONS

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        self.hang_up(older_than=LONGEST_CONNECTION)

    def hang_up(self, *, older_than: float) -> None:
        """Close connections older than this: a client that sends a byte now and then never times out."""
        now = time.monotonic()
        with self._lock:
            late = [request for request, since in self._open.items() if now - since >= older_than]
        for request in late:
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:  # The client has closed the connection already.
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that hangs up or does not speak HTTP is not this server's fault: no traceback in the log.
        logger.debug("a request for metrics from %s failed: %s", client_address, type(sys.exception()).__name__)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "otel-storage"
    sys_version = ""
    timeout = _READ_TIMEOUT

    def do_GET(self) -> None:
        """Answer a scrape (``/metrics``), or say whether the last scrape succeeded (``/health``)."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._metrics()
        elif path in ("/health", "/healthz"):
            trouble = self.server.troubles.current
            status = HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK
            self._answer(status, (trouble or "ok") + "\n")
        else:
            self._answer(HTTPStatus.NOT_FOUND, "there are /metrics and /health\n")

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Do not log requests; only failures are logged."""

    def _metrics(self) -> None:
        answer: tuple[bytes, str] | None = None
        with self.server.troubles.told() as told:
            rendered = render(self.server.reader.read(), self.headers.get("Accept", ""))
            # HEAD sends no values, so the client has not seen the zero of a new series: GET marks series as shown.
            if self.command != "HEAD":
                self.server.reader.shown()
            answer = rendered
        if answer is None:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, told[0] + "\n")
        else:
            self._answer(HTTPStatus.OK, *answer)

    def _answer(self, status: HTTPStatus, body: str | bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def serving(reader: Reader, host: str, port: int) -> Iterator[MetricsServer]:
    """Serve the metrics while the block runs."""
    server = MetricsServer(reader, host, port)
    server.start()
    try:
        yield server
    finally:
        server.close()
