"""Spans as a tree that can be compared: what differs between two runs of one pipeline is left out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from otel_storage.testing.receiver import ReceivedEvent, ReceivedSpan

OF_THE_RUN = {
    "cicd.pipeline.run.id",
    "cicd.pipeline.task.run.id",
    "otel_storage.queue_time",
    "otel_storage.record.id",
    "otel_storage.worker.pid",
}
"""Attributes that every run has another value of; that they are there is compared."""


def span_tree(spans: Iterable[ReceivedSpan]) -> list[Any]:
    """Each root with all below it: name, kind, status, attributes and events; siblings in the order of their ids."""
    children: dict[str, list[ReceivedSpan]] = {}
    for span in spans:
        children.setdefault(span.parent_span_id, []).append(span)

    def branch(span: ReceivedSpan) -> Any:
        return {
            "name": span.name,
            "kind": span.kind,
            "scope": span.scope_name,
            "status": (span.status_code, span.status_message),
            "attributes": _comparable(span.attributes),
            "events": [_event(event) for event in span.events],
            "resource": span.resource,
            "has_length": span.end_time_unix_nano > span.start_time_unix_nano,
            "children": branches(span.span_id),
        }

    def branches(parent: str) -> list[Any]:
        return [branch(span) for span in sorted(children.get(parent, []), key=_record_id)]

    return branches("")


def _record_id(span: ReceivedSpan) -> tuple[int, int]:
    return int(span.attributes.get("otel_storage.record.id", 0)), span.start_time_unix_nano


def _comparable(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: "*" if name in OF_THE_RUN else value for name, value in attributes.items()}


def _event(event: ReceivedEvent) -> tuple[str, dict[str, Any]]:
    return event.name, dict(event.attributes)
