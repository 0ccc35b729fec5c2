"""An exporter whose verdict can be believed.

``SpanExportResult`` has two values, and OpenTelemetry's exporters use both loosely. Delivery needs three: the receiver
has the spans, it may have them later, or it will not have them. An :class:`AcknowledgedExporter` says which, of any
``SpanExporter``; :func:`open_exporter` makes one from settings and from OpenTelemetry's standard variables.
"""

from __future__ import annotations

import inspect
import logging
import math
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from typing import TYPE_CHECKING, Any

# The keys are private by name, and shared by every instrumentation and by OpenTelemetry's own processors.
from opentelemetry.context import (
    _SUPPRESS_HTTP_INSTRUMENTATION_KEY,
    _SUPPRESS_INSTRUMENTATION_KEY,
    attach,
    detach,
    set_value,
)
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_storage.privacy.secrets import explain, one_line, secrets_in, secrets_in_pairs, without_credentials
from otel_storage.results.config import load_object
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.telemetry.otlp.acknowledgement import ACCEPTED, ExportOutcome, Verdict

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from otel_storage.telemetry.otlp.session import OneAttemptSession

__all__ = ["AcknowledgedExporter", "ExportOutcome", "Verdict", "open_exporter"]

DEFAULT_TIMEOUT = 10.0
"""Seconds an export may take where neither the argument nor a variable says so, as in OpenTelemetry's exporters."""

ExporterSpec = None | str | tuple[str, Mapping[str, Any]] | list[Any] | SpanExporter
"""What an exporter can be given as: see :func:`open_exporter`."""

_WHAT = "exporter"
_HTTP_MODULE = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_HTTP_CLASS = f"{_HTTP_MODULE}.OTLPSpanExporter"
_GRPC_CLASS = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter.OTLPSpanExporter"
_ENTRY_POINTS = "opentelemetry_traces_exporter"
# Names that the distributions of the OTLP exporters register them under.
_OTLP_NAMES = {"otlp": None, "otlp_proto_http": "http/protobuf", "otlp_proto_grpc": "grpc"}

_logger = logging.getLogger(__name__)


class AcknowledgedExporter:
    """A ``SpanExporter`` that says what became of the spans.

    Exports of one exporter wait for each other. It belongs to the process that made it: after a fork, open another.

    The verdict on an exporter that was not opened here from settings rests on what it returns: an instance of
    OpenTelemetry's OTLP/HTTP exporter takes redirects and rejected spans for success and retries by itself, and through
    its OTLP/gRPC exporter a partial success cannot be seen at all.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        description: str | None = None,
        session: OneAttemptSession | None = None,
        secrets: frozenset[str] = frozenset(),
    ) -> None:
        """Wrap an exporter.

        Args:
            exporter: Any exporter; shut down with this one.
            description: What to call it, without credentials; its class if None.
            session: The session that the exporter posts with, and that knows better than what the exporter returns.
            secrets: What must not be seen in a reason.
        """
        self._exporter = exporter
        self._session = session
        self._secrets = secrets | _secrets_of_environment()
        self._description = description or f"{type(exporter).__module__}.{type(exporter).__qualname__}"
        self._lock = threading.Lock()
        self._is_shut_down = False
        quieten(exporter)

    @property
    def description(self) -> str:
        """Where the spans go: a URL without its credentials, or the exporter's class."""
        return self._description

    def export(self, spans: Sequence[ReadableSpan]) -> ExportOutcome:
        """Export the spans, with instrumentation suppressed and the exporter's own complaints kept out of the log.

        Never raises: an exception of the exporter is a RETRY. No spans are accepted without a request.

        Returns:
            REFUSED also for spans that cannot be encoded, or that make too large a request, so that the caller finds
            the bad one by splitting.
        """
        if not spans:
            return ACCEPTED
        with self._lock:
            if self._is_shut_down:
                return ExportOutcome(Verdict.RETRY, "the exporter has been shut down")
            return self._export(spans)

    def shutdown(self) -> None:
        """Shut the exporter down; never raises, and a second call does nothing.

        Does not wait for an export in progress, which may still be accepted. Every later one is a RETRY.
        """
        if self._is_shut_down:
            return
        self._is_shut_down = True
        try:
            self._exporter.shutdown()
        except Exception as error:  # noqa: BLE001 - anybody's exporter, and nothing is lost by this
            _logger.warning("%s did not shut down: %s", self._description, explain(error, self._secrets))

    def _export(self, spans: Sequence[ReadableSpan]) -> ExportOutcome:
        result: object = None
        error: Exception | None = None
        if self._session is not None:
            self._session.begin()
        with without_instrumentation(), listening() as complaints:
            try:
                result = self._exporter.export(spans)
            except Exception as raised:  # noqa: BLE001 - anybody's exporter; the reason says what it was
                error = raised

        if self._session is not None and self._session.outcome is not None:
            return self._session.outcome
        if error is None and result is SpanExportResult.SUCCESS and self._session is None:
            return ACCEPTED
        reason = self._reason(result, error, complaints)
        # An exporter that was shut down meanwhile makes no request either.
        if self._is_shut_down:
            return ExportOutcome(Verdict.RETRY, reason)
        if self._session is not None:
            return ExportOutcome(Verdict.REFUSED, f"no request could be made of the spans: {reason}")
        if _is_refusal(complaints) or not _can_be_encoded(self._exporter, spans):
            return ExportOutcome(Verdict.REFUSED, reason)
        return ExportOutcome(Verdict.RETRY, reason)

    def _reason(self, result: object, error: Exception | None, complaints: list[logging.LogRecord]) -> str:
        if error is not None:
            return explain(error, self._secrets)
        for record in reversed(complaints):
            if text := one_line(record.getMessage(), self._secrets):
                cause = record.exc_info[1] if record.exc_info else None
                return f"{text} ({explain(cause, self._secrets)})" if cause is not None else text
        if result is SpanExportResult.FAILURE:
            return "the exporter failed and gave no reason"
        return one_line(f"the exporter returned {result!r}, which is not a SpanExportResult", self._secrets)


