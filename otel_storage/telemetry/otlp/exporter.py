"""An exporter with a reliable verdict.

``SpanExportResult`` has two values, and OpenTelemetry's exporters use both loosely. Delivery needs three: the receiver
has the spans, it may have them later, or it will not have them. An :class:`AcknowledgedExporter` says which, of any
``SpanExporter``; :func:`open_exporter` makes one from settings and from OpenTelemetry's standard variables.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta
from importlib import metadata
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_storage.privacy.secrets import explain, without_secrets
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.telemetry.otlp.acknowledgement import ACCEPTED, ExportOutcome, Verdict
from otel_storage.telemetry.otlp.internals import is_grpc_refusal, listening, quieten, without_instrumentation
from otel_storage.telemetry.otlp.opening import CLASSES, load, open_otlp
from otel_storage.telemetry.otlp.settings import GRPC, HTTP, TRACES, Settings, check_timeout, secrets_of_arguments, warn

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from otel_storage.telemetry.otlp.session import OneAttemptSession

__all__ = ["AcknowledgedExporter", "ExportOutcome", "Verdict", "open_exporter", "problem_of"]

ExporterSpec = None | str | tuple[str, Mapping[str, Any]] | list[Any] | SpanExporter
"""The forms in which an exporter can be given: see :func:`open_exporter`."""

_VARIABLE = "OTEL_TRACES_EXPORTER"
_ENTRY_POINTS = "opentelemetry_traces_exporter"
# The names under which the distributions of the OTLP exporters register them.
_OTLP_NAMES = {"otlp": None, "otlp_proto_http": HTTP, "otlp_proto_grpc": GRPC}

_logger = logging.getLogger(__name__)


class AcknowledgedExporter:
    """A ``SpanExporter`` that returns what happened to the spans.

    Exports of one exporter wait for each other. An exporter belongs to the process that made it: after a fork, open
    another.

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
            session: The session that the exporter posts with; its verdict counts more than the exporter's return value.
            secrets: Texts that must not appear in a reason.
        """
        self._exporter = exporter
        self._session = session
        self._secrets = secrets | Settings(TRACES).secrets
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
        except Exception as error:  # noqa: BLE001 - any exporter's code runs here, and nothing is lost by an error
            _logger.warning("%s did not shut down: %s", self._description, explain(error, self._secrets))

    def _export(self, spans: Sequence[ReadableSpan]) -> ExportOutcome:
        result: object = None
        error: Exception | None = None
        if self._session is not None:
            self._session.begin()
        with without_instrumentation(), listening() as complaints:
            try:
                result = self._exporter.export(spans)
            except Exception as raised:  # noqa: BLE001 - any exporter's code runs here; the reason names the error
                error = raised

        if self._session is not None and self._session.outcome is not None:
            return self._session.outcome
        if error is None and result is SpanExportResult.SUCCESS and self._session is None:
            return ACCEPTED
        reason = self._reason(result, error, complaints)
        # An exporter that was shut down meanwhile has made no request either.
        if self._is_shut_down:
            return ExportOutcome(Verdict.RETRY, reason)
        if self._session is not None:
            return ExportOutcome(Verdict.REFUSED, f"no request could be made of the spans: {reason}")
        if is_grpc_refusal(complaints) or not _can_be_encoded(self._exporter, spans):
            return ExportOutcome(Verdict.REFUSED, reason)
        return ExportOutcome(Verdict.RETRY, reason)

    def _reason(self, result: object, error: Exception | None, complaints: list[logging.LogRecord]) -> str:
        if error is not None:
            return explain(error, self._secrets)
        for record in reversed(complaints):
            if text := without_secrets(record.getMessage(), self._secrets):
                cause = record.exc_info[1] if record.exc_info else None
                return f"{text} ({explain(cause, self._secrets)})" if cause is not None else text
        if result is SpanExportResult.FAILURE:
            return "the exporter failed and gave no reason"
        return without_secrets(f"the exporter returned {result!r}, which is not a SpanExportResult", self._secrets)


def open_exporter(
    exporter: ExporterSpec, *, timeout: float | None = None, lease: timedelta | None = None
) -> AcknowledgedExporter:
    """The exporter that a setting means.

    Args:
        exporter: One of

            - None: what OpenTelemetry's standard variables say. ``OTEL_TRACES_EXPORTER`` (default ``otlp``) names an
              entry point of the group ``opentelemetry_traces_exporter``; of several, ``otlp`` wins, else the first.
              OTLP goes by ``OTEL_EXPORTER_OTLP_TRACES_PROTOCOL``, else ``OTEL_EXPORTER_OTLP_PROTOCOL``:
              ``http/protobuf`` (default) or ``grpc``. All ``OTEL_EXPORTER_OTLP_*`` variables count; see
              :mod:`otel_storage.telemetry.otlp.settings`.
            - a dotted path of an exporter's class, or a pair of a path and keyword arguments. OpenTelemetry's OTLP
              exporters, named so, are opened as with None.
            - an instance, used as it is, with its own timeout and retries.
        timeout: Seconds an OTLP export may take; above 0. None takes ``OTEL_EXPORTER_OTLP_TRACES_TIMEOUT``, else
            ``OTEL_EXPORTER_OTLP_TIMEOUT`` (in seconds, as OpenTelemetry's Python SDK reads them), else 10. A
            ``timeout`` among the keyword arguments comes before both.
        lease: How long the spans of an export belong to this process; an OTLP export takes 0.8 of it at most.

    OTLP over HTTP is posted with a session of ours. So a session that
    ``OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER`` names is not used, and one among the keyword arguments leaves
    the verdict to the exporter, as with an instance.

    Raises:
        ConfigurationError: naming the variable or argument that cannot be used.
    """
    if timeout is not None:
        check_timeout(timeout)
    otlp = _otlp(exporter)
    if otlp is not None:
        opened = open_otlp(TRACES, *otlp, expected=SpanExporter, timeout=timeout, lease=lease)
        return AcknowledgedExporter(
            opened.exporter, description=opened.description, session=opened.session, secrets=opened.secrets
        )
    if exporter is None:
        return AcknowledgedExporter(_by_entry_point(_exporter_name()))
    other = load(exporter, SpanExporter, Settings(TRACES).secrets)
    if any(f"{cls.__module__}.{cls.__qualname__}" == CLASSES[TRACES, HTTP] for cls in type(other).__mro__):
        _logger.warning(
            "this OTLP/HTTP exporter takes redirects and rejected spans for success, and its answers are not checked; "
            'to have them checked, give ("%s", {...}) without a session, or OTEL_EXPORTER_OTLP_* variables',
            CLASSES[TRACES, HTTP],
        )
    return AcknowledgedExporter(other, secrets=secrets_of_arguments(_split(exporter)[1]))


def problem_of(exporter: ExporterSpec) -> ConfigurationError | None:
    """Why no span can be exported, judged by the variables alone; opens nothing.

    Args:
        exporter: As for :func:`open_exporter`.
    """
    try:
        otlp = _otlp(exporter)
        if otlp is not None and not otlp[1].get("endpoint"):
            Settings(TRACES).endpoint(otlp[0])
    except ConfigurationError as error:
        return error
    return None


# From settings to exporters


def _otlp(exporter: ExporterSpec) -> tuple[str, dict[str, Any]] | None:
    """The protocol and arguments of an OTLP exporter that this module opens; None for any other exporter."""
    if exporter is None:
        name = _exporter_name()
        return (_OTLP_NAMES[name] or Settings(TRACES).protocol, {}) if name in _OTLP_NAMES else None
    path, kwargs = _split(exporter)
    if path == CLASSES[TRACES, HTTP] and kwargs.get("session") is None:
        return HTTP, kwargs
    return (GRPC, kwargs) if path == CLASSES[TRACES, GRPC] else None


def _split(exporter: str | tuple[str, Mapping[str, Any]] | list[Any] | SpanExporter) -> tuple[str, dict[str, Any]]:
    """The path and arguments of an exporter given by path; ("", {}) otherwise."""
    match exporter:
        case str():
            return exporter, {}
        case (str() as path, Mapping() as kwargs):
            return path, dict(kwargs)
    return "", {}


def _exporter_name() -> str:
    names = [name.strip() for name in os.environ.get(_VARIABLE, "").split(",") if name.strip()] or ["otlp"]
    name = "otlp" if "otlp" in names else names[0]
    if name == "none":
        raise ConfigurationError(f"{_VARIABLE} is none, so there is no exporter to open; unset it, or set it to otlp")
    if len(names) > 1:
        warn(f"{_VARIABLE} names {', '.join(names)}; spans go to {name} alone")
    return name


def _by_entry_point(name: str) -> SpanExporter:
    found = list(metadata.entry_points(group=_ENTRY_POINTS, name=name))
    if not found:
        known = sorted({"otlp", *(point.name for point in metadata.entry_points(group=_ENTRY_POINTS))})
        raise ConfigurationError(f"{_VARIABLE}: no exporter {name!r} is installed; there are {', '.join(known)}")
    try:
        opened: SpanExporter = found[0].load()()
    except Exception as error:
        raise ConfigurationError(f"{_VARIABLE}: the exporter {name!r} cannot be made: {explain(error)}") from error
    return opened


def _can_be_encoded(exporter: SpanExporter, spans: Sequence[ReadableSpan]) -> bool:
    """Whether the spans can be encoded as an OTLP request; True for exporters that do not use OTLP."""
    if not any(cls.__module__.startswith("opentelemetry.exporter.otlp.") for cls in type(exporter).__mro__):
        return True
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    try:
        encode_spans(spans).SerializePartialToString()
    except Exception:  # noqa: BLE001 - any error here, the exporter would run into too
        return False
    return True
