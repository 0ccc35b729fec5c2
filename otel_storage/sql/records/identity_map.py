"""Records that were read together: one object per row, and one query for what many of them need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from sqlalchemy import ColumnElement, Select, and_, bindparam, func, select

from otel_storage.results import host
from otel_storage.results.model_objects import ModelObjects
from otel_storage.runtime.chunks import chunks

if TYPE_CHECKING:
    from otel_storage.results.clock import Clock
    from otel_storage.results.protocols import StorageListener
    from otel_storage.sql.database.engine import Database
    from otel_storage.sql.records.record import SqlRecord

Record = TypeVar("Record", bound="SqlRecord")

Row = dict[str, Any]

_UNREAD = {
    *("span_start", "span_end", "span_status", "span_outcome"),
    *("worker_host", "worker_pid", "worker_started", "counted"),
}
"""Columns of spans, workers and totals, which records do not read: a driver needs time for each column."""

# Engines limit the parameters of a statement, so a longer list of ids is split.
_CHUNK = 1000


class IdentityMap:
    """Records that were read together: one object per row, so that children share their parents.

    Reading a record again refreshes the existing object.
    """

    def __init__(self, database: Database, clock: Clock, listener: StorageListener | None, message_limit: int) -> None:
        self.database = database
        self.clock = clock
        self.listener = listener
        self.message_limit = message_limit
        self.has_zones = host.uses_time_zones()
        """Whether records return aware times; kept, because asking Django takes as long as a getter of a record."""
        self._records: WeakValueDictionary[tuple[str, int], SqlRecord] = WeakValueDictionary()

    def put(self, kind: type[Record], values: Row, parent: SqlRecord | None) -> Record:
        """The record of the row, new or refreshed."""
        key = (kind.content_type_name, values["id"])
        known = self._records.get(key)
        if known is None:
            record = kind(self, values, parent)
            self._records[key] = record
            return record
        known.refresh(values)
        return known  # type: ignore[return-value]  # the key holds the kind

    def put_together(self, kind: type[Record], rows: Sequence[Row], parents: Mapping[int, SqlRecord]) -> list[Record]:
        """The records of rows that were read together (a batch), with the given parents."""
        records = [self.put(kind, row, parents.get(row.get(kind.parent_column, 0))) for row in rows]
        batch = Batch(self, kind, records)
        for record in records:
            record.join(batch)
        return records

    def find(self, kind: type[Record], id_: int) -> Record | None:
        """The record, if its object exists."""
        return self._records.get((kind.content_type_name, id_))  # type: ignore[return-value]  # the key holds the kind

    def count(self, kind: type[SqlRecord], conditions: Sequence[ColumnElement[bool]]) -> int:
        """How many rows meet the conditions."""
        with self.database.read() as connection:
            statement = select(func.count()).select_from(kind.table).where(*conditions)
            return int(connection.execute(statement).scalar_one())

    def get(self, kind: type[Record], column: str, value: object) -> Record | None:
        """The one record whose column has the value, read with its parents in one query."""
        look_up = _look_up(kind, column)
        row = self.database.look_up(lambda connection: connection.execute(look_up.statement, {"value": value}).first())
        if row is None:
            return None
        values = iter(row)
        record: SqlRecord | None = None
        for level, columns in look_up.levels:
            # The columns of the last level end the row, so zip() takes too many for no level.
            record = self.put(level, dict(zip(columns, values, strict=False)), record)
        return record  # type: ignore[return-value]  # the lineage ends with the kind

    def rows(
        self,
        kind: type[SqlRecord],
        conditions: Sequence[ColumnElement[bool]],
        offset: int = 0,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[Row]:
        """The rows that meet the conditions, in the order of their ids or in reverse."""
        id_column = kind.table.c.id
        order = id_column.desc() if newest_first else id_column
        statement = _rows(kind).order_by(order)
        if offset:
            # SQLite and MariaDB need a LIMIT for an OFFSET. The subquery skips rows in an index, without reading them.
            limit = limit if limit is not None else 2**62
            page = select(id_column).where(*conditions).order_by(order).limit(limit).offset(offset).subquery()
            statement = statement.where(id_column.in_(select(page.c.id)))
        else:
            statement = statement.where(*conditions).limit(limit)
        with self.database.read() as connection:
            columns = _columns(kind)
            return [dict(zip(columns, row, strict=True)) for row in connection.execute(statement).all()]

    def select(
        self,
        kind: type[Record],
        conditions: Sequence[ColumnElement[bool]],
        offset: int = 0,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[Record]:
        """The records that meet the conditions; one query per level reads the parents that are not known yet."""
        rows = self.rows(kind, conditions, offset, limit, newest_first)
        parents = self._parents(kind, rows)
        if kind.parent_kind is not None:
            # A cleanup has just removed the parent of a row without one.
            rows = [row for row in rows if row[kind.parent_column] in parents]
        if limit == 1:
            # A record that was read by index is no batch: its siblings were not read.
            return [self.put(kind, row, parents.get(row.get(kind.parent_column, 0))) for row in rows]
        return self.put_together(kind, rows, parents)

    def _parents(self, kind: type[SqlRecord], rows: list[Row]) -> dict[int, SqlRecord]:
        if kind.parent_kind is None or not rows:
            return {}
        wanted = dict.fromkeys(row[kind.parent_column] for row in rows)
        found = {id_: self.find(kind.parent_kind, id_) for id_ in wanted}
        parents: dict[int, SqlRecord] = {id_: record for id_, record in found.items() if record is not None}
        missing = [id_ for id_ in wanted if id_ not in parents]
        for part in chunks(missing, _CHUNK):
            condition = kind.parent_kind.table.c.id.in_(part)
            parents.update((record.id, record) for record in self.select(kind.parent_kind, [condition]))
        return parents


class Batch:
    """Records that were listed together: their children, and their model objects, are read together too.

    When the first record is asked for its children, the children of all records that are alive are read, and each
    record keeps its own until they are taken. A batch keeps no record alive.
    """

    def __init__(self, records: IdentityMap, kind: type[SqlRecord], listed: Sequence[SqlRecord]) -> None:
        self.model_objects = ModelObjects()
        """The model objects that the records were started with."""
        self._records = records
        self._kind = kind
        self._ids = [record.id for record in listed]

    def read_children(self, kind: type[SqlRecord]) -> None:
        """Read the children of all live records whose children were not read yet."""
        parents = self._waiting()
        found = (row for condition in _below(kind, parents) for row in self._records.rows(kind, [condition]))
        rows = [row for row in found if row[kind.parent_column] in parents]
        children = self._records.put_together(kind, rows, parents)
        for parent in parents.values():
            parent.children_read = []
        for row, child in zip(rows, children, strict=True):
            parents[row[kind.parent_column]].children_read.append(child)

    def _waiting(self) -> dict[int, Any]:
        known: dict[int, Any] = {id_: self._records.find(self._kind, id_) for id_ in self._ids}
        return {id_: record for id_, record in known.items() if record is not None and record.waits_for(self)}


def _below(kind: type[SqlRecord], parents: Mapping[int, SqlRecord]) -> Iterator[ColumnElement[bool]]:
    """The conditions that select the children of the parents, and possibly of other records of the same run."""
    parent_id = kind.table.c[kind.parent_column]
    runs = {parent.execution.id for parent in parents.values()}
    if len(parents) > _CHUNK and len(runs) == 1:
        # A run's records have adjacent ids, so one range condition serves any number of them.
        yield and_(kind.table.c.execution_id == runs.pop(), parent_id.between(min(parents), max(parents)))
        return
    for part in chunks(list(parents), _CHUNK):
        yield parent_id.in_(part)


def _lineage(kind: type[SqlRecord]) -> tuple[type[SqlRecord], ...]:
    """The kind and the kinds above it, from the top down."""
    above = () if kind.parent_kind is None else _lineage(kind.parent_kind)
    return (*above, kind)


def _columns(kind: type[SqlRecord]) -> tuple[str, ...]:
    # A record reaches its execution through its parents.
    unread = _UNREAD | ({"execution_id"} - {kind.parent_column})
    return tuple(column.name for column in kind.table.c if column.name not in unread)


def _rows(kind: type[SqlRecord]) -> Select[Any]:
    return select(*(kind.table.c[name] for name in _columns(kind)))


@dataclass(frozen=True, slots=True)
class _LookUp:
    """The statement that reads a record by one of its columns, with the records above it.

    Cached, because making the statement takes several times as long as reading a record.
    """

    statement: Select[Any]
    levels: Sequence[tuple[type[SqlRecord], Sequence[str]]]
    """The kinds from the top down, and the columns of each, in the order of the row."""


_look_ups: dict[tuple[str, str], _LookUp] = {}


def _look_up(kind: type[SqlRecord], column: str) -> _LookUp:
    key = (kind.content_type_name, column)
    known = _look_ups.get(key)
    if known is None:
        lineage = _lineage(kind)
        source: Any = kind.table
        for child, parent in zip(reversed(lineage), reversed(lineage[:-1]), strict=False):
            source = source.join(parent.table, parent.table.c.id == child.table.c[child.parent_column])
        levels = [(level, _columns(level)) for level in lineage]
        columns = [level.table.c[name] for level, names in levels for name in names]
        statement = select(*columns).select_from(source).where(kind.table.c[column] == bindparam("value"))
        known = _look_ups[key] = _LookUp(statement, levels)
    return known
