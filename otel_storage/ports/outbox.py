"""What a storage keeps for telemetry: references to final records whose spans are not acknowledged yet.

A reference is written in the transaction that makes its record final, and removed once the record's span is accepted.
There is one per final task result, and one per run for the three levels above, which leave together after their
children. A sender claims references for a time (a lease), so that several may work side by side, and what a dead one
held becomes free again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from otel_storage.ports.snapshots import RunSnapshot, TaskResultSnapshot

REPLAY_RATE = 500
"""How many replayed references become due in a second: fewer than a sender sends in it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A reference that this sender holds, with what its spans are made from."""

    reference_id: int
    attempts: int
    """How often it was sent before, in vain."""
    snapshot: TaskResultSnapshot | RunSnapshot


@dataclass(frozen=True, slots=True)
class Claims:
    """References held under one lease."""

    token: str
    """What the lease is known by; nobody else can settle or release its references."""
    claims: Sequence[Claim]
    looked_at: int
    """How many references were looked at: runs that have not settled are, but cannot be claimed."""


@dataclass(frozen=True, slots=True)
class Settling:
    """When a run that is final counts as settled although there are records in it that are not."""

    quiet: timedelta = timedelta(seconds=30)
    """Records that are PENDING are waited for until nothing in the run has changed for this long."""
    after: timedelta = timedelta(days=1)
    """Task results that are RUNNING are waited for until nothing in the run has changed for this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxCounts:
    """How many references there are, by what they wait for."""

    due: int
    """To be sent now."""
    retrying: int
    """Sent in vain, and waiting for their next attempt."""
    leased: int
    """In the hands of a sender."""
    held: int
    """Runs that are final, whose parent spans wait for the records below them."""
    open: int
    """Runs that are not final yet."""
    refused: int
    """Set aside, because the endpoint refused their spans for good."""
    expired: int
    """Older than the greatest age at which they are sent."""
    oldest: datetime | None
    """When the oldest one that waits to be sent was written."""

    @property
    def waiting(self) -> int:
        """How many wait to be sent or are being sent: due, retrying and leased."""
        return self.due + self.retrying + self.leased


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxStatus(OutboxCounts):
    """How many references there are, and why they are still there."""

    error: str
    """Why the last attempt of one that waits failed; empty if none did."""
    refusal: str
    """Why the last one that was set aside was refused; empty if none was."""
    hold: str
    """What the last one that is held waits for; empty if none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenSender:
    """A process that sends, as it was last seen."""

    host: str
    pid: int
    is_watching: bool
    """Whether sending is all that it does: ``otel-storage deliver --watch``."""
    seen: datetime
    """When it was last heard of."""
    sent: datetime | None
    """When spans of it were last accepted."""
    failed: datetime | None
    """When it last sent in vain."""
    error: str
    """Why; empty if it never did."""


class Senders(Protocol):
    """The processes that send, as they tell of themselves; those not heard of for long are forgotten.

    Every method is a transaction of its own, and may raise what the database does.
    """

    def seen(
        self, token: str, *, is_watching: bool, sent: datetime | None, failed: datetime | None, error: str
    ) -> None:
        """Say that this process sends, and what its sending came to; ``token`` is its own, and no other process's."""

    def forget(self, age: timedelta) -> int:
        """Forget those that were not heard of for so long; returns how many."""

    def latest(self, limit: int) -> Sequence[SeenSender]:
        """Those that were heard of last, newest first."""

    def last_watching(self) -> SeenSender | None:
        """The one that watches and was heard of last; None if none ever did."""

    def last_success(self) -> SeenSender | None:
        """The one whose spans were accepted last; None if none ever were."""

    def last_failure(self) -> SeenSender | None:
        """The one that sent in vain last; None if none ever did."""


class Outbox(Protocol):
    """References, to be claimed and settled.

    Every method is a transaction of its own, or several, and may raise what the database does.
    """

    @property
    def senders(self) -> Senders:
        """Those who claim and settle them."""

    def claim_task_results(
        self, limit: int, lease: timedelta, due_by: datetime | None = None, *, newest_first: bool = False
    ) -> Claims:
        """Claim up to ``limit`` references of task results that are due, or were by ``due_by``.

        Those that have been due for the longest, or with ``newest_first`` for the shortest time.
        """

    def claim_runs(
        self,
        limit: int,
        lease: timedelta,
        rule: Settling,
        due_by: datetime | None = None,
        *,
        newest_first: bool = False,
    ) -> Claims:
        """Claim up to ``limit`` references of runs that are due, or were by ``due_by``, and have settled.

        A run has settled when it is final, the spans of its task results are acknowledged, none of them is RUNNING, and
        neither is one PENDING nor a pipeline result RUNNING, or nothing in the run has changed for a while. What its
        spans are made from is stored then; a record that changes later no longer changes them. Runs that have not
        settled are looked at again later.
        """

    def renew(self, token: str, reference_ids: Sequence[int], lease: timedelta) -> Collection[int]:
        """Prolong the lease on the references; returns those that have not been lost to another sender."""

    def settle(self, token: str, reference_ids: Sequence[int]) -> int:
        """Remove references whose spans were accepted; returns how many of them the token still held."""

    def release(self, token: str, reference_ids: Sequence[int], *, delay: timedelta, error: str) -> None:
        """Give references back after a failure, to be due again after ``delay``."""

    def refuse(self, token: str, reference_ids: Sequence[int], *, error: str) -> None:
        """Set references aside whose spans were refused for good."""

    def expire(self, max_age: timedelta) -> int:
        """Mark references older than ``max_age`` as expired, so that they are no longer sent; returns how many."""

    def hasten(self, *, held_only: bool = False, tried_only: bool = False) -> None:
        """Make due now the runs that are held and, unless ``held_only``, all that is due later.

        With ``tried_only``, of that only what waits for its next attempt: a replay lets the rest become due bit by bit.
        """

    def status(self) -> OutboxStatus:
        """How many references there are, by what they wait for, and why."""

    def counts(self) -> OutboxCounts:
        """How many references there are, by what they wait for."""

    def last_id(self) -> int:
        """The id of the newest reference; 0 if there is none."""

    def has_unsent(self, last_id: int, due_by: datetime, *, leased_too: bool = True) -> bool:
        """Whether a reference up to ``last_id`` waits that was due by then or was sent in vain since.

        Unless ``leased_too``, those in the hands of a sender do not count.
        """
