"""References to final records whose spans are not acknowledged yet, and the leases of those who send them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, and_, case, delete, func, or_, select, update

from otel_storage.results.outbox import Claim, Claims, OutboxCounts, OutboxStatus, Settling
from otel_storage.results.snapshots import RunSnapshot, TaskResultSnapshot
from otel_storage.sql import schema, settling, snapshots
from otel_storage.sql.senders import SqlSenders
from otel_storage.sql.transitions import EXECUTION, TASK_RESULT
from otel_storage.sql.types import storable

if TYPE_CHECKING:
    from datetime import datetime

    from otel_storage.results.clock import Clock
    from otel_storage.sql.engine import Database

_outbox = schema.outbox
_CHUNK = 500
"""References changed by one statement, and in one transaction where there may be many."""

_LOOK = 10_000
"""References looked for at once, to be changed."""

WAITING = "waiting"
HELD = "held"
REFUSED = "refused"
EXPIRED = "expired"


class SqlOutbox:
    """The outbox of a :class:`~otel_storage.sql.storage.SqlPipelineStorage`; see the protocol for what it promises."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.senders = SqlSenders(database, clock)
        self._oldest: datetime | None = None
        """No reference that is still to be sent is older than this; None if nobody has looked."""

    def claim_task_results(self, limit: int, lease: timedelta, due_by: datetime | None = None) -> Claims:
        """Claim references of task results that are due, oldest first."""
        token, rows = self._claim(TASK_RESULT, (WAITING,), limit, lease, due_by)
        if not rows:
            return Claims(token, (), 0)
        with self._database.read() as connection:
            found = snapshots.task_results(connection, [row.record_id for row in rows])
        return self._claims(token, rows, found)

    def claim_runs(self, limit: int, lease: timedelta, rule: Settling, due_by: datetime | None = None) -> Claims:
        """Claim references of runs that are due and have settled; the others are held, to be looked at later."""
        token, rows = self._claim(EXECUTION, (WAITING, HELD), limit, lease, due_by)
        if not rows:
            return Claims(token, (), 0)
        now = self._clock()
        ids = [row.record_id for row in rows]
        holds = self._database.write(lambda connection: settling.settle(connection, ids, rule, now))
        self._hold(token, [(row.id, holds[row.record_id]) for row in rows if row.record_id in holds])
        settled = [row for row in rows if row.record_id not in holds]
        with self._database.read() as connection:
            found = snapshots.runs(connection, [row.record_id for row in settled])
        return self._claims(token, settled, found, looked_at=len(rows))

    def renew(self, token: str, reference_ids: Sequence[int], lease: timedelta) -> Collection[int]:
        """Prolong the lease; returns those of the references that it is still on."""
        values = {"leased_until": self._clock() + lease}
        renewed = self._for_held(
            token,
            reference_ids,
            lambda connection, held: connection.execute(update(_outbox).where(held).values(values)).rowcount,
        )
        if renewed == len(reference_ids):
            return reference_ids
        with self._database.read() as connection:
            found = select(_outbox.c.id).where(_outbox.c.id.in_(reference_ids), _outbox.c.token == token)
            return connection.execute(found).scalars().all()

    def settle(self, token: str, reference_ids: Sequence[int]) -> int:
        """Remove references whose spans were accepted."""
        return self._for_held(
            token, reference_ids, lambda connection, held: connection.execute(delete(_outbox).where(held)).rowcount
        )

    def release(self, token: str, reference_ids: Sequence[int], *, delay: timedelta, error: str) -> None:
        """Give references back after a failure, to be due again after ``delay``."""
        values = {
            "state": WAITING,
            "due": self._clock() + delay,
            "attempts": _outbox.c.attempts + 1,
            "error": storable(error),
        }
        self._give_back(token, reference_ids, values)

    def refuse(self, token: str, reference_ids: Sequence[int], *, error: str) -> None:
        """Set references aside whose spans were refused for good."""
        values = {"state": REFUSED, "attempts": _outbox.c.attempts + 1, "error": storable(error)}
        self._give_back(token, reference_ids, values)

    def expire(self, max_age: timedelta) -> int:
        """Mark references older than ``max_age`` as expired; returns how many."""
        now = self._clock()
        # To find that nothing is old takes a look at all there is.
        if self._oldest is not None and self._oldest >= now - max_age:
            return 0
        expired = 0
        if (oldest := self._find_oldest(now)) < now - max_age:
            expired = self._change(and_(_IS_UNSENT, _outbox.c.created < now - max_age, _is_free(now)), state=EXPIRED)
            oldest = self._find_oldest(now)
        self._oldest = oldest
        return expired

    def hasten(self, *, held_only: bool = False) -> None:
        """Make due now the runs that are held and, unless ``held_only``, what waits for its next attempt."""
        now = self._clock()
        is_late = and_(_outbox.c.due > now, _is_free(now))
        if not held_only:
            self._change(and_(_outbox.c.state == WAITING, _outbox.c.kind == TASK_RESULT, is_late), due=now)
            self._change(and_(_outbox.c.state == WAITING, _outbox.c.kind == EXECUTION, is_late), due=now)
        self._change(and_(_outbox.c.state == HELD, _outbox.c.kind == EXECUTION, is_late), due=now)

    def last_id(self) -> int:
        """The id of the newest reference; 0 if there is none."""
        with self._database.read() as connection:
            return connection.execute(select(func.max(_outbox.c.id))).scalar() or 0

    def has_unsent(self, last_id: int, due_by: datetime, *, leased_too: bool = True) -> bool:
        """Whether a reference up to ``last_id`` waits that was due by then or was sent in vain since."""
        is_meant = or_(_outbox.c.due <= due_by, and_(_outbox.c.due.is_not(None), _outbox.c.attempts > 0))
        conditions = [_outbox.c.state == WAITING, _outbox.c.id <= last_id, is_meant]
        if not leased_too:
            conditions.append(_is_free(self._clock()))
        return self._exists(and_(*conditions))

    def status(self) -> OutboxStatus:
        """How many references there are, by what they wait for, and why."""
        with self._database.read() as connection:
            fields = self._counts(connection)
            for name, state in (("error", WAITING), ("refusal", REFUSED), ("hold", HELD)):
                statement = (
                    select(_outbox.c.error)
                    .where(_outbox.c.state == state, _outbox.c.error.is_not(None))
                    .order_by(_outbox.c.due.desc(), _outbox.c.id.desc())
                    .limit(1)
                )
                fields[name] = connection.execute(statement).scalar() or ""
        return OutboxStatus(**fields)

    def counts(self) -> OutboxCounts:
        """How many references there are, by what they wait for."""
        with self._database.read() as connection:
            return OutboxCounts(**self._counts(connection))

    def _counts(self, connection: Connection) -> dict[str, Any]:
        now = self._clock()
        waiting = and_(_outbox.c.state == WAITING, _outbox.c.due.is_not(None))
        free = _is_free(now)
        parts = {
            "due": and_(waiting, free, _outbox.c.due <= now),
            "retrying": and_(waiting, free, _outbox.c.due > now),
            "leased": and_(_outbox.c.state.in_((WAITING, HELD)), ~free),
            "held": and_(_outbox.c.state == HELD, free),
            "open": and_(_outbox.c.state == WAITING, _outbox.c.due.is_(None)),
            "refused": _outbox.c.state == REFUSED,
            "expired": _outbox.c.state == EXPIRED,
        }
        counts = [func.coalesce(func.sum(case((part, 1), else_=0)), 0).label(name) for name, part in parts.items()]
        statement = select(*counts, func.min(case((waiting, _outbox.c.created))).label("oldest"))
        row = connection.execute(statement).one()
        return {**{name: int(getattr(row, name)) for name in parts}, "oldest": row.oldest}

    def _claim(
        self, kind: str, states: Sequence[str], limit: int, lease: timedelta, due_by: datetime | None
    ) -> tuple[str, Sequence[Any]]:
        token = uuid.uuid4().hex
        now = self._clock()
        due_by = now if due_by is None else due_by
        due = [
            and_(_outbox.c.state == state, _outbox.c.kind == kind, _outbox.c.due <= due_by, _is_free(now))
            for state in states
        ]
        # A look without the write lock: an idle sender must not make writers wait.
        if not any(self._exists(condition) for condition in due):
            return token, ()

        def work(connection: Connection) -> Sequence[Any]:
            rows = _oldest(connection, due, limit)
            if rows:
                connection.execute(
                    update(_outbox)
                    .where(_outbox.c.id.in_([row.id for row in rows]))
                    .values(token=token, leased_until=now + lease)
                )
            return rows

        return token, self._database.write(work)

    def _find_oldest(self, now: datetime) -> datetime:
        """When the oldest reference was written that is still to be sent; now, if there is none."""
        with self._database.read() as connection:
            oldest: datetime | None = connection.execute(select(func.min(_outbox.c.created)).where(_IS_UNSENT)).scalar()
        return now if oldest is None else min(oldest, now)

    def _change(self, condition: ColumnElement[bool], **values: Any) -> int:
        """Change the references that meet the condition until none is left; in transactions that let writers in."""
        found = select(_outbox.c.id).where(condition).limit(_LOOK)
        changed, before = 0, -1
        while changed > before:
            before = changed
            with self._database.read() as connection:
                ids = connection.execute(found).scalars().all()
            for start in range(0, len(ids), _CHUNK):
                # Found by their ids; what is asked again is whether a sender has come between.
                part = and_(_outbox.c.id.in_(ids[start : start + _CHUNK]), _is_free(self._clock()))
                changed += self._database.write_aside(update(_outbox).where(part).values(values))
        return changed

    def _exists(self, condition: ColumnElement[bool]) -> bool:
        with self._database.read() as connection:
            return connection.execute(select(_outbox.c.id).where(condition).limit(1)).first() is not None

    def _claims(
        self,
        token: str,
        rows: Sequence[Any],
        found: dict[int, TaskResultSnapshot] | dict[int, RunSnapshot],
        looked_at: int | None = None,
    ) -> Claims:
        # A record can be gone although its reference is there: a cleanup went between them.
        gone = [row.id for row in rows if row.record_id not in found]
        if gone:
            self.settle(token, gone)
        claims = [Claim(row.id, row.attempts, found[row.record_id]) for row in rows if row.record_id in found]
        return Claims(token, claims, len(rows) if looked_at is None else looked_at)

    def _hold(self, token: str, holds: Sequence[tuple[int, settling.Hold]]) -> None:
        if not holds:
            return

        def work(connection: Connection) -> None:
            for reference_id, hold in holds:
                connection.execute(
                    update(_outbox)
                    .where(_outbox.c.id == reference_id, _outbox.c.token == token)
                    .values(state=HELD, due=hold.until, error=hold.reason, **_FREE)
                )

        self._database.write(work)

    def _give_back(self, token: str, reference_ids: Sequence[int], values: dict[str, Any]) -> None:
        self._for_held(
            token,
            reference_ids,
            lambda connection, held: connection.execute(update(_outbox).where(held).values(**values, **_FREE)).rowcount,
        )

    def _for_held(
        self,
        token: str,
        reference_ids: Sequence[int],
        work: Callable[[Connection, ColumnElement[bool]], int],
    ) -> int:
        """Do the work, in one transaction, on those of the references that the token still holds."""

        def for_each_chunk(connection: Connection) -> int:
            return sum(
                work(
                    connection,
                    and_(_outbox.c.id.in_(reference_ids[start : start + _CHUNK]), _outbox.c.token == token),
                )
                for start in range(0, len(reference_ids), _CHUNK)
            )

        return self._database.write(for_each_chunk) if reference_ids else 0


def _oldest(connection: Connection, conditions: Sequence[ColumnElement[bool]], limit: int) -> Sequence[Any]:
    """Lock the references that meet one of the conditions, a state each, and have been due for the longest."""
    statement = (
        select(_outbox.c.id, _outbox.c.record_id, _outbox.c.attempts, _outbox.c.due)
        .order_by(_outbox.c.due)
        .limit(limit)
        # Lets senders work side by side; SQLite has none, but its write lock is held.
        .with_for_update(skip_locked=True)
    )
    # A state at a time, which the index has in order: what has to be sorted is read, and on MariaDB locked, whole.
    rows = [row for condition in conditions for row in connection.execute(statement.where(condition))]
    return sorted(rows, key=lambda row: (row.due, row.id))[:limit]


_IS_UNSENT = and_(_outbox.c.state.in_((WAITING, HELD)), _outbox.c.due.is_not(None))
"""Whether the reference is of a final record, and still to be sent."""


_FREE: dict[str, Any] = {"token": None, "leased_until": None}


def _is_free(now: datetime) -> ColumnElement[bool]:
    """Whether no lease is on the reference, or one that has run out."""
    return or_(_outbox.c.leased_until.is_(None), _outbox.c.leased_until < now)
