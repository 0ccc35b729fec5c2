"""One OTLP/HTTP request, and the meaning of its answer.

OpenTelemetry's exporter takes every status below 400 for success, ignores what a receiver says of rejected spans, and
retries by itself, in another way in each version [seen in 1.34 to 1.45]. It does let its user bring the session that it
posts with: ours makes one attempt, judges the answer, and keeps the verdict. The rules are those of the OTLP
specification ("OTLP/HTTP response"), save that nothing is given up for a status that a wrong setting can cause.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 - imported early, as netrc below
import json
import logging
import math
import netrc  # noqa: F401 - requests imports it at its first request, when a fork could find it half imported
import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin

import requests
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status as RpcStatus
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_storage.privacy.secrets import explain, secrets_in, without_credentials, without_secrets
from otel_storage.runtime.complaints import Complaints
from otel_storage.telemetry.otlp.acknowledgement import ACCEPTED, ExportOutcome, Verdict

LARGEST_ANSWER = 65_536
"""How many bytes of an answer are read; a real answer has a few dozen."""

_PROTOBUF = frozenset({"application/x-protobuf", "application/protobuf", "application/vnd.google.protobuf", ""})
_JSON = "application/json"

# Bad data: the same request fails again. For 413, a smaller request may succeed.
_REFUSALS = frozenset({400, 413, 422})

_HINTS = {
    401: "check OTEL_EXPORTER_OTLP_HEADERS",
    403: "check OTEL_EXPORTER_OTLP_HEADERS",
    404: "check OTEL_EXPORTER_OTLP_ENDPOINT",
    405: "check OTEL_EXPORTER_OTLP_ENDPOINT",
    415: "check OTEL_EXPORTER_OTLP_ENDPOINT",
}

_MOST_WARNINGS = 10

_logger = logging.getLogger(__name__)


class NotAccepted(Exception):
    """The export did not succeed; makes the exporter give up.

    Not a subclass of ``requests``' errors or ``OSError``, after which the exporter would retry.
    """


class OneAttemptSession(requests.Session):
    """Makes a single attempt per export, and remembers its result.

    Not thread-safe: one export at a time. Redirects are not followed: a POST would arrive as a GET.
    """

    outcome: ExportOutcome | None
    """The outcome of the export since :meth:`begin`; None if it made no request."""

    def __init__(self, timeout: float) -> None:
        """Start without an outcome.

        Args:
            timeout: Seconds that connecting, and then waiting for the answer, may take.
        """
        super().__init__()
        self.outcome = None
        self._timeout = timeout
        self._complaints = Complaints(_MOST_WARNINGS)

    def begin(self) -> None:
        """Forget the last export."""
        self.outcome = None

    def request(self, method: Any, url: Any, *args: Any, **kwargs: Any) -> requests.Response:
        """Make the request, or refuse to make it a second time.

        Raises:
            NotAccepted: unless the receiver has every span.
        """
        if self.outcome is None:
            self.outcome = self._attempt(method, url, *args, **kwargs)
        if self.outcome.verdict is not Verdict.ACCEPTED:
            raise NotAccepted(self.outcome.reason)
        # The real answer has been read; return one that means success to the exporter, whatever it looks at.
        answer = requests.Response()
        answer.status_code = HTTPStatus.OK
        answer.reason = HTTPStatus.OK.phrase
        answer.url = str(url)
        return answer

    def _attempt(self, method: Any, url: Any, *args: Any, **kwargs: Any) -> ExportOutcome:
        outer = sys.exception()
        secrets = secrets_in(str(url), {**self.headers, **(kwargs.get("headers") or {})})
        # The exporter may have used up part of the time: never exceed the timeout that it passes.
        kwargs["timeout"] = self._timeout if kwargs.get("timeout") is None else kwargs["timeout"]
        kwargs["allow_redirects"] = False
        kwargs["stream"] = True  # else a body of any size would be read
        deadline = time.monotonic() + self._timeout
        try:
            response = super().request(method, url, *args, **kwargs)
            try:
                body = _body(response, deadline)
            finally:
                response.close()
            outcome, warning = judge(response.status_code, response.headers, body, url=str(url), secrets=secrets)
        except Exception as error:  # noqa: BLE001 - after any error, nothing is known about the spans
            return ExportOutcome(Verdict.RETRY, explain(error, secrets, str(_root(error, outer))))
        self._warn(warning)
        return outcome

    def _warn(self, warning: str) -> None:
        """Log the warning of an answer that accepts everything, once."""
        if warning and self._complaints.is_new(warning):
            _logger.warning("the OTLP receiver has taken the spans, but says: %s", warning)


def judge(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    url: str = "",
    secrets: frozenset[str] = frozenset(),
) -> tuple[ExportOutcome, str]:
    """Judge the answer to an export request.

    Args:
        status: The HTTP status.
        headers: The headers of the answer; names are looked up in any case.
        body: The body, decompressed; of a longer one, the first bytes more than :data:`LARGEST_ANSWER`.
        url: The address the request was sent to.
        secrets: Texts that must not appear in a reason.

    Returns:
        The outcome, and the warning of a receiver that accepted everything ("" for none).
    """
    headers = {name.lower(): value for name, value in headers.items()}
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if 200 <= status <= 299:
        return _success(status, content_type, body, secrets)
    if 300 <= status <= 399:
        return _redirect(status, headers.get("location", ""), url), ""

    reason = _phrase(status)
    if said := without_secrets(_message(content_type, body), secrets):
        reason += f": {said}"
    if status in _REFUSALS:
        return ExportOutcome(Verdict.REFUSED, reason), ""
    if hint := _HINTS.get(status):
        reason += f" ({hint})"
    return ExportOutcome(Verdict.RETRY, reason, retry_after(headers.get("retry-after", ""))), ""


def retry_after(value: str) -> float | None:
    """The seconds that a Retry-After header asks for, given in seconds or as a date (RFC 9110, 10.2.3).

    Returns:
        0 for a time gone by; None for a header that is missing or makes no sense.
    """
    value = value.strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except (TypeError, ValueError):
            return None
        # A date with the zone -0000 is parsed as naive, and means UTC.
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = moment.timestamp() - time.time()
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _success(status: int, content_type: str, body: bytes, secrets: frozenset[str]) -> tuple[ExportOutcome, str]:
    """Accept a success only if it is OTLP: the status of a login page or a proxy's greeting is 200 too."""
    response = _response(content_type, body)
    if response is None:
        said = without_secrets(_message(content_type, body), secrets)
        reason = f"{_phrase(status)}, but the answer is not OTLP (check OTEL_EXPORTER_OTLP_ENDPOINT)"
        return ExportOutcome(Verdict.RETRY, f"{reason}: {said}" if said else reason), ""
    message = without_secrets(response.partial_success.error_message, secrets)
    rejected = response.partial_success.rejected_spans
    if rejected > 0:
        reason = f"{rejected} span{'s' if rejected > 1 else ''} rejected: {message or 'no reason given'}"
        return ExportOutcome(Verdict.REFUSED, reason), ""
    return ACCEPTED, message


