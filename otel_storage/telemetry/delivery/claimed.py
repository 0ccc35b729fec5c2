"""The state of a claim: references with their spans, and the result for each span."""

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
"""Spans per request, like OpenTelemetry's own batches."""

MAX_SEARCHES = 64
"""The most requests per claim that search for spans which are never accepted."""


@dataclass(slots=True)
class Unit:
    """A claimed reference with its spans, in the order in which they are sent."""

    claim: Claim
    spans: Sequence[ReadableSpan]
    accepted: set[int] = field(default_factory=set)
    """The positions in ``spans`` of accepted spans."""
    refusals: dict[int, str] = field(default_factory=dict)
    """The positions of spans that were refused for good, with the reason."""

    @property
    def is_complete(self) -> bool:
        """Whether every span was accepted or refused for good."""
        return len(self.accepted) + len(self.refusals) == len(self.spans)


Item = tuple[Unit, int]
"""A unit and the position of one of its spans."""


@dataclass(slots=True)
class Round:
    """The state that the requests of one claim share."""

    token: str
    held: set[int]
    """The references of the claim that this sender still holds."""
    leased: datetime
    """When the lease was last taken or renewed, or slightly earlier."""
    report: DeliveryReport
    error: str = ""
    """Why a request failed temporarily; empty if none did."""
    delay: timedelta = timedelta(0)
    """How long the endpoint asks senders to wait."""
    has_accepted: bool = False
    """Whether the endpoint accepted any span of the claim."""
    declined: set[int] = field(default_factory=set)
    """References of spans that failed on their own, although the endpoint accepts others."""
    searches: int = MAX_SEARCHES
    """How many more requests may search for a span that is never accepted."""


def requests_of(units: Iterable[Unit]) -> Iterator[list[Unit]]:
    """Groups of units that share a request; a unit that fills a request has its own."""
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
