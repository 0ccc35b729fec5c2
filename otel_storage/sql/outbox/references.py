"""References to final records whose spans are not acknowledged yet, and the leases of senders."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Executable,
    Integer,
    and_,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
    update,
)

from otel_storage.ports.outbox import Claim, Claims, OutboxCounts, OutboxStatus, Settling
from otel_storage.ports.snapshots import RunSnapshot, TaskResultSnapshot
from otel_storage.results.kinds import PIPELINE_EXECUTION, TASK_RESULT
from otel_storage.runtime.chunks import chunks
from otel_storage.sql.database import schema
from otel_storage.sql.database.among import in_chunks
from otel_storage.sql.database.values import storable
from otel_storage.sql.outbox import settling, snapshots
from otel_storage.sql.outbox.senders import SqlSenders

if TYPE_CHECKING:
    from datetime import datetime

    from otel_storage.results.clock import Clock
    from otel_storage.sql.database.engine import Database
    from otel_storage.sql.database.policy import Policy

_outbox = schema.outbox
_CHUNK = 500
"""How many references one statement changes; also the most that one of several transactions changes."""

_LOOK = 10_000
"""How many references are looked up at once, to be changed."""

WAITING = "waiting"
HELD = "held"
REFUSED = "refused"
EXPIRED = "expired"


class SqlOutbox:
    """The outbox of a :class:`~otel_storage.sql.storage.SqlPipelineStorage`; the protocol documents the methods."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.senders = SqlSenders(database, clock)
        self._oldest: datetime | None = None
        """No unsent reference is older than this; None before the first look."""

    def claim_task_results(
        self, limit: int, lease: timedelta, due_by: datetime | None = None, *, newest_first: bool = False
    ) -> Claims:
        """Claim references of task results that are due."""
        token, rows = self._claim(TASK_RESULT, (WAITING,), limit, lease, due_by, newest_first)
        if not rows:
            return Claims(token, (), 0)
        with self._database.read() as connection:
            found = snapshots.task_results(connection, [row.record_id for row in rows])
        return self._claims(token, rows, found)

    def claim_runs(
        self,
        limit: int,
        lease: timedelta,
        rule: Settling,
        due_by: datetime | None = None,
        *,
        newest_first: bool = False,
    ) -> Claims:
        """Claim references of due runs that have settled; hold the other due runs, to look at them later."""
        token, rows = self._claim(PIPELINE_EXECUTION, (WAITING, HELD), limit, lease, due_by, newest_first)
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
        """Prolong the lease; returns the references that this lease still holds."""
        statements = self._statements
        renewed = self._change_held(statements.renew, token, reference_ids, leased_until=self._clock() + lease)
        if renewed == len(reference_ids):
            return reference_ids
        with self._database.read() as connection:
            return [
                id_
                for ids in in_chunks(reference_ids)
                for id_ in connection.execute(statements.held, {"of": token, **ids}).scalars()
            ]

    def settle(self, token: str, reference_ids: Sequence[int]) -> int:
        """Remove references whose spans were accepted."""
        return self._change_held(self._statements.settle, token, reference_ids)

    def release(self, token: str, reference_ids: Sequence[int], *, delay: timedelta, error: str) -> None:
        """Give references back after a failure, to be due again after ``delay``."""
        due, error = self._clock() + delay, storable(error)
        self._change_held(self._statements.release, token, reference_ids, state=WAITING, due=due, error=error)

    def refuse(self, token: str, reference_ids: Sequence[int], *, error: str) -> None:
        """Set references aside whose spans the endpoint refused for good."""
        self._change_held(self._statements.refuse, token, reference_ids, state=REFUSED, error=storable(error))

    def expire(self, max_age: timedelta) -> int:
        """Mark references older than ``max_age`` as expired; returns how many."""
        now = self._clock()
        # A full look at the outbox is needed to find that nothing is old, so its result is remembered.
        if self._oldest is not None and self._oldest >= now - max_age:
            return 0
        expired = 0
        if (oldest := self._find_oldest(now)) < now - max_age:
            expired = self._change(and_(_IS_UNSENT, _outbox.c.created < now - max_age, _is_free(now)), state=EXPIRED)
            oldest = self._find_oldest(now)
        self._oldest = oldest
        return expired

    def hasten(self, *, held_only: bool = False, tried_only: bool = False) -> None:
        """Make the held runs due now and, unless ``held_only``, all references that are due later."""
        now = self._clock()
        is_late = and_(_outbox.c.due > now, _is_free(now))
        if not held_only:
            is_meant = and_(is_late, _outbox.c.attempts > 0) if tried_only else is_late
            self._change(and_(_outbox.c.state == WAITING, _outbox.c.kind == TASK_RESULT, is_meant), due=now)
            self._change(and_(_outbox.c.state == WAITING, _outbox.c.kind == PIPELINE_EXECUTION, is_meant), due=now)
        self._change(and_(_outbox.c.state == HELD, _outbox.c.kind == PIPELINE_EXECUTION, is_late), due=now)

    def last_id(self) -> int:
        """The id of the newest reference; 0 if there is none."""
        with self._database.read() as connection:
            return connection.execute(select(func.max(_outbox.c.id))).scalar() or 0

    def has_unsent(self, last_id: int, due_by: datetime, *, leased_too: bool = True) -> bool:
        """Whether a reference up to ``last_id`` is still unsent that was due by then, or whose attempt failed since."""
        is_meant = or_(_outbox.c.due <= due_by, and_(_outbox.c.due.is_not(None), _outbox.c.attempts > 0))
        conditions = [_outbox.c.state == WAITING, _outbox.c.id <= last_id, is_meant]
        if not leased_too:
            conditions.append(_is_free(self._clock()))
        return self._exists(and_(*conditions))

    def status(self) -> OutboxStatus:
        """How many references there are by their state, and the last reasons."""
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
        """How many references there are by their state."""
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
        self,
        kind: str,
        states: Sequence[str],
        limit: int,
        lease: timedelta,
        due_by: datetime | None,
        newest_first: bool,
    ) -> tuple[str, Sequence[Any]]:
        token = uuid.uuid4().hex
        now = self._clock()
        due_by = now if due_by is None else due_by
        statements = self._statements
        found = statements.newest_due if newest_first else statements.oldest_due
        # One state at a time, in the order of the index: a sort would read, and on MariaDB lock, all rows.
        due = [{"state": state, "kind": kind, "due_by": due_by, "now": now} for state in states]
        # Look first without the write lock, so that an idle sender does not block writers.
        if not self._finds_any(statements.due, due):
            return token, ()

        def work(connection: Connection) -> Sequence[Any]:
            rows = _locked(connection, found, due, limit, newest_first)
            for ids in in_chunks([row.id for row in rows]):
                connection.execute(statements.lease, {"new": token, "leased_until": now + lease, **ids})
            return rows

        return token, self._database.write(work)

    def _find_oldest(self, now: datetime) -> datetime:
        """When the oldest unsent reference was written; ``now`` if there is none."""
        with self._database.read() as connection:
            oldest: datetime | None = connection.execute(select(func.min(_outbox.c.created)).where(_IS_UNSENT)).scalar()
        return now if oldest is None else min(oldest, now)

    def _change(self, condition: ColumnElement[bool], **values: Any) -> int:
        """Change all references that meet the condition, in short transactions that let other writers in."""
        found = select(_outbox.c.id).where(condition).limit(_LOOK)
        changed, before = 0, -1
        while changed > before:
            before = changed
            with self._database.read() as connection:
                ids = connection.execute(found).scalars().all()
            for some in chunks(ids, _CHUNK):
                # The ids meet the condition; check again only that no sender has claimed one meanwhile.
                part = and_(_outbox.c.id.in_(some), _is_free(self._clock()))
                changed += self._database.write_aside(update(_outbox).where(part).values(values))
        return changed

    def _finds_any(self, statement: Executable, conditions: Sequence[dict[str, Any]]) -> bool:
        with self._database.read() as connection:
            return any(connection.execute(statement, condition).first() is not None for condition in conditions)

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
        claims, gone = [], []
        for reference_id, record_id, attempts, _ in rows:
            if (snapshot := found.get(record_id)) is not None:
                claims.append(Claim(reference_id, attempts, snapshot))
            else:
                gone.append(reference_id)
        # A cleanup may have removed a record between the claim and the reading: then drop its reference.
        if gone:
            self.settle(token, gone)
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

    @property
    def _statements(self) -> _Statements:
        return _statements(self._database.policy)

    def _change_held(self, statement: Executable, token: str, reference_ids: Sequence[int], **values: Any) -> int:
        """Change, in one transaction, the references that the token still holds; returns their number."""

        def work(connection: Connection) -> int:
            parameters = {"of": token, **values}
            return sum(
                connection.execute(statement, {**parameters, **ids}).rowcount for ids in in_chunks(reference_ids)
            )

        return self._database.write(work) if reference_ids else 0