def open_exporter(exporter: ExporterSpec, *, timeout: float | None = None) -> AcknowledgedExporter:
    """The exporter that a setting means.

    Args:
        exporter: One of

            - None: what OpenTelemetry's standard variables say. ``OTEL_TRACES_EXPORTER`` (default ``otlp``) names an
              entry point of the group ``opentelemetry_traces_exporter``; of several, ``otlp`` wins, else the first.
              OTLP goes by ``OTEL_EXPORTER_OTLP_TRACES_PROTOCOL``, else ``OTEL_EXPORTER_OTLP_PROTOCOL``:
              ``http/protobuf`` (default) or ``grpc``. The other ``OTEL_EXPORTER_OTLP_*`` variables are the exporter's.
            - a dotted path of an exporter's class, or a pair of a path and keyword arguments. OpenTelemetry's OTLP
              exporters, named so, are opened as with None.
            - an instance, used as it is, with its own timeout and retries.
        timeout: Seconds an OTLP export may take; above 0. None takes ``OTEL_EXPORTER_OTLP_TRACES_TIMEOUT``, else
            ``OTEL_EXPORTER_OTLP_TIMEOUT`` (in seconds, as OpenTelemetry's Python SDK reads them), else 10; gRPC at most
            10. A ``timeout`` among the keyword arguments comes before both.

    OTLP over HTTP is posted with a session of ours. So a session that
    ``OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER`` names is not used, and one among the keyword arguments leaves
    the verdict to the exporter, as with an instance.

    Raises:
        ConfigurationError: naming the variable or argument that cannot be used.
    """
    if timeout is not None:
        _check_timeout(timeout)
    if exporter is None:
        return _from_environment(timeout)
    path, kwargs = _split(exporter)
    if path == _HTTP_CLASS and kwargs.get("session") is None:
        return _open_http(kwargs, timeout)
    if path == _GRPC_CLASS:
        return _open_grpc(kwargs, timeout)
    opened = _load(exporter)
    if any(f"{cls.__module__}.{cls.__qualname__}" == _HTTP_CLASS for cls in type(opened).__mro__):
        _logger.warning(
            "this OTLP/HTTP exporter takes redirects and rejected spans for success, and its answers are not checked; "
            'to have them checked, give ("%s", {...}) without a session, or OTEL_EXPORTER_OTLP_* variables',
            _HTTP_CLASS,
        )
    return AcknowledgedExporter(opened, secrets=_secrets_of_arguments(kwargs))


# From settings to exporters


def _split(exporter: str | tuple[str, Mapping[str, Any]] | list[Any] | SpanExporter) -> tuple[str, dict[str, Any]]:
    """The path and the arguments of an exporter given by path; ("", {}) for all else."""
    match exporter:
        case str():
            return exporter, {}
        case (str() as path, Mapping() as kwargs):
            return path, dict(kwargs)
    return "", {}


