"""Inserts many rows by one statement on PostgreSQL: shared values are sent once, all others as one array per column.

``executemany()`` makes the server execute a statement for each row, which takes several times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, Connection, Insert, Table, Text, bindparam, column, func, insert, select

FEWEST = 20
"""The least number of rows for which a statement of their own shape pays."""

_ROWS = 5_000
_CHARACTERS = 4_000_000
"""The most that one statement sends: the server keeps a statement in memory, and refuses a value of 1 GB."""

Row = Mapping[str, Any]


def insert_arrays(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert the rows, which have the same columns, in their order."""
    first = rows[0]
    shared = {name: value for name, value in first.items() if all(row[name] is value for row in rows)}
    own = tuple(name for name in first if name not in shared)
    statement = _statement(table, tuple(shared), own)
    for part in _parts(rows, [name for name in own if isinstance(table.c[name].type, Text)]):
        arrays = {name: [row[name] for row in part] for name in own}
        connection.execute(statement, {**shared, **arrays})


@cache
def _statement(table: Table, shared: tuple[str, ...], own: tuple[str, ...]) -> Insert:
    arrays = [bindparam(name, type_=ARRAY(table.c[name].type)) for name in own]
    columns = [column(name, table.c[name].type) for name in own]
    given = func.unnest(*arrays).table_valued(*columns).render_derived(name="given")
    values = [bindparam(name, type_=table.c[name].type) for name in shared]
    selected = select(*values, *(given.c[name] for name in own))
    return insert(table).inline().from_select([*shared, *own], selected, include_defaults=False)


def _parts(rows: Sequence[Row], texts: Sequence[str]) -> Iterator[Sequence[Row]]:
    part: list[Row] = []
    characters = 0
    for row in rows:
        size = sum(len(row[name] or "") for name in texts)
        if part and (len(part) >= _ROWS or characters + size > _CHARACTERS):
            yield part
            part, characters = [], 0
        part.append(row)
        characters += size
    yield part
