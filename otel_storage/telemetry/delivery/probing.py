"""Handles partly failing exports: finds the spans that an endpoint never accepts, so that all others arrive."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from otel_storage.telemetry.otlp.acknowledgement import ExportOutcome, Verdict

if TYPE_CHECKING:
    from otel_storage.results.clock import Clock
    from otel_storage.telemetry.delivery.claimed import Item, Round

SUSPICIOUS_ATTEMPTS = 4
"""After this many failures the cause may be a span, so a failing request is split."""

PROBES = 2
"""How many spans are sent one by one after a failed request, to see whether the endpoint accepts any."""

PROBES_AMONG_DECLINED = 8
"""The same for an endpoint that was seen to accept some spans and not others: it may accept only few."""

LONGEST_PROBING = timedelta(seconds=2)
"""No further probe is sent after this time, so that an endpoint that hangs does not get all of them."""

MAX_RETRY_AFTER = 900.0
"""The longest Retry-After, in seconds, that a sender respects."""


class Exports(ABC):
    """Exports spans, and retries with fewer of them if that shows which are never accepted."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._declines_some = False
        """Whether the endpoint last accepted some spans and not others; then a failing request is split at once."""
        self._failures = 0
        """For how many claims in a row the endpoint has accepted nothing."""

    @abstractmethod
    def _request(self, items: Sequence[Item], round_: Round) -> ExportOutcome:
        """Make one request, and return its outcome."""

    def _export(self, items: Sequence[Item], round_: Round) -> bool:
        """Export the spans; whether every one of them was accepted or refused."""
        outcome = self._request(items, round_)
        if outcome.verdict is Verdict.REFUSED:
            return self._split(items, outcome.reason, round_)
        if outcome.verdict is Verdict.ACCEPTED:
            return True
        round_.error = outcome.reason
        round_.delay = timedelta(seconds=min(outcome.retry_after or 0, MAX_RETRY_AFTER))
        if self._is_up_but_for_some(items, outcome, round_):
            self._search(items, round_)
            # If the search found no span that fails on its own, the failure was a passing one.
            self._declines_some = bool(round_.declined)
        return False

    def _split(self, items: Sequence[Item], reason: str, round_: Round) -> bool:
        """Find the spans that are refused for good, and send the others without them."""
        if len(items) == 1:
            [(unit, place)] = items
            unit.refusals[place] = reason
            return True
        middle = len(items) // 2
        return self._export(items[:middle], round_) and self._export(items[middle:], round_)

    def _is_up_but_for_some(self, items: Sequence[Item], outcome: ExportOutcome, round_: Round) -> bool:
        """Whether the endpoint accepts one of a few single spans: then it is up, and another span caused the failure.

        Not every endpoint says that it will never accept a span, and a plain exporter cannot say so. Probes are sent
        only after several failures, or if the endpoint declined single spans before, so that an outage costs three
        requests per round and not one per span. A Retry-After keeps the probes at this number.
        """
        attempts = max(self._failures, *(unit.claim.attempts for unit, _ in items))
        if len(items) == 1 or (attempts < SUSPICIOUS_ATTEMPTS and not self._declines_some):
            return False
        most = PROBES_AMONG_DECLINED if self._declines_some and not outcome.retry_after else PROBES
        # Probe the spans that failed least often: a span that is never accepted comes back again and again.
        probes = sorted(random.sample(items, len(items)), key=lambda item: item[0].claim.attempts)[:most]
        began = self._clock()
        for number, probe in enumerate(probes):
            if number >= PROBES and self._clock() - began > LONGEST_PROBING:
                break
            if self._request([probe], round_).verdict is Verdict.ACCEPTED:
                return True
        return False

    def _search(self, items: Sequence[Item], round_: Round) -> None:
        """Send the spans in ever smaller parts, so that all spans arrive except those that are never accepted."""
        middle = len(items) // 2
        for part in (items[:middle], items[middle:]):
            if not part or round_.searches <= 0:
                continue
            round_.searches -= 1
            outcome = self._request(part, round_)
            if outcome.verdict is Verdict.REFUSED:
                self._split(part, outcome.reason, round_)
            elif outcome.verdict is Verdict.RETRY and len(part) > 1:
                self._search(part, round_)
            elif outcome.verdict is Verdict.RETRY:
                round_.declined.add(part[0][0].claim.reference_id)
