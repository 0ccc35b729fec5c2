"""Claim references, build their spans, export them, and settle what was acknowledged. No lock is held while sending."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from otel_storage.ports.outbox import Claim, Claims, Outbox, Settling
from otel_storage.results.kinds import PIPELINE_EXECUTION, TASK_RESULT
from otel_storage.runtime.chunks import chunks
from otel_storage.runtime.forking import forks_allowed, no_fork
from otel_storage.telemetry.delivery.claimed import MAX_SPANS, Item, Round, Unit, requests_of
from otel_storage.telemetry.delivery.probing import Exports
from otel_storage.telemetry.otlp.acknowledgement import ACCEPTED, ExportOutcome, Verdict
from otel_storage.telemetry.spans.building import Spans

if TYPE_CHECKING:
    from otel_storage.results.clock import Clock
    from otel_storage.telemetry.otlp.exporter import AcknowledgedExporter

logger = logging.getLogger("otel_storage")

MAX_RUNS = 64
"""Runs claimed at once: three spans of each at least."""

PROBE_SPANS = 16
"""References claimed for the first request to an endpoint that has accepted nothing yet, or failed last.

What is built for one that is down is built in vain; and all of them can be searched for spans that are never taken.
"""

MAX_DELAY = timedelta(minutes=1)
"""The longest wait between two attempts."""

MAX_DECLINED_DELAY = timedelta(minutes=15)
"""The longest wait between two attempts at a span that fails by itself while others are accepted."""

_DECLINED_ATTEMPTS = 6
"""As how many failures it counts at least: it is to be out of the way of the others for a minute."""

RENEWED_AFTER = 0.1
"""The share of a lease after which it is renewed before another request: a request has the rest of it at least."""

_EXPIRY_INTERVAL = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendingRules:
    """How references are sent."""

    max_age: timedelta = timedelta(days=7)
    """References older than this are no longer sent."""
    settling: Settling = field(default_factory=Settling)
    lease: timedelta = timedelta(minutes=1)
    """How long a sender may take for one request, but for a tenth; what a dead one held is free again after it."""


@dataclass(slots=True)
class DeliveryReport:
    """What a round of sending came to."""

    sent: int = 0
    """Spans that were accepted."""
    settled: int = 0
    """References removed, because all of their spans were accepted."""
    refused: int = 0
    """References set aside, because their spans were refused for good."""
    expired: int = 0
    """References that became too old to be sent."""
    error: str = ""
    """Why sending stopped before all was sent; empty if nothing is due any more."""
    delay: timedelta = timedelta(0)
    """How long to wait before the next round, if sending stopped."""


class Sender(Exports):
    """Sends what is due, in the thread that calls; one thread at a time.

    Args:
        outbox: Where the references are.
        open_exporter: Makes the exporter when there is something to send for the first time.
        rules: How references are sent.
        clock: The outbox's clock.
    """

    def __init__(
        self,
        outbox: Outbox,
        open_exporter: Callable[[], AcknowledgedExporter],
        rules: SendingRules,
        clock: Clock,
    ) -> None:
        super().__init__(clock)
        self._outbox = outbox
        self._open_exporter = open_exporter
        self._exporter: AcknowledgedExporter | None = None
        self._inherited: list[AcknowledgedExporter] = []
        self._rules = rules
        self._expired_at: datetime | None = None
        self._limit = PROBE_SPANS
        """How many references are claimed next: few while requests fail."""
        self._is_newest_next: set[str] = set()
        """Of which kinds the next claim is of the newest, while requests fail."""

    def send_due(
        self,
        on_progress: Callable[[DeliveryReport], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> DeliveryReport:
        """Send until nothing is left that was due at the call, the endpoint is down, or ``should_stop``.

        It is taken to be down when it accepts nothing of what is claimed; of two claims in a row, if it has accepted
        others in this round or is known to take some spans and not others: those of one may all be of these.

        Args:
            on_progress: Called after every request, with the report so far.
            should_stop: Asked before every claim.

        Raises:
            ConfigurationError: the exporter cannot be made.
            Exception: what the database raised; what was sent by then is sent again later.
        """
        # Before anything is claimed: who cannot send takes nothing from those who can.
        self._opened()
        report = DeliveryReport(expired=self._expire())
        due_by = self._clock()
        has_accepted = False
        asked = timedelta(0)
        # The references of runs come last, as their spans follow their children's.
        for claim in (self._claim_task_results, self._claim_runs):
            failures = 0
            while not should_stop():
                leased = self._clock()
                claims = claim(due_by)
                if not claims.looked_at:
                    break
                round_ = Round(claims.token, {each.reference_id for each in claims.claims}, leased, report)
                for units in requests_of(self._units(claims, round_)):
                    self._send(round_, units)
                    if on_progress is not None:
                        on_progress(report)
                if claims.claims:
                    self._limit = self._limit_after(round_)
                asked = max(asked, round_.delay)
                if round_.has_accepted:
                    has_accepted, failures, self._failures = True, 0, 0
                elif round_.error:
                    failures += 1
                    self._failures += 1
                    if failures > (has_accepted or self._declines_some):
                        break
            if report.error and not (has_accepted or self._declines_some):
                break
        if has_accepted:
            # It is up: the next round need not wait for what it does not take.
            report.delay = asked
        elif report.error:
            self._declines_some = False
        return report

    def close(self) -> None:
        """Shut the exporter down."""
        exporter, self._exporter = self._exporter, None
        if exporter is not None:
            exporter.shutdown()

    def forget_exporter(self) -> None:
        """Leave the exporter to the parent, in a forked child; what it does when it is freed is no child's either."""
        exporter, self._exporter = self._exporter, None
        if exporter is not None:
            self._inherited.append(exporter)

    @property
    def endpoint(self) -> str | None:
        """Where the spans go, once there is an exporter."""
        exporter = self._exporter
        return None if exporter is None else exporter.description

    def _opened(self) -> AcknowledgedExporter:
        if self._exporter is None:
            # It imports hundreds of modules: a child would wait for ever for one that is half imported.
            with no_fork():
                self._exporter = self._open_exporter()
        return self._exporter

    # What becomes due after ``due_by`` waits for the next round: under a steady load runs would never have their turn.

    def _claim_task_results(self, due_by: datetime) -> Claims:
        newest_first = self._takes_newest(TASK_RESULT)
        return self._outbox.claim_task_results(self._limit, self._rules.lease, due_by, newest_first=newest_first)

    def _claim_runs(self, due_by: datetime) -> Claims:
        limit = max(1, self._limit * MAX_RUNS // MAX_SPANS)
        rules, newest_first = self._rules, self._takes_newest(PIPELINE_EXECUTION)
        return self._outbox.claim_runs(limit, rules.lease, rules.settling, due_by, newest_first=newest_first)

    def _takes_newest(self, kind: str) -> bool:
        """Whether the next claim is of the newest of the kind: while requests fail, of these and the oldest by turns.

        What is never taken comes back, and would fill one end.
        """
        takes_newest = kind in self._is_newest_next and self._limit < MAX_SPANS
        if takes_newest:
            self._is_newest_next.discard(kind)
        else:
            self._is_newest_next.add(kind)
        return takes_newest

    def _limit_after(self, round_: Round) -> int:
        if round_.error:
            return PROBE_SPANS
        # Among many the few that are never taken cost all of a search.
        return min(self._limit * 2, MAX_SPANS) if self._declines_some else MAX_SPANS

    def _units(self, claims: Claims, round_: Round) -> Iterator[Unit]:
        spans = Spans()
        for claim in claims.claims:
            try:
                yield Unit(claim, spans.of(claim.snapshot))
            except Exception as error:
                reason = f"no span could be made of it: {type(error).__name__}: {error}"
                logger.exception("reference %d is set aside", claim.reference_id)
                self._outbox.refuse(claims.token, [claim.reference_id], error=reason)
                round_.held.discard(claim.reference_id)
                round_.report.refused += 1

    def _send(self, round_: Round, units: Sequence[Unit]) -> None:
        """Send the spans of the units in one request or more, and settle what the verdict is clear on."""
        report = round_.report
        if not round_.error:
            for items in chunks([(unit, place) for unit in units for place in range(len(unit.spans))], MAX_SPANS):
                if not self._export(items, round_):
                    break
        complete = [unit for unit in units if unit.is_complete]
        report.sent += sum(len(unit.accepted) for unit in complete)
        accepted = [unit.claim.reference_id for unit in complete if not unit.refusals]
        report.settled += self._outbox.settle(round_.token, accepted)
        for unit in complete:
            if unit.refusals:
                reason = f"{self.endpoint}: {next(iter(unit.refusals.values()))}"
                self._outbox.refuse(round_.token, [unit.claim.reference_id], error=reason)
                report.refused += 1
        failed = [unit.claim for unit in units if not unit.is_complete and unit.claim.reference_id in round_.held]
        if failed:
            self._release(failed, round_)
        round_.held.difference_update(unit.claim.reference_id for unit in units)

    def _release(self, failed: Sequence[Claim], round_: Round) -> None:
        """Give back what was not accepted: what may never be for longer, the rest for as long as the endpoint says."""
        report = round_.report
        report.error = round_.error
        declined = [claim for claim in failed if claim.reference_id in round_.declined]
        rest = [claim for claim in failed if claim.reference_id not in round_.declined]
        for attempts in sorted({claim.attempts for claim in declined}):
            ids = [claim.reference_id for claim in declined if claim.attempts == attempts]
            delay = _delay(max(attempts, _DECLINED_ATTEMPTS), MAX_DECLINED_DELAY)
            self._outbox.release(round_.token, ids, delay=delay, error=report.error)
        if rest:
            report.delay = max(round_.delay, _delay(min(claim.attempts for claim in rest)))
            ids = [claim.reference_id for claim in rest]
            self._outbox.release(round_.token, ids, delay=report.delay, error=report.error)

    def _request(self, items: Sequence[Item], round_: Round) -> ExportOutcome:
        """One request, and what it came to; without what was accepted, or another sender has taken over."""
        exporter = self._opened()
        self._renew(round_)
        items = [
            (unit, place)
            for unit, place in items
            if place not in unit.accepted and unit.claim.reference_id in round_.held
        ]
        if not items:
            return ACCEPTED
        with forks_allowed():
            outcome = exporter.export([unit.spans[place] for unit, place in items])
        if outcome.verdict is Verdict.ACCEPTED:
            round_.has_accepted = True
            for unit, place in items:
                unit.accepted.add(place)
        return outcome

    def _renew(self, round_: Round) -> None:
        """See that a request has the time of a lease, and that nobody has taken over what is to be sent."""
        now = self._clock()
        if now - round_.leased < self._rules.lease * RENEWED_AFTER:
            return
        left = self._outbox.renew(round_.token, sorted(round_.held), self._rules.lease)
        round_.leased = now
        if len(left) < len(round_.held):
            logger.info("another sender has taken over references whose lease ran out")
            round_.held.intersection_update(left)

    def _expire(self) -> int:
        now = self._clock()
        if self._expired_at is not None and now - self._expired_at < _EXPIRY_INTERVAL:
            return 0
        self._expired_at = now
        expired = self._outbox.expire(self._rules.max_age)
        if expired:
            logger.error(
                "%d references to unsent spans are older than %s and will not be sent", expired, self._rules.max_age
            )
        return expired


def _delay(attempts: int, most: timedelta = MAX_DELAY) -> timedelta:
    """Twice as long after each failure, and never quite the same, so that senders do not come in step."""
    longest = min(timedelta(seconds=2.0 ** min(attempts, 10)), most)
    return longest * random.uniform(0.5, 1)  # noqa: S311 - a jitter is no secret
