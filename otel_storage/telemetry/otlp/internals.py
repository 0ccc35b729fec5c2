"""What this package needs of OpenTelemetry beyond its public names, each with the reason.

An upgrade of OpenTelemetry may change any of it; then ``tests/telemetry/test_internals.py`` fails.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

# The API has no public way to suppress instrumentation. opentelemetry.instrumentation.utils has one, but in a
# distribution that we do not need otherwise; it uses these keys itself, as the SDK's processors do.
from opentelemetry.context import (
    _SUPPRESS_HTTP_INSTRUMENTATION_KEY,
    _SUPPRESS_INSTRUMENTATION_KEY,
    attach,
    detach,
    set_value,
)

PREFIX = "OTEL_EXPORTER_OTLP_"
"""The prefix of OTLP's environment variables."""

HEADERS_LOGGER = "opentelemetry.util.re"
"""The logger that logs an unreadable header with its value, which is mostly a secret."""


@contextmanager
def without_instrumentation() -> Iterator[None]:
    """Keep instrumented clients from tracing our own queries and requests."""
    context = set_value(_SUPPRESS_HTTP_INSTRUMENTATION_KEY, True, set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
    token = attach(context)
    try:
        yield
    finally:
        detach(token)


# An exporter returns SUCCESS or FAILURE, and only logs the reason. Its loggers are those of the modules that define its
# classes.

_complaints: ContextVar[list[logging.LogRecord] | None] = ContextVar("otel_storage_complaints", default=None)


@contextmanager
def listening() -> Iterator[list[logging.LogRecord]]:
    """Keep the exporter's warnings in this thread out of the log, and yield them to the caller."""
    complaints: list[logging.LogRecord] = []
    token = _complaints.set(complaints)
    try:
        yield complaints
    finally:
        _complaints.reset(token)


class _Listener(logging.Filter):
    """Takes the warnings of our exports, which the caller logs once per cause; lets all other records pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        complaints = _complaints.get()
        if complaints is None or record.levelno < logging.WARNING:
            return True
        complaints.append(record)
        return False


_listener = _Listener()


def quieten(exporter: object) -> None:
    """Listen to the loggers of the modules that define the exporter's class and its base classes."""
    listen_to({cls.__module__ for cls in type(exporter).__mro__} - {"builtins", "abc", "typing"})


def listen_to(names: set[str]) -> None:
    """Listen to these loggers."""
    for name in names:
        logger = logging.getLogger(name)
        if _listener not in logger.filters:
            # Insert before other filters: that of the gRPC exporter's logger drops repeated messages.
            logger.filters.insert(0, _listener)


def is_grpc_refusal(complaints: Sequence[logging.LogRecord]) -> bool:
    """Whether a gRPC endpoint refused the data as invalid or too large.

    The exporter returns the same for every error; only the arguments of its log record contain the status. Two statuses
    are final for these spans: INVALID_ARGUMENT, and gRPC's own RESOURCE_EXHAUSTED for a message above the receiver's
    limit (4 MiB by default), which is not a temporary shortage.
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


def without_grpc_retries(exporter_class: Any) -> dict[str, Any]:
    """The argument that keeps a gRPC exporter from retrying by itself; empty for older versions, which have none."""
    from grpc import StatusCode

    name = "retryable_error_codes"
    # An empty set would mean the default, so name a status that is no error.
    return {name: {StatusCode.OK}} if name in inspect.signature(exporter_class).parameters else {}


_environment_lock = threading.Lock()


@contextmanager
def environment_as_read(signal: str) -> Iterator[None]:
    """Hide the variables that the exporter would read differently than this package, while the block runs.

    An exporter reads some variables regardless of its arguments. Versions differ on an empty one, which may be taken
    for set (an empty ``..._CERTIFICATE`` switches TLS verification off), and the gRPC exporter fails on a
    ``..._TRACES_TIMEOUT`` that is no number.
    """
    own_timeout = f"{PREFIX}{signal}_TIMEOUT"
    with _environment_lock:
        hidden = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(PREFIX) and (not value.strip() or (name == own_timeout and not _is_number(value)))
        }
        for name in hidden:
            del os.environ[name]
        try:
            yield
        finally:
            os.environ.update(hidden)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
