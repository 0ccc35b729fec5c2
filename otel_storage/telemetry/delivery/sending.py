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
"""The most runs per claim; each has at least three spans."""

PROBE_SPANS = 16
"""The claim's size for an endpoint that has accepted nothing yet, or failed last.

Small, because spans for an endpoint that is down are built in vain, and because such a claim can be searched completely
for spans that are never accepted.
"""

MAX_DELAY = timedelta(minutes=1)
"""The longest wait between two attempts."""

MAX_DECLINED_DELAY = timedelta(minutes=15)
"""The longest wait between two attempts at a span that fails while others are accepted."""

_DECLINED_ATTEMPTS = 6
"""The least number of failures that such a span counts as, so that it is out of the way for about a minute."""

RENEWED_AFTER = 0.1
"""The share of a lease after which it is renewed before the next request, so that a request has at least the rest."""

_EXPIRY_INTERVAL = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendingRules:
    """How references are sent."""

    max_age: timedelta = timedelta(days=7)
    """References older than this are no longer sent."""
    settling: Settling = field(default_factory=Settling)
    lease: timedelta = timedelta(minutes=1)
    """How long a sender holds references; after that time, those of a dead sender are free again."""


@dataclass(slots=True)
class DeliveryReport:
    """The results of a round."""

    sent: int = 0
    """Accepted spans."""
    settled: int = 0
    """References removed because all of their spans were accepted."""
    refused: int = 0
    """References set aside because their spans were refused for good."""
    expired: int = 0
    """References that became too old to be sent."""
    error: str = ""
    """Why sending stopped early; empty if nothing is due any more."""
    delay: timedelta = timedelta(0)
    """How long to wait before the next round, if sending stopped early."""


class Sender(Exports):
    """Sends due references in the calling thread; only one thread may call at a time.

    Args:
        outbox: The outbox with the references.
        open_exporter: Makes the exporter, when there is first something to send.
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
        """The size of the next claim: small while requests fail."""
        self._is_newest_next: set[str] = set()
        """The kinds whose next claim takes the newest references, while requests fail."""

    def send_due(
        self,
        on_progress: Callable[[DeliveryReport], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> DeliveryReport:
        """Send until all references due at the call are sent, the endpoint is down, or ``should_stop`` returns True.

        The endpoint counts as down if it accepts nothing of a claim. If it has accepted spans in this round, or is
        known to accept some spans and not others, this takes two such claims in a row: one claim may consist of
        unacceptable spans only.

        Args:
            on_progress: Called after every request, with the report so far.
            should_stop: Asked before every claim.

        Raises:
            ConfigurationError: the exporter cannot be made.
            Exception: the database's error; spans sent by then may be sent again later.
        """
        # Open the exporter before claiming: a process that cannot send must not hold references of others.
        self._opened()
        report = DeliveryReport(expired=self._expire())
        due_by = self._clock()
        has_accepted = False
        asked = timedelta(0)
        # Send the references of runs last: their spans follow those of their children.
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
            # The endpoint is up: the next round need not wait because of spans that it declines.
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
        """Keep a forked child from using, or even freeing, the parent's exporter."""
        exporter, self._exporter = self._exporter, None
        if exporter is not None:
            self._inherited.append(exporter)

    @property
    def endpoint(self) -> str | None:
        """The endpoint, once there is an exporter."""
        exporter = self._exporter
        return None if exporter is None else exporter.description

    def _opened(self) -> AcknowledgedExporter:
        if self._exporter is None:
            # Opening imports hundreds of modules: a child forked meanwhile would wait for ever for a half-imported
            # module.
            with no_fork():
                self._exporter = self._open_exporter()
        return self._exporter

    # References due after ``due_by`` wait for the next round: otherwise, under load, runs would never get their turn.

    def _claim_task_results(self, due_by: datetime) -> Claims:
        newest_first = self._takes_newest(TASK_RESULT)
        return self._outbox.claim_task_results(self._limit, self._rules.lease, due_by, newest_first=newest_first)

    def _claim_runs(self, due_by: datetime) -> Claims:
        limit = max(1, self._limit * MAX_RUNS // MAX_SPANS)
        rules, newest_first = self._rules, self._takes_newest(PIPELINE_EXECUTION)
        return self._outbox.claim_runs(limit, rules.lease, rules.settling, due_by, newest_first=newest_first)

    def _takes_newest(self, kind: str) -> bool:
        """Whether the next claim takes the newest references; while requests fail, claims alternate with the oldest.

        References that are never accepted come back, and would fill one end of the queue.
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
        # Keep claims small: searching a big claim for the few spans that are never accepted takes many requests.
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
        """Send the spans of the units in one or more requests, and settle those with a clear verdict."""
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
        """Release failed references; those of declined spans wait longer, the others as long as the endpoint asks."""
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
        """Make one request, without spans that were accepted already or belong to another sender now."""
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
        """Renew an old lease, and drop references that another sender has taken over."""
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
    """The delay, doubled after each failure, with a jitter so that senders do not synchronise."""
    longest = min(timedelta(seconds=2.0 ** min(attempts, 10)), most)
    return longest * random.uniform(0.5, 1)  # noqa: S311 - a jitter is no secret
