"""What we need of OpenTelemetry and no public name gives, with the reason of each.

An upgrade may change any of it: ``tests/telemetry/test_internals.py`` says then what it was.
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

# The API has no public way to switch instrumentation off: opentelemetry.instrumentation.utils has one, in a
# distribution that we do not need otherwise, and takes these keys itself, as the SDK's own processors do.
from opentelemetry.context import (
    _SUPPRESS_HTTP_INSTRUMENTATION_KEY,
    _SUPPRESS_INSTRUMENTATION_KEY,
    attach,
    detach,
    set_value,
)

PREFIX = "OTEL_EXPORTER_OTLP_"
"""What the names of the variables of OTLP begin with."""

HEADERS_LOGGER = "opentelemetry.util.re"
"""Where a header that cannot be read is logged, with its value: a secret, most of the time."""


@contextmanager
def without_instrumentation() -> Iterator[None]:
    """Keep instrumented clients from tracing our queries and requests, which are no work of the user's."""
    context = set_value(_SUPPRESS_HTTP_INSTRUMENTATION_KEY, True, set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
    token = attach(context)
    try:
        yield
    finally:
        detach(token)


# An exporter returns SUCCESS or FAILURE, and logs the reason: its log is the only place that has one. Its loggers are
# those of the modules that its classes are from.

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


def quieten(exporter: object) -> None:
    """Listen to the loggers of the modules that the exporter's class, and the classes it is made from, are in."""
    listen_to({cls.__module__ for cls in type(exporter).__mro__} - {"builtins", "abc", "typing"})


def listen_to(names: set[str]) -> None:
    """Listen to these loggers."""
    for name in names:
        logger = logging.getLogger(name)
        if _listener not in logger.filters:
            # First: the gRPC exporter's logger has a filter that drops what it has seen before.
            logger.filters.insert(0, _listener)


def is_grpc_refusal(complaints: Sequence[logging.LogRecord]) -> bool:
    """Whether a gRPC exporter was told that the data is bad or too much.

    The exporter returns the same for every error; the arguments of its log record alone have the status. Only two are
    final for these spans: INVALID_ARGUMENT, and the RESOURCE_EXHAUSTED of gRPC itself for a message above the
    receiver's limit (4 MiB by default), which stands for no passing shortage.
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
    """The argument that keeps a gRPC exporter from trying again by itself; older versions have none."""
    from grpc import StatusCode

    name = "retryable_error_codes"
    # An empty set would be replaced by the default; no error is OK.
    return {name: {StatusCode.OK}} if name in inspect.signature(exporter_class).parameters else {}


_environment_lock = threading.Lock()


@contextmanager
def environment_as_read(signal: str) -> Iterator[None]:
    """Take the variables out of the environment meanwhile that the exporter would read otherwise than we do.

    An exporter reads some variables whatever arguments it is given. Versions differ on an empty one, which may be
    taken for set (an empty ``..._CERTIFICATE`` switches TLS verification off), and the gRPC exporter fails on a
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
