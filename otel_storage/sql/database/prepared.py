"""Statements that are executed very often: compiled once per engine, then passed to the driver directly.

On every execution SQLAlchemy looks the statement up by its structure and processes its parameters. On SQLite that takes
longer than the database's own work.
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
    """A parameter of the column's type, named like the column or as given."""
    return bindparam(name or column.key, type_=column.type)


class Prepared:
    """A statement whose values are all parameters, each with its name and its type: see :func:`parameter`.

    If the engine binds parameters by position, or maps the tables to another schema, SQLAlchemy executes the statement.

    Args:
        statement: An INSERT, UPDATE or DELETE that returns no rows.
        within: A statement that is part of ``statement`` as a CTE, and has parameters too.
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
        # Key by engine, not by dialect: a text refers to its dialect, which the cache would keep alive for ever.
        self._texts: WeakKeyDictionary[Engine, _Text] = WeakKeyDictionary()

    def execute(self, connection: Connection, values: Values) -> CursorResult[Any]:
        """Execute the statement with the values of its parameters."""
        text = self._texts.get(connection.engine) or self._text(connection)
        if not text.is_for_driver or _SCHEMAS in connection.get_execution_options():
            return connection.execute(self._statement, values)
        turned = dict(values)
        for name, convert in text.converters:
            if (value := turned[name]) is not None:
                turned[name] = convert(value)
        return connection.exec_driver_sql(text.sql, turned)

    def execute_many(self, connection: Connection, rows: Sequence[Values]) -> CursorResult[Any]:
        """Execute the statement once for each row of parameter values."""
        text = self._texts.get(connection.engine) or self._text(connection)
        # The driver of a given engine may be slow at executemany(); SQLAlchemy then combines the rows.
        is_bulk = getattr(connection.dialect, "use_insertmanyvalues_wo_returning", False)
        if is_bulk or not text.is_for_driver or _SCHEMAS in connection.get_execution_options():
            return connection.execute(self._statement, rows)
        return connection.exec_driver_sql(text.sql, text.turned_rows(rows))

    def _text(self, connection: Connection) -> _Text:
        text = self._texts[connection.engine] = _Text(self._statement, self._types, connection.dialect)
        return text


@cache
def prepared_insert(table: Table, columns: tuple[str, ...]) -> Prepared:
    """The INSERT of these columns."""
    return Prepared(insert(table).inline().values({name: parameter(table.c[name]) for name in columns}))


_SCHEMAS = "schema_translate_map"
"""An option of a given engine that maps the tables to another schema, whose name is filled in on each execution."""


class _Text:
    """A statement in the form that an engine's driver takes."""

    def __init__(self, statement: UpdateBase, types: Mapping[str, Any], dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        # SQLAlchemy names the parameter of a constant itself, and the statement holds the value.
        self.is_for_driver = not dialect.positional and set(compiled.params) == types.keys()
        self.sql = str(compiled)
        self.converters = [
            (name, convert)
            for name, type_ in types.items()
            if (convert := type_.dialect_impl(dialect).bind_processor(dialect)) is not None
        ]

    def turned_rows(self, rows: Sequence[Values]) -> list[dict[str, Any]]:
        """The rows as the driver takes them; a value that all rows share is converted once."""
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
