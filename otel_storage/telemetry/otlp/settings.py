"""Reads the variables ``OTEL_EXPORTER_OTLP_*`` in one way for every signal.

The signal's own variable (``OTEL_EXPORTER_OTLP_TRACES_TIMEOUT``) comes before the common one
(``OTEL_EXPORTER_OTLP_TIMEOUT``), and an empty one counts as unset. A value that cannot be used is warned of once and
replaced by the default: a wrong variable must not keep an application from running. The endpoint alone has no default
that would do, so a wrong one is an error.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from otel_storage.privacy.secrets import secrets_in, secrets_in_pairs, without_credentials, without_secrets
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.runtime.complaints import Complaints
from otel_storage.telemetry.otlp.internals import HEADERS_LOGGER, PREFIX, listen_to, listening

HTTP = "http/protobuf"
GRPC = "grpc"

DEFAULT_TIMEOUT = 10.0
"""The default timeout of an export in seconds, as in OpenTelemetry's exporters."""

PROBABLY_MILLISECONDS = 1000.0
"""A timeout of this many seconds causes a warning: other OpenTelemetry SDKs read the variable in milliseconds."""

MOST_OF_LEASE = 0.8
"""The share of a lease that a request may take: after the lease another sender could send its spans."""

_LONGEST_VALUE = 80

_logger = logging.getLogger(__name__)

complaints = Complaints()
"""The warnings that this process has logged."""


@dataclass(frozen=True, slots=True)
class Signal:
    """An exported signal."""

    name: str
    """The signal in the names of its variables."""
    path: str
    """The path that is appended to the common endpoint of OTLP/HTTP."""


TRACES = Signal("TRACES", "v1/traces")
METRICS = Signal("METRICS", "v1/metrics")


@dataclass(frozen=True, slots=True)
class _Variable:
    """How a variable is read."""

    parse: Callable[[str], Any]
    """Returns the value of a text; raises ValueError if the text is invalid."""
    default: Any
    """The value if the variable is unset or invalid."""
    expected: str
    """The valid texts, for the warning."""


def _one_of(known: Mapping[str, Any]) -> Callable[[str], Any]:
    """Makes a reader of names, in any case."""

    def parse(text: str) -> Any:
        if text.lower() not in known:
            raise ValueError
        return known[text.lower()]

    return parse


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError
    return seconds


# The members of the two enums named Compression, of grpc and of the OTLP/HTTP exporter.
_COMPRESSIONS = {"none": "NoCompression", "gzip": "Gzip", "deflate": "Deflate"}

_VARIABLES = {
    "PROTOCOL": _Variable(_one_of({HTTP: HTTP, GRPC: GRPC}), HTTP, "http/protobuf or grpc"),
    "COMPRESSION": _Variable(_one_of(_COMPRESSIONS), _COMPRESSIONS["none"], "none, gzip or deflate"),
    "TIMEOUT": _Variable(_seconds, DEFAULT_TIMEOUT, "a number of seconds above 0"),
    "INSECURE": _Variable(_one_of({"true": True, "false": False}), None, "true or false"),
}


