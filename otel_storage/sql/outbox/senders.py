"""The processes that send spans, and when each last wrote its row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, delete, insert, select, update

from otel_storage.ports.outbox import SeenSender
from otel_storage.runtime.worker import this_worker
from otel_storage.sql.database import schema
from otel_storage.sql.database.values import storable

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from otel_storage.results.clock import Clock
    from otel_storage.sql.database.engine import Database

_sender = schema.sender


class SqlSenders:
    """The senders of a :class:`.references.SqlOutbox`; the protocol documents the methods."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def seen(
        self, token: str, *, is_watching: bool, sent: datetime | None, failed: datetime | None, error: str
    ) -> None:
        """Store the process's report under its token."""
        worker = this_worker()
        values = {
            "host": worker.host,
            "pid": worker.pid,
            "is_watching": is_watching,
            "seen": self._clock(),
            "sent": sent,
            "failed": failed,
            "error": storable(error) or None,
        }

        def work(connection: Connection) -> None:
            # No other process has this token, so no other process inserts the row between UPDATE and INSERT.
            if not connection.execute(update(_sender).where(_sender.c.token == token).values(**values)).rowcount:
                connection.execute(insert(_sender).inline(), {"token": token, **values})

        self._database.write(work)

    def forget(self, age: timedelta) -> int:
        """Remove the senders that have not reported for this long; returns their number."""
        statement = delete(_sender).where(_sender.c.seen < self._clock() - age)
        return self._database.write(lambda connection: connection.execute(statement).rowcount)

    def latest(self, limit: int) -> Sequence[SeenSender]:
        """The senders that reported last, newest first."""
        return self._select(select(_sender).order_by(_sender.c.seen.desc(), _sender.c.id.desc()).limit(limit))

    def last_watching(self) -> SeenSender | None:
        """The watching sender that reported last."""
        return self._first(select(_sender).where(_sender.c.is_watching).order_by(_sender.c.seen.desc()))

    def last_success(self) -> SeenSender | None:
        """The sender whose spans were accepted last."""
        return self._first(select(_sender).where(_sender.c.sent.is_not(None)).order_by(_sender.c.sent.desc()))

    def last_failure(self) -> SeenSender | None:
        """The sender whose attempt failed last."""
        return self._first(select(_sender).where(_sender.c.failed.is_not(None)).order_by(_sender.c.failed.desc()))

    def _first(self, statement: Select[Any]) -> SeenSender | None:
        return next(iter(self._select(statement.limit(1))), None)

    def _select(self, statement: Select[Any]) -> Sequence[SeenSender]:
        with self._database.read() as connection:
            return [_seen_sender(row) for row in connection.execute(statement)]


def _seen_sender(row: Any) -> SeenSender:
    return SeenSender(
        host=row.host,
        pid=row.pid,
        is_watching=row.is_watching,
        seen=row.seen,
        sent=row.sent,
        failed=row.failed,
        error=row.error or "",
    )
