"""What a sender has claimed and sends: references with their spans, and how far they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from otel_storage.ports.outbox import Claim
    from otel_storage.telemetry.delivery.sending import DeliveryReport

MAX_SPANS = 512
"""Spans in one request, as OpenTelemetry's own batches have."""

MAX_SEARCHES = 64
"""Requests that may be made of one claim in search of spans that are never taken."""


@dataclass(slots=True)
class Unit:
    """A claimed reference with its spans, in the order they are to arrive."""

    claim: Claim
    spans: Sequence[ReadableSpan]
    accepted: set[int] = field(default_factory=set)
    """The places in ``spans`` of those that were accepted."""
    refusals: dict[int, str] = field(default_factory=dict)
    """The places of those refused for good, and why."""

    @property
    def is_complete(self) -> bool:
        """Whether every span was accepted or refused for good."""
        return len(self.accepted) + len(self.refusals) == len(self.spans)


Item = tuple[Unit, int]
"""A unit and the place of one of its spans."""


@dataclass(slots=True)
class Round:
    """What the requests of one claim have in common."""

    token: str
    held: set[int]
    """The references of the claim that this sender still has."""
    leased: datetime
    """When the lease was taken or renewed last, or a little earlier."""
    report: DeliveryReport
    error: str = ""
    """Why a request failed for now; empty if none did."""
    delay: timedelta = timedelta(0)
    """How long the endpoint asks to be left alone."""
    has_accepted: bool = False
    """Whether the endpoint took any of it."""
    declined: set[int] = field(default_factory=set)
    """The references of spans that failed by themselves, although the endpoint takes others."""
    searches: int = MAX_SEARCHES
    """How many more requests may be made in search of a span that is never taken."""


def requests_of(units: Iterable[Unit]) -> Iterator[list[Unit]]:
    """Units that share a request; one that fills a request by itself goes alone."""
    request: list[Unit] = []
    size = 0
    for unit in units:
        if request and size + len(unit.spans) > MAX_SPANS:
            yield request
            request, size = [], 0
        request.append(unit)
        size += len(unit.spans)
    if request:
        yield request