def _from_environment(timeout: float | None) -> AcknowledgedExporter:
    variable = "OTEL_TRACES_EXPORTER"
    names = [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()] or ["otlp"]
    name = "otlp" if "otlp" in names else names[0]
    if name == "none":
        raise ConfigurationError(f"{variable} is none, so there is no exporter to open; unset it, or set it to otlp")
    if len(names) > 1:
        _logger.warning("%s names %s; spans go to %s alone", variable, ", ".join(names), name)
    if name in _OTLP_NAMES:
        protocol = _OTLP_NAMES[name] or _protocol()
        return _open_http({}, timeout) if protocol == "http/protobuf" else _open_grpc({}, timeout)

    found = list(metadata.entry_points(group=_ENTRY_POINTS, name=name))
    if not found:
        known = sorted({"otlp", *(point.name for point in metadata.entry_points(group=_ENTRY_POINTS))})
        raise ConfigurationError(f"{variable}: no exporter {name!r} is installed; there are {', '.join(known)}")
    try:
        opened = found[0].load()()
    except Exception as error:
        raise ConfigurationError(f"{variable}: the exporter {name!r} cannot be made: {explain(error)}") from error
    return AcknowledgedExporter(opened)


def _protocol() -> str:
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := os.environ.get(variable, "").strip().lower():
            if protocol not in ("http/protobuf", "grpc"):
                raise ConfigurationError(f"{variable} is {protocol!r}; it must be http/protobuf or grpc")
            return protocol
    return "http/protobuf"


def _open_http(kwargs: dict[str, Any], timeout: float | None) -> AcknowledgedExporter:
    from otel_storage.telemetry.otlp.session import OneAttemptSession

    endpoint = str(kwargs.get("endpoint") or _http_endpoint())
    timeout = _timeout(kwargs, timeout)
    session = OneAttemptSession(timeout)
    # Every argument that the versions of the exporter read differently from the environment is given.
    opened = _load((_HTTP_CLASS, {**kwargs, "endpoint": endpoint, "timeout": timeout, "session": session}))
    return AcknowledgedExporter(
        opened,
        description=without_credentials(endpoint),
        session=session,
        secrets=_secrets_of_arguments({**kwargs, "endpoint": endpoint}),
    )


def _open_grpc(kwargs: dict[str, Any], timeout: float | None) -> AcknowledgedExporter:
    """OTLP over gRPC, which is imported only here: it starts threads, and they do not survive a fork."""
    variables = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    endpoint = str(kwargs.get("endpoint") or _environment(*variables) or "http://localhost:4317")
    if timeout is None and kwargs.get("timeout") is None:
        timeout = min(_timeout(kwargs, None), DEFAULT_TIMEOUT)
    arguments = {"endpoint": endpoint, "timeout": _timeout(kwargs, timeout)}
    opened = _load((_GRPC_CLASS, {**_without_grpc_retries(), **kwargs, **arguments}))
    return AcknowledgedExporter(
        opened,
        description=f"{without_credentials(endpoint)} (gRPC)",
        secrets=_secrets_of_arguments({**kwargs, "endpoint": endpoint}),
    )


def _without_grpc_retries() -> dict[str, Any]:
    """The argument that keeps the exporter from trying again by itself; older versions have none."""
    try:
        from grpc import StatusCode
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError:  # loading the exporter says so better
        return {}
    name = "retryable_error_codes"
    # An empty set would be replaced by the default; no error is OK.
    return {name: {StatusCode.OK}} if name in inspect.signature(OTLPSpanExporter).parameters else {}


def _load(spec: Any) -> SpanExporter:
    """Make the exporter.

    Raises:
        ConfigurationError: if it cannot be made, whatever its class raises; or what is wrong with the path.
    """
    try:
        opened: SpanExporter = load_object(spec, expected=SpanExporter, what=_WHAT)
    except ConfigurationError:
        raise
    except Exception as error:
        path, kwargs = _split(spec)
        secrets = _secrets_of_arguments(kwargs) | _secrets_of_environment()
        raise ConfigurationError(f"{_WHAT}: {path} cannot be made: {explain(error, secrets)}") from error
    return opened


# From variables and arguments


def _environment(*variables: str) -> str:
    """The first of the variables that is set; an empty one is as good as none (OpenTelemetry's rule)."""
    return next((value for variable in variables if (value := os.environ.get(variable, "").strip())), "")


