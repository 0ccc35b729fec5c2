"""The outbox: references to final records whose spans are not acknowledged yet.

The transaction that makes a record final writes the reference, and the reference is removed when the record's span is
accepted. Each final task result has one reference. Each run has one for its three parent levels, which are sent
together after their children. A sender claims references for a time (a lease), so that several senders can work side by
side, and the references of a dead sender become free again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from otel_storage.ports.snapshots import RunSnapshot, TaskResultSnapshot

REPLAY_RATE = 500
"""How many replayed references become due per second: fewer than a sender sends per second."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A reference that this sender holds, with the data of its spans."""

    reference_id: int
    attempts: int
    """How many attempts to send it have failed."""
    snapshot: TaskResultSnapshot | RunSnapshot


@dataclass(frozen=True, slots=True)
class Claims:
    """References held under one lease."""

    token: str
    """The token of the lease; only its holder can settle or release the references."""
    claims: Sequence[Claim]
    looked_at: int
    """How many references were examined, including runs that have not settled and so cannot be claimed."""


@dataclass(frozen=True, slots=True)
class Settling:
    """When a final run counts as settled although some of its records are not final."""

    quiet: timedelta = timedelta(seconds=30)
    """PENDING records delay the run until nothing in it has changed for this long."""
    after: timedelta = timedelta(days=1)
    """RUNNING task results delay the run until nothing in it has changed for this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxCounts:
    """How many references there are, by their state."""

    due: int
    """Due now."""
    retrying: int
    """Waiting for the next attempt after a failure."""
    leased: int
    """Leased to a sender."""
    held: int
    """Final runs, whose parent spans wait for unfinished records."""
    open: int
    """Runs that are not final yet."""
    refused: int
    """Set aside, because the endpoint refused their spans for good."""
    expired: int
    """Too old to be sent (older than max_age)."""
    oldest: datetime | None
    """When the oldest unsent reference was written."""

    @property
    def waiting(self) -> int:
        """How many are to be sent: due, retrying and leased."""
        return self.due + self.retrying + self.leased


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxStatus(OutboxCounts):
    """How many references there are, and why they are still there."""

    error: str
    """The error of the last failed attempt among references that are retrying; empty if there is none."""
    refusal: str
    """Why the last refused reference was refused; empty if there is none."""
    hold: str
    """What the last held reference waits for; empty if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenSender:
    """A process that sends, by its last report."""

    host: str
    pid: int
    is_watching: bool
    """Whether it does nothing but send: ``otel-storage deliver --watch``."""
    seen: datetime
    """When it last reported."""
    sent: datetime | None
    """When its spans were last accepted."""
    failed: datetime | None
    """When its last failed attempt was."""
    error: str
    """Why the attempt failed; empty if none ever failed."""


class Senders(Protocol):
    """The processes that send, by their own reports; one that stops reporting is forgotten after a while.

    Every method is a transaction of its own, and may raise errors of the database.
    """

    def seen(
        self, token: str, *, is_watching: bool, sent: datetime | None, failed: datetime | None, error: str
    ) -> None:
        """Store this process's report and its last results; ``token`` identifies the process."""

    def forget(self, age: timedelta) -> int:
        """Forget the senders that have not reported for this long; returns their number."""

    def latest(self, limit: int) -> Sequence[SeenSender]:
        """The senders that reported last, newest first."""

    def last_watching(self) -> SeenSender | None:
        """The watching sender that reported last; None if there was never one."""

    def last_success(self) -> SeenSender | None:
        """The sender whose spans were accepted last; None if there was never one."""

    def last_failure(self) -> SeenSender | None:
        """The sender whose attempt failed last; None if there was never one."""


class Outbox(Protocol):
    """The references, which senders claim and settle.

    Every method is one or several transactions of its own, and may raise errors of the database.
    """

    @property
    def senders(self) -> Senders:
        """The senders that claim and settle references."""

    def claim_task_results(
        self, limit: int, lease: timedelta, due_by: datetime | None = None, *, newest_first: bool = False
    ) -> Claims:
        """Claim up to ``limit`` references of task results that are due, or were by ``due_by``.

        References that have been due the longest come first; with ``newest_first``, those that became due last.
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
        neither is one PENDING nor a pipeline result RUNNING, or nothing in the run has changed for a while. The data of
        its spans is stored then, so that later changes of records do not change the spans. Runs that have not settled
        are examined again later.
        """

    def renew(self, token: str, reference_ids: Sequence[int], lease: timedelta) -> Collection[int]:
        """Prolong the lease on the references; returns those that no other sender has taken."""

    def settle(self, token: str, reference_ids: Sequence[int]) -> int:
        """Remove references whose spans were accepted; returns how many of them the token still held."""

    def release(self, token: str, reference_ids: Sequence[int], *, delay: timedelta, error: str) -> None:
        """Give references back after a failure, to be due again after ``delay``."""

    def refuse(self, token: str, reference_ids: Sequence[int], *, error: str) -> None:
        """Set references aside whose spans the endpoint refused for good."""

    def expire(self, max_age: timedelta) -> int:
        """Mark references older than ``max_age`` as expired, so that they are no longer sent; returns how many."""

    def hasten(self, *, held_only: bool = False, tried_only: bool = False) -> None:
        """Make the held runs due now and, unless ``held_only``, all references that are due later.

        With ``tried_only``, of the latter only references that wait for their next attempt, because those of a replay
        become due gradually.
        """

    def status(self) -> OutboxStatus:
        """How many references there are by their state, and the last reasons."""

    def counts(self) -> OutboxCounts:
        """How many references there are by their state."""

    def last_id(self) -> int:
        """The id of the newest reference; 0 if there is none."""

    def has_unsent(self, last_id: int, due_by: datetime, *, leased_too: bool = True) -> bool:
        """Whether a reference up to ``last_id`` is still unsent that was due by then, or whose attempt failed since.

        Leased references count only with ``leased_too``.
        """