def _response(content_type: str, body: bytes) -> ExportTraceServiceResponse | None:
    """The answer in a body: an empty one for an empty body, None if the body is no answer."""
    response = ExportTraceServiceResponse()
    if not body:
        return response
    if len(body) > LARGEST_ANSWER:
        return None
    try:
        if content_type in _PROTOBUF:
            response.ParseFromString(body)
            return response
        if content_type == _JSON:
            # Strict, because {"error": ...} is an object too. The parser would take a list for an empty message.
            parsed = json_format.Parse(body, response) if body.lstrip().startswith(b"{") else None
            return response if parsed is not None else None
    except (DecodeError, json_format.ParseError, ValueError, RecursionError):
        pass
    return None


def _redirect(status: int, location: str, url: str) -> ExportOutcome:
    if not location:
        return ExportOutcome(Verdict.RETRY, f"{_phrase(status)} (check OTEL_EXPORTER_OTLP_ENDPOINT)")
    with contextlib.suppress(ValueError):  # not an address: shown as it is
        location = urljoin(url, location)
    return ExportOutcome(
        Verdict.RETRY,
        f"{_phrase(status)}: redirected to {without_credentials(location)}: "
        "set OTEL_EXPORTER_OTLP_ENDPOINT to the final address",
    )


def _message(content_type: str, body: bytes) -> str:
    """The message in a server's error answer, as far as it can be found."""
    body = body[:LARGEST_ANSWER]
    if content_type in _PROTOBUF and content_type:
        try:
            return str(RpcStatus.FromString(body).message)
        except DecodeError:
            return ""
    text = body.decode("utf-8", "replace")
    if content_type == _JSON:
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            return text
        if isinstance(parsed, dict) and isinstance(parsed.get("message"), str):
            return str(parsed["message"])
    if content_type == "text/html":
        return re.sub(r"<[^<>]*>", " ", text)
    return text


def _phrase(status: int) -> str:
    try:
        return f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP {status}"


def _root(error: BaseException, outer: BaseException | None) -> BaseException:
    """The innermost cause that has a text: "Connection refused" is wrapped in four other exceptions.

    Args:
        error: The exception.
        outer: The exception that was already being handled when the work began, which is not a cause.
    """
    seen = {id(error), id(outer)}
    while (cause := error.__cause__ or error.__context__) is not None and id(cause) not in seen and str(cause):
        seen.add(id(cause))
        error = cause
    return error


def _body(response: requests.Response, deadline: float) -> bytes:
    """The body, up to the first chunk that makes it too large.

    Raises:
        requests.exceptions.RequestException: the body does not arrive whole by the deadline.
    """
    body = bytearray()
    for chunk in response.iter_content(LARGEST_ANSWER):
        body += chunk
        if len(body) > LARGEST_ANSWER:
            break
        if time.monotonic() > deadline:
            raise requests.exceptions.ReadTimeout("the answer did not end in time")
    return bytes(body)