def _http_endpoint() -> str:
    """The address as the OTLP specification has it: the traces' own as it is, else the common one and the path."""
    if endpoint := _environment("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return endpoint
    base = _environment("OTEL_EXPORTER_OTLP_ENDPOINT") or "http://localhost:4318"
    return f"{base.removesuffix('/')}/v1/traces"


def _timeout(kwargs: Mapping[str, Any], timeout: float | None) -> float:
    if kwargs.get("timeout") is not None:
        return _check_timeout(kwargs["timeout"])
    if timeout is not None:
        return timeout
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"):
        if value := _environment(variable):
            try:
                return _check_timeout(value)
            except ConfigurationError:
                # What the SDK does: a bad variable must not keep an application from starting.
                _logger.warning("%s is %r, not seconds above 0; it is taken as %g", variable, value, DEFAULT_TIMEOUT)
                return DEFAULT_TIMEOUT
    return DEFAULT_TIMEOUT


def _check_timeout(timeout: Any) -> float:
    try:
        seconds = float(timeout)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ConfigurationError(f"{_WHAT}: a timeout is a number of seconds above 0, not {timeout!r:.80}")
    return seconds


def _secrets_of_environment() -> frozenset[str]:
    headers = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
    endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return frozenset().union(
        *(secrets_in_pairs(os.environ.get(variable, "")) for variable in headers),
        *(secrets_in(os.environ.get(variable, "")) for variable in endpoints),
    )


def _secrets_of_arguments(kwargs: Mapping[str, Any]) -> frozenset[str]:
    endpoint, headers = kwargs.get("endpoint"), kwargs.get("headers")
    found = secrets_in(endpoint if isinstance(endpoint, str) else "")
    if isinstance(headers, str):
        return found | secrets_in_pairs(headers)
    try:
        return found | secrets_in(headers=dict(headers or {}))
    except (TypeError, ValueError):  # not headers; the exporter will say so
        return found


# Around an export


@contextmanager
def without_instrumentation() -> Iterator[None]:
    """Keep instrumented HTTP clients from tracing the export of traces."""
    context = set_value(_SUPPRESS_HTTP_INSTRUMENTATION_KEY, True, set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
    token = attach(context)
    try:
        yield
    finally:
        detach(token)


_complaints: ContextVar[list[logging.LogRecord] | None] = ContextVar("otel_storage_complaints", default=None)


@contextmanager
def listening() -> Iterator[list[logging.LogRecord]]:
    """Keep what the exporter warns of in this thread out of the log, and give it to the caller."""
    complaints: list[logging.LogRecord] = []
    token = _complaints.set(complaints)
    try:
        yield complaints
    finally:
        _complaints.reset(token)


class _Listener(logging.Filter):
    """Takes the warnings of an export of ours, which its caller logs once per cause; lets all else pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        complaints = _complaints.get()
        if complaints is None or record.levelno < logging.WARNING:
            return True
        complaints.append(record)
        return False


_listener = _Listener()


def quieten(exporter: SpanExporter) -> None:
    """Listen to the loggers that the exporter's class, and the classes it is made from, have in their modules."""
    modules = {cls.__module__ for cls in type(exporter).__mro__} - {"builtins", "abc", "typing"}
    for module in modules:
        for value in list(vars(sys.modules.get(module, object)).values()):
            if isinstance(value, logging.Logger) and value is not _logger and _listener not in value.filters:
                # First: the gRPC exporter has a filter that drops what it has seen before.
                value.filters.insert(0, _listener)


def _is_refusal(complaints: Sequence[logging.LogRecord]) -> bool:
    """Whether a gRPC exporter was told that the data is bad or too much.

    The exporter returns the same for every error; its log record alone has the status. Only two are final for these
    spans: INVALID_ARGUMENT, and the RESOURCE_EXHAUSTED of gRPC itself for a message above the receiver's limit (4 MiB
    by default), which stands for no passing shortage.
    """
    grpc = sys.modules.get("grpc")
    if grpc is None:
        return False
    for record in complaints:
        codes = [arg for arg in record.args or () if isinstance(arg, grpc.StatusCode)]
        if grpc.StatusCode.INVALID_ARGUMENT in codes:
            return True
        if grpc.StatusCode.RESOURCE_EXHAUSTED in codes and "larger than max" in record.getMessage():
            return True
    return False


def _can_be_encoded(exporter: SpanExporter, spans: Sequence[ReadableSpan]) -> bool:
    """Whether the spans can be made a request at all, where the exporter is one that makes OTLP requests of them."""
    if not any(cls.__module__.startswith("opentelemetry.exporter.otlp.") for cls in type(exporter).__mro__):
        return True
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    try:
        encode_spans(spans).SerializePartialToString()
    except Exception:  # noqa: BLE001 - whatever it is, the exporter runs into it too
        return False
    return True
