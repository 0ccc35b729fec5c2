"""Statements that are executed very often: compiled once for an engine, and handed to its driver as they are.

SQLAlchemy looks a statement up by its structure, and takes its parameters apart, whenever it executes it: on SQLite
that takes longer than all that the database does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    CursorResult,
    Dialect,
    Engine,
    Table,
    UpdateBase,
    bindparam,
    insert,
)
from sqlalchemy.sql import visitors

Values = Mapping[str, Any]


def parameter(column: ColumnElement[Any], name: str | None = None) -> BindParameter[Any]:
    """A parameter of the column's type, by the column's name or another."""
    return bindparam(name or column.key, type_=column.type)


class Prepared:
    """A statement whose values are all parameters, each with its name and its type: see :func:`parameter`.

    Where the engine binds parameters by position, or keeps the tables in another schema, SQLAlchemy executes it.

    Args:
        statement: An INSERT, UPDATE or DELETE that returns no rows.
        within: A statement that is a part of it, as a CTE, and has parameters too.
    """

    def __init__(self, statement: UpdateBase, within: UpdateBase | None = None) -> None:
        self._statement = statement
        self._types = {
            element.key: element.type
            for part in (statement, within)
            if part is not None
            for element in visitors.iterate(part)
            if isinstance(element, BindParameter) and element.required
        }
        # By engine: a text holds its dialect, which would be kept for ever by it.
        self._texts: WeakKeyDictionary[Engine, _Text] = WeakKeyDictionary()

    def execute(self, connection: Connection, values: Values) -> CursorResult[Any]:
        """Execute it with the values of its parameters."""
        text = self._texts.get(connection.engine) or self._text(connection)
        if not text.is_for_driver or _SCHEMAS in connection.get_execution_options():
            return connection.execute(self._statement, values)
        turned = dict(values)
        for name, convert in text.converters:
            if (value := turned[name]) is not None:
                turned[name] = convert(value)
        return connection.exec_driver_sql(text.sql, turned)

    def execute_many(self, connection: Connection, rows: Sequence[Values]) -> CursorResult[Any]:
        """Execute it once for each row, which holds the values of its parameters."""
        text = self._texts.get(connection.engine) or self._text(connection)
        # An engine of the user's may have a driver that is slow at many rows, so that SQLAlchemy puts them together.
        is_bulk = getattr(connection.dialect, "use_insertmanyvalues_wo_returning", False)
        if is_bulk or not text.is_for_driver or _SCHEMAS in connection.get_execution_options():
            return connection.execute(self._statement, rows)
        return connection.exec_driver_sql(text.sql, text.turned_rows(rows))

    def _text(self, connection: Connection) -> _Text:
        text = self._texts[connection.engine] = _Text(self._statement, self._types, connection.dialect)
        return text


@cache
def prepared_insert(table: Table, columns: tuple[str, ...]) -> Prepared:
    """The INSERT of those columns."""
    return Prepared(insert(table).inline().values({name: parameter(table.c[name]) for name in columns}))


_SCHEMAS = "schema_translate_map"
"""An option of an engine of the user's that keeps the tables in another schema: its name is filled in each time."""


class _Text:
    """A statement as an engine's driver takes it."""

    def __init__(self, statement: UpdateBase, types: Mapping[str, Any], dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        # A constant's name is SQLAlchemy's own, and its value is not among those given.
        self.is_for_driver = not dialect.positional and set(compiled.params) == types.keys()
        self.sql = str(compiled)
        self.converters = [
            (name, convert)
            for name, type_ in types.items()
            if (convert := type_.dialect_impl(dialect).bind_processor(dialect)) is not None
        ]

    def turned_rows(self, rows: Sequence[Values]) -> list[dict[str, Any]]:
        """The rows as the driver takes them; what they have in common is turned into the driver's value once."""
        turned = [dict(row) for row in rows]
        for name, convert in self.converters:
            known: Any = None
            made: Any = None
            for row in turned:
                if (value := row[name]) is None:
                    continue
                if value is not known:
                    known, made = value, convert(value)
                row[name] = made
        return turned
