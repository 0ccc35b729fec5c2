"""The byte image of a span: all that arrives of it, so that two sends can be held against each other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import Span

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.sdk.trace import ReadableSpan

Id = tuple[str, str]
"""A span's trace id and span id, hexadecimal."""


@dataclass(frozen=True, slots=True)
class Image:
    """A span as it travels."""

    id: Id
    parent: str
    """The parent's span id; empty for a root."""
    start: int
    end: int
    """Nanoseconds since the epoch, as the start is."""
    digest: str
    """Of the span, its scope and its resource: equal digests mean equal bytes."""
    span: bytes
    """The span, serialised deterministically."""

    def __str__(self) -> str:
        """The span for people."""
        return " ".join(str(Span.FromString(self.span)).split())


def images(request: ExportTraceServiceRequest) -> Iterator[Image]:
    """The images of a request's spans, in their order."""
    for resource_spans in request.resource_spans:
        resource = resource_spans.resource.SerializeToString(deterministic=True)
        for scope_spans in resource_spans.scope_spans:
            scope = scope_spans.scope.SerializeToString(deterministic=True)
            for message in scope_spans.spans:
                span = message.SerializeToString(deterministic=True)
                parts = (hashlib.sha256(part).digest() for part in (span, scope, resource))
                yield Image(
                    (message.trace_id.hex(), message.span_id.hex()),
                    message.parent_span_id.hex(),
                    message.start_time_unix_nano,
                    message.end_time_unix_nano,
                    hashlib.sha256(b"".join(parts)).hexdigest()[:32],
                    span,
                )


def expected_images(spans: Iterable[ReadableSpan]) -> Iterator[Image]:
    """The images that the spans must have when they arrive."""
    return images(encode_spans(list(spans)))