@dataclass(frozen=True, slots=True)
class _Statements:
    """The statements of a claim, which are made once.

    The first three find references of a ``kind`` and a ``state`` that were due by a time and are free ``now``. The
    others take the references of a claim by their ids; all but ``lease`` affect only references that the token ``of``
    holds.
    """

    due: Executable
    """Whether there is any such reference."""
    oldest_due: Executable
    """Lock ``most`` of them, those that have been due the longest."""
    newest_due: Executable
    lease: Executable
    held: Executable
    renew: Executable
    settle: Executable
    release: Executable
    refuse: Executable


@cache
def _statements(policy: Policy) -> _Statements:
    now = bindparam("now", type_=_outbox.c.leased_until.type)
    is_due = and_(
        _outbox.c.state == bindparam("state"),
        _outbox.c.kind == bindparam("kind"),
        _outbox.c.due <= bindparam("due_by"),
        _is_free(now),
    )
    locked = (
        select(_outbox.c.id, _outbox.c.record_id, _outbox.c.attempts, _outbox.c.due)
        .where(is_due)
        .limit(bindparam("most", type_=Integer))
        # SKIP LOCKED lets senders work side by side; SQLite has no such clause, but one write lock.
        .with_for_update(skip_locked=True)
    )
    has_id = policy.among(_outbox.c.id)
    is_held = and_(has_id, _outbox.c.token == bindparam("of"))
    given_back = {"state": bindparam("state"), "attempts": _outbox.c.attempts + 1, "error": bindparam("error"), **_FREE}
    return _Statements(
        due=select(_outbox.c.id).where(is_due).limit(1),
        oldest_due=locked.order_by(_outbox.c.due),
        newest_due=locked.order_by(_outbox.c.due.desc()),
        lease=update(_outbox).where(has_id).values(token=bindparam("new"), leased_until=bindparam("leased_until")),
        held=select(_outbox.c.id).where(is_held),
        renew=update(_outbox).where(is_held).values(leased_until=bindparam("leased_until")),
        settle=delete(_outbox).where(is_held),
        release=update(_outbox).where(is_held).values(due=bindparam("due"), **given_back),
        refuse=update(_outbox).where(is_held).values(**given_back),
    )


def _locked(
    connection: Connection, found: Executable, due: Sequence[dict[str, Any]], limit: int, newest_first: bool
) -> Sequence[Any]:
    """Lock the references that were due first (or last) among those that meet one of the conditions."""
    rows = [row for condition in due for row in connection.execute(found, {**condition, "most": limit}).all()]
    if len(due) == 1:
        return rows
    return sorted(rows, key=attrgetter("due", "id"), reverse=newest_first)[:limit]


_IS_UNSENT = and_(_outbox.c.state.in_((WAITING, HELD)), _outbox.c.due.is_not(None))
"""Whether the reference is of a final record and is still to be sent."""


_FREE: dict[str, Any] = {"token": None, "leased_until": None}


def _is_free(now: datetime | BindParameter[datetime]) -> ColumnElement[bool]:
    """Whether the reference has no lease, or its lease has expired."""
    return or_(_outbox.c.leased_until.is_(None), _outbox.c.leased_until < now)
