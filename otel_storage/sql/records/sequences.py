"""Sequences of records that are read on first use."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from otel_storage.sql.totals import digest

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from otel_storage.sql.records.identity_map import IdentityMap
    from otel_storage.sql.records.levels import SqlPipelineExecution
    from otel_storage.sql.records.record import SqlParent, SqlRecord

Record = TypeVar("Record", bound="SqlRecord", covariant=True)


class SqlSequence(Generic[Record]):
    """The records of one kind that meet the conditions, in the order of their ids or in reverse.

    Records are read on first use: ``len()`` and ``count()`` execute a COUNT, an index or a slice reads only its
    records. Iterating reads all records once, and later uses read nothing.
    """

    def __init__(
        self,
        records: IdentityMap,
        kind: type[Record],
        conditions: Sequence[ColumnElement[bool]] = (),
        *,
        newest_first: bool = False,
    ) -> None:
        self._records = records
        self._kind = kind
        self._conditions = conditions
        self._newest_first = newest_first
        self._loaded: list[Record] | None = None

    def __len__(self) -> int:
        if self._loaded is not None:
            return len(self._loaded)
        return self._records.count(self._kind, self._conditions)

    def count(self) -> int:
        """How many there are."""
        return len(self)

    def all(self) -> SqlSequence[Record]:
        """The sequence itself."""
        return self

    def __bool__(self) -> bool:
        return bool(self._loaded) if self._loaded is not None else bool(self._read(0, 1))

    def __iter__(self) -> Iterator[Record]:
        return iter(self._load())

    def __reversed__(self) -> Iterator[Record]:
        return reversed(self._load())

    def __contains__(self, record: object) -> bool:
        return record in self._load()

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if self._loaded is not None:
            return self._loaded[index]
        if isinstance(index, slice):
            return self._slice(index)
        index = operator.index(index)
        if index < 0:
            return self._load()[index]
        found = self._read(index, 1)
        if not found:
            raise IndexError(f"there is no record {index} in the sequence")
        return found[0]

    def _slice(self, part: slice) -> list[Record]:
        start = 0 if part.start is None else operator.index(part.start)
        stop = None if part.stop is None else operator.index(part.stop)
        step = 1 if part.step is None else operator.index(part.step)
        if step == 0:
            raise ValueError("slice step cannot be zero")
        if start < 0 or step < 1 or (stop is not None and stop < 0):
            return self._load()[part]
        if stop is not None and stop <= start:
            return []
        return self._read(start, None if stop is None else stop - start)[::step]

    def _load(self) -> list[Record]:
        if self._loaded is None:
            self._loaded = self._read(0, None)
        return self._loaded

    def _read(self, offset: int, limit: int | None) -> list[Record]:
        return self._records.select(self._kind, self._conditions, offset, limit, self._newest_first)

    def __repr__(self) -> str:
        return f"<the {self._kind.content_type_name} records>"


class RunSequence(SqlSequence["SqlPipelineExecution"]):
    """All executions, or those of one pipeline, newest first; totals make counting any number of them quick."""

    def __init__(self, records: IdentityMap, kind: type[SqlPipelineExecution], pipeline_id: str | None = None) -> None:
        conditions = [] if pipeline_id is None else [kind.table.c.pipeline_id == pipeline_id]
        super().__init__(records, kind, conditions, newest_first=True)
        self._pipeline_id = pipeline_id

    def __len__(self) -> int:
        if self._loaded is not None:
            return len(self._loaded)
        return digest.count_runs(self._records.database, self._pipeline_id)


class ChildSequence(SqlSequence[Record]):
    """The children of a record; if the record was listed in a batch, all children of the batch are read together.

    The first sequence that reads records takes them; ``len()`` does not take them.
    """

    def __init__(
        self, records: IdentityMap, kind: type[Record], conditions: Sequence[ColumnElement[bool]], parent: SqlParent
    ) -> None:
        super().__init__(records, kind, conditions)
        self._parent = parent

    def __len__(self) -> int:
        if self._loaded is None and (children := self._parent.children_of_batch(self._kind)) is not None:
            return len(children)
        return super().__len__()

    def _load(self) -> list[Record]:
        if self._loaded is None and (children := self._parent.children_of_batch(self._kind)) is not None:
            self._loaded = children
            self._parent.take_children()
        return super()._load()

    def _read(self, offset: int, limit: int | None) -> list[Record]:
        if self._parent.batch is None:
            return super()._read(offset, limit)
        return self._load()[offset:][:limit]


class EmptySequence(SqlSequence[Record]):
    """An empty sequence that needs no query, for a condition that no record can meet."""

    def _read(self, _offset: int, _limit: int | None) -> list[Record]:
        return []

    def __len__(self) -> int:
        return 0


Sequence.register(SqlSequence)