class Settings:
    """The settings of a signal; each variable is read when its setting is needed.

    Args:
        signal: The exported signal.
    """

    def __init__(self, signal: Signal) -> None:
        self._signal = signal

    @property
    def protocol(self) -> str:
        """:data:`HTTP` or :data:`GRPC`."""
        return str(self._read("PROTOCOL"))

    @property
    def compression(self) -> str:
        """The name of a member of the exporters' ``Compression``."""
        return str(self._read("COMPRESSION"))

    @property
    def timeout(self) -> float:
        """Seconds that an export may take."""
        seconds = float(self._read("TIMEOUT"))
        if seconds >= PROBABLY_MILLISECONDS:
            warn(
                f"{self._find('TIMEOUT')[0]} is {seconds:g} seconds, which is probably meant as milliseconds: "
                f"OpenTelemetry for Python takes seconds; set it to {seconds / 1000:g} if milliseconds are meant"
            )
        return seconds

    def is_insecure(self, endpoint: str) -> bool:
        """Whether OTLP/gRPC uses no TLS; by default, for an endpoint with ``http://``."""
        insecure = self._read("INSECURE")
        return _scheme(endpoint) == "http" if insecure is None else bool(insecure)

    def endpoint(self, protocol: str) -> str:
        """The endpoint by the OTLP specification, which uses a signal's own HTTP endpoint without appending a path.

        Raises:
            ConfigurationError: the endpoint is no address of the protocol; the message names the variable and a valid
                value.
        """
        variable, value = self._find("ENDPOINT")
        if protocol == GRPC:
            return value or "http://localhost:4317"
        if value:
            _check_http(variable, value)
        if value and variable != f"{PREFIX}ENDPOINT":
            return value
        return f"{(value or 'http://localhost:4318').removesuffix('/')}/{self._signal.path}"

    def check_headers(self) -> None:
        """Warn about headers that cannot be parsed; the exporter leaves them out."""
        from opentelemetry.util.re import parse_env_headers

        variable, value = self._find("HEADERS")
        listen_to({HEADERS_LOGGER})
        with listening():
            given = [pair for pair in value.split(",") if pair.strip()]
            unusable = [number for number, pair in enumerate(given, 1) if not parse_env_headers(pair, liberal=True)]
        for number in unusable:
            warn(
                f"{variable}: header {number} of {len(given)} cannot be used and is left out; "
                "set the variable to name=value pairs with commas between them, and their values URL-encoded"
            )

    @property
    def secrets(self) -> frozenset[str]:
        """Texts that must not appear in a message."""
        names = (f"{self._signal.name}_", "")
        return frozenset().union(
            *(secrets_in_pairs(os.environ.get(f"{PREFIX}{name}HEADERS", "")) for name in names),
            *(secrets_in(os.environ.get(f"{PREFIX}{name}ENDPOINT", "")) for name in names),
        )

    def _find(self, name: str) -> tuple[str, str]:
        """The variable that is in force, and its value; the common one with an empty value if neither is set."""
        own, common = f"{PREFIX}{self._signal.name}_{name}", f"{PREFIX}{name}"
        if value := os.environ.get(own, "").strip():
            return own, value
        return common, os.environ.get(common, "").strip()

    def _read(self, name: str) -> Any:
        how = _VARIABLES[name]
        variable, text = self._find(name)
        if not text:
            return how.default
        try:
            return how.parse(text)
        except ValueError:
            warn(f"{variable} is {_shown(text)}, and the default is used instead: set it to {how.expected}")
            return how.default


def check_timeout(timeout: Any) -> float:
    """The seconds of a timeout that is given as an argument.

    Raises:
        ConfigurationError: ``timeout`` is no number above 0.
    """
    try:
        return _seconds(timeout)
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"exporter: a timeout is a number of seconds above 0, not {timeout!r:.{_LONGEST_VALUE}}"
        ) from None


def within_lease(timeout: float, lease: timedelta | None) -> float:
    """The timeout, cut to :data:`MOST_OF_LEASE` of the lease, if there is one."""
    most = math.inf if lease is None else lease.total_seconds() * MOST_OF_LEASE
    if timeout <= most or lease is None:
        return timeout
    warn(
        f"an export may take {timeout:g} seconds, too long for the storage's lease of {lease.total_seconds():g}: "
        f"{most:g} seconds are used, because another process would send the same spans after the lease; "
        f"lower {PREFIX}TIMEOUT (or the exporter's timeout), or raise lease"
    )
    return most


def secrets_of_arguments(kwargs: Mapping[str, Any]) -> frozenset[str]:
    """The parts of an exporter's arguments that must not appear in a message."""
    endpoint, headers = kwargs.get("endpoint"), kwargs.get("headers")
    found = secrets_in(endpoint if isinstance(endpoint, str) else "")
    if isinstance(headers, str):
        return found | secrets_in_pairs(headers)
    try:
        return found | secrets_in(headers=dict(headers or {}))
    except (TypeError, ValueError):  # not headers; the exporter reports it
        return found


def _check_http(variable: str, value: str) -> None:
    if _scheme(value) in ("http", "https"):
        return
    shown = without_secrets(without_credentials(value))[:_LONGEST_VALUE]
    if "://" in value:
        mend = "OTLP over HTTP takes http://HOST:PORT or https://HOST:PORT"
    else:
        mend = f"it has no scheme; set it to http://{shown.lstrip('/')}"
    raise ConfigurationError(f"{variable} is {shown!r}, to which nothing can be sent: {mend}")


def _scheme(endpoint: str) -> str:
    """The scheme of an address that has a host; empty for anything else."""
    try:
        parts = urlsplit(endpoint)
    except ValueError:
        return ""
    return parts.scheme if parts.netloc else ""


def _shown(text: str) -> str:
    return repr(without_secrets(text, secrets_in(text))[:_LONGEST_VALUE])


def warn(message: str) -> None:
    """Log the warning, once per process."""
    if complaints.is_new(message):
        _logger.warning("%s", message)
