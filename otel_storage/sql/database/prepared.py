"""Statements that are executed very often: compiled once for an engine, and handed to its driver as they are.

SQLAlchemy looks a statement up by its structure, and takes its parameters apart, whenever it executes it: on SQLite
that takes longer than all that the database does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, CursorResult, Dialect, Engine, UpdateBase


class Prepared:
    """A statement whose parameters are all bound by name.

    Args:
        statement: An INSERT, UPDATE or DELETE that returns no rows.
    """

    def __init__(self, statement: UpdateBase) -> None:
        self._statement = statement
        # By engine: a text holds its dialect, which would be kept for ever by it.
        self._texts: WeakKeyDictionary[Engine, _Text] = WeakKeyDictionary()

    def execute(self, connection: Connection, values: Mapping[str, Any]) -> CursorResult[Any]:
        """Execute it with the values of its parameters."""
        if _SCHEMAS in connection.get_execution_options():
            return connection.execute(self._statement, values)
        text = self._text(connection)
        return connection.exec_driver_sql(text.sql, text.parameters(values))

    def execute_many(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> CursorResult[Any]:
        """Execute it once for each row, which holds the values of its parameters."""
        # An engine of the user's may have a driver that is slow at many rows, so that SQLAlchemy puts them together.
        is_bulk = getattr(connection.dialect, "use_insertmanyvalues_wo_returning", False)
        if is_bulk or _SCHEMAS in connection.get_execution_options():
            return connection.execute(self._statement, rows)
        text = self._text(connection)
        return connection.exec_driver_sql(text.sql, text.parameters_of_many(rows))

    def _text(self, connection: Connection) -> _Text:
        text = self._texts.get(connection.engine)
        if text is None:
            text = self._texts[connection.engine] = _Text(self._statement, connection.dialect)
        return text


_SCHEMAS = "schema_translate_map"
"""An option of an engine of the user's that keeps the tables in another schema: its name is filled in each time."""


class _Text:
    """A statement as an engine's driver takes it."""

    def __init__(self, statement: UpdateBase, dialect: Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect)
        self.sql: str = compiled.string
        self._order: Sequence[str] | None = compiled.positiontup
        self._constants: dict[str, Any] = {}
        self._processors: dict[str, Callable[[Any], Any]] = {}
        for bind, name in compiled.bind_names.items():
            processor = bind.type.dialect_impl(dialect).bind_processor(dialect)
            if not bind.required:
                self._constants[name] = bind.value if processor is None else processor(bind.value)
            elif processor is not None:
                self._processors[name] = processor

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any] | tuple[Any, ...]:
        """The values as the driver takes them."""
        bound = {**self._constants, **values}
        for name, process in self._processors.items():
            bound[name] = process(bound[name])
        return self._in_order(bound)

    def parameters_of_many(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Those of each row; what the rows of a run have in common is turned into the driver's value once."""
        turned: dict[str, tuple[Any, Any]] = {}
        return [self._parameters_after(turned, row) for row in rows]

    def _parameters_after(
        self, turned: dict[str, tuple[Any, Any]], values: Mapping[str, Any]
    ) -> dict[str, Any] | tuple[Any, ...]:
        bound = {**self._constants, **values}
        for name, process in self._processors.items():
            value = bound[name]
            known = turned.get(name)
            if known is None or known[0] is not value:
                known = turned[name] = (value, process(value))
            bound[name] = known[1]
        return self._in_order(bound)

    def _in_order(self, bound: dict[str, Any]) -> dict[str, Any] | tuple[Any, ...]:
        return bound if self._order is None else tuple([bound[name] for name in self._order])
