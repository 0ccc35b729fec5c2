"""The ids of traces and spans are functions of the run id and the record, so every process can compute them."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256

# RFC 9562: the version is the thirteenth digit, the variant the two high bits of the seventeenth. Versions 4 and 7 end
# in random bits, which https://www.w3.org/TR/trace-context-2/ wants in a trace id.
_RANDOM_UUID = re.compile(
    r"[0-9a-f]{8}(-?)[0-9a-f]{4}\1[47][0-9a-f]{3}\1[89ab][0-9a-f]{3}\1[0-9a-f]{12}", re.IGNORECASE | re.ASCII
)


@lru_cache(maxsize=128)
def trace_id(run_id: str) -> int:
    """The id of the run's trace, 128 bits, never 0.

    A run id that is a UUID of version 4 or 7, dashed or as 32 hexadecimal digits, is the trace id itself; any other run
    id is hashed.
    """
    if _RANDOM_UUID.fullmatch(run_id):
        return int(run_id.replace("-", ""), 16)
    return _hash(b"trace", run_id.encode("utf-8", "surrogatepass"), 16)


def span_id(kind: str, record_id: int) -> int:
    """The id of the record's span, 64 bits, never 0; ``kind`` is the record's ``content_type_name``."""
    return _hash(b"span", f"{kind}:{record_id}".encode(), 8)


def is_sampled(trace_id: int, ratio: float) -> bool:
    """Whether the trace is among the ``ratio`` (0 to 1) of all traces that are recorded.

    A hash of the trace id decides. The SDK's sampler uses the low 64 bits, but two of these are fixed in a UUID.
    """
    return _hash(b"sample", trace_id.to_bytes(16, "big"), 8) < ratio * 2**64


def format_trace_id(trace_id: int) -> str:
    """The trace id as 32 hexadecimal digits, as trace viewers expect it."""
    return f"{trace_id:032x}"


def format_span_id(span_id: int) -> str:
    """The span id as 16 hexadecimal digits."""
    return f"{span_id:016x}"


def _hash(purpose: bytes, data: bytes, size: int) -> int:
    digest = sha256(b"otel_storage.%b:%b" % (purpose, data)).digest()
    return int.from_bytes(digest[:size], "big") or 1
