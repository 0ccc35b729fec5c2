"""Opens OpenTelemetry's OTLP exporters in one way for every signal: one attempt per export, and our own settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from otel_storage.privacy.secrets import explain, without_credentials, without_secrets
from otel_storage.results import config
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.telemetry.otlp.internals import (
    HEADERS_LOGGER,
    environment_as_read,
    listening,
    quieten,
    without_grpc_retries,
)
from otel_storage.telemetry.otlp.settings import (
    GRPC,
    HTTP,
    METRICS,
    TRACES,
    Settings,
    Signal,
    check_timeout,
    secrets_of_arguments,
    warn,
    within_lease,
)

if TYPE_CHECKING:
    from otel_storage.telemetry.otlp.session import OneAttemptSession

CLASSES = {
    (TRACES, HTTP): "opentelemetry.exporter.otlp.proto.http.trace_exporter.OTLPSpanExporter",
    (TRACES, GRPC): "opentelemetry.exporter.otlp.proto.grpc.trace_exporter.OTLPSpanExporter",
    (METRICS, HTTP): "opentelemetry.exporter.otlp.proto.http.metric_exporter.OTLPMetricExporter",
    (METRICS, GRPC): "opentelemetry.exporter.otlp.proto.grpc.metric_exporter.OTLPMetricExporter",
}
"""The dotted path of the exporter's class, by signal and protocol."""

_WHAT = "exporter"


@dataclass(frozen=True, slots=True)
class OpenedExporter:
    """An OpenTelemetry exporter, ready to export."""

    exporter: Any
    description: str
    """The endpoint, without credentials."""
    session: OneAttemptSession | None
    """The session, which has the verdict on an export over HTTP; None over gRPC."""
    secrets: frozenset[str]
    """Texts that must not appear in a message about the exporter."""


def open_otlp(
    signal: Signal,
    protocol: str,
    kwargs: Mapping[str, Any],
    *,
    expected: type,
    timeout: float | None = None,
    lease: timedelta | None = None,
) -> OpenedExporter:
    """Make the exporter; it connects to nothing before it exports.

    Args:
        signal: What is exported.
        protocol: ``http/protobuf`` or ``grpc``.
        kwargs: Arguments of the exporter's class, which come before the variables.
        expected: The class that the exporter must be an instance of.
        timeout: Seconds an export may take, unless ``kwargs`` says so; None for what the variables say.
        lease: How long the exported data belongs to this process; the timeout is kept within it.

    Raises:
        ConfigurationError: the message names the variable or argument that cannot be used.
    """
    settings = Settings(signal)
    arguments = dict(kwargs)
    arguments["endpoint"] = endpoint = str(arguments.get("endpoint") or settings.endpoint(protocol))
    if arguments.get("timeout") is not None:
        timeout = check_timeout(arguments["timeout"])
    arguments["timeout"] = within_lease(settings.timeout if timeout is None else timeout, lease)
    if not arguments.get("headers"):
        settings.check_headers()
    make_arguments = _http_arguments if protocol == HTTP else _grpc_arguments
    # Give every argument that some version of the exporter reads from the environment in its own way.
    arguments = {**make_arguments(settings, signal, arguments), **arguments}
    with environment_as_read(signal.name), listening() as complaints:
        exporter = load((CLASSES[signal, protocol], arguments), expected, settings.secrets)
    quieten(exporter)
    for record in complaints:
        if record.name != HEADERS_LOGGER:  # settings.check_headers() has warned about headers, without their values
            warn(without_secrets(record.getMessage(), settings.secrets))
    return OpenedExporter(
        exporter,
        description=without_credentials(endpoint) + (" (gRPC)" if protocol == GRPC else ""),
        session=arguments["session"] if protocol == HTTP else None,
        secrets=secrets_of_arguments(arguments) | settings.secrets,
    )


def load(spec: Any, expected: type, secrets: frozenset[str]) -> Any:
    """The exporter that a path, a pair or an instance means.

    Raises:
        ConfigurationError: the path is wrong, or the class raises any error.
    """
    try:
        return config.load_object(spec, expected=expected, what=_WHAT)
    except ConfigurationError:
        raise
    except Exception as error:
        path, kwargs = config.split(spec, _WHAT)
        secrets |= secrets_of_arguments(kwargs)
        raise ConfigurationError(f"{_WHAT}: {path} cannot be made: {explain(error, secrets)}") from error


def _http_arguments(settings: Settings, _signal: Signal, arguments: Mapping[str, Any]) -> dict[str, Any]:
    from opentelemetry.exporter.otlp.proto.http import Compression

    from otel_storage.telemetry.otlp.session import OneAttemptSession

    found: dict[str, Any] = {"session": OneAttemptSession(arguments["timeout"])}
    if arguments.get("compression") is None:
        found["compression"] = Compression[settings.compression]
    return found


def _grpc_arguments(settings: Settings, signal: Signal, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for OTLP/gRPC. Imports grpc only when needed, because its threads do not survive a fork."""
    try:
        from grpc import Compression

        retries = without_grpc_retries(config.import_path(CLASSES[signal, GRPC], _WHAT))
    except (ImportError, ConfigurationError):  # loading the exporter reports the error better
        return {}
    found: dict[str, Any] = retries
    if arguments.get("compression") is None:
        found["compression"] = Compression[settings.compression]
    if arguments.get("insecure") is None and arguments.get("credentials") is None:
        found["insecure"] = settings.is_insecure(arguments["endpoint"])
    return found
