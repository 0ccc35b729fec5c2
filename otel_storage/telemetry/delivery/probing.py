"""Exports that fail in part: finds the spans that an endpoint never takes, so that all others arrive."""

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
"""After so many failures the spans themselves are suspected, and a failing request is split."""

PROBES = 2
"""Spans that are sent by themselves after a request has failed, to see whether the endpoint takes any."""

PROBES_AMONG_DECLINED = 8
"""As many where it is known to take some and not others: the few that it takes may be among many that it does not."""

LONGEST_PROBING = timedelta(seconds=2)
"""How long it may take to send more than the first of them: an endpoint that hangs is not asked eight times."""

MAX_RETRY_AFTER = 900.0
"""Seconds: an endpoint that asks to be left alone for longer is asked again all the same."""


class Exports(ABC):
    """Exports spans, and asks again with fewer of them where that tells which are not taken."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._declines_some = False
        """Whether the endpoint was last seen to take some spans and not others: a request that fails is split then."""
        self._failures = 0
        """How many claims in a row the endpoint has accepted nothing of."""

    @abstractmethod
    def _request(self, items: Sequence[Item], round_: Round) -> ExportOutcome:
        """Make one request, and say what it came to."""

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
            # Without any it was a hiccup.
            self._declines_some = bool(round_.declined)
        return False

    def _split(self, items: Sequence[Item], reason: str, round_: Round) -> bool:
        """Find the spans that are refused for good: the others are sent without them."""
        if len(items) == 1:
            [(unit, place)] = items
            unit.refusals[place] = reason
            return True
        middle = len(items) // 2
        return self._export(items[:middle], round_) and self._export(items[middle:], round_)

    def _is_up_but_for_some(self, items: Sequence[Item], outcome: ExportOutcome, round_: Round) -> bool:
        """Whether the endpoint takes one of a few spans by itself: then it is not down, and another span is the cause.

        Not every endpoint says of a span that it will never take it, and a plain exporter has no way to. Asked only
        after several failures, or where it was so the last time, so that an outage costs three requests a round, and
        not one a span; of one that says when to come back no more often than of any other.
        """
        attempts = max(self._failures, *(unit.claim.attempts for unit, _ in items))
        if len(items) == 1 or (attempts < SUSPICIOUS_ATTEMPTS and not self._declines_some):
            return False
        most = PROBES_AMONG_DECLINED if self._declines_some and not outcome.retry_after else PROBES
        # Those that failed the least often: what is never taken comes back again and again.
        probes = sorted(random.sample(items, len(items)), key=lambda item: item[0].claim.attempts)[:most]
        began = self._clock()
        for number, probe in enumerate(probes):
            if number >= PROBES and self._clock() - began > LONGEST_PROBING:
                break
            if self._request([probe], round_).verdict is Verdict.ACCEPTED:
                return True
        return False

    def _search(self, items: Sequence[Item], round_: Round) -> None:
        """Send the spans in ever smaller parts, so that all arrive but those that are never taken."""
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
