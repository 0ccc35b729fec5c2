"""Rows by a list of ids, in a statement that is made once for lists of any length."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Dialect, Text, TypeDecorator, any_, bindparam, func, select

from otel_storage.runtime.chunks import chunks

IDS = "ids"
"""The parameter of :func:`among`."""

_CHUNK = 512
"""Engines limit the parameters of a statement; what a sender claims at once fits in one."""


def among(column: ColumnElement[int], dialect: str) -> ColumnElement[bool]:
    """Whether the column has one of the ids that the statement is executed with, as the parameter ``ids``.

    PostgreSQL is given them as one array, SQLite as one JSON: with a parameter for each, every length is a statement of
    its own, which SQLAlchemy writes, the driver parses and the server plans.
    """
    if dialect == "postgresql":
        return column == any_(bindparam(IDS, type_=ARRAY(BigInteger)))
    if dialect == "sqlite":
        given = func.json_each(bindparam(IDS, type_=_JsonArray)).table_valued("value")
        return column.in_(select(given.c.value))
    return column.in_(bindparam(IDS, expanding=True))


class _JsonArray(TypeDecorator[Sequence[int]]):
    """Ids, as SQLite's ``json_each`` takes them apart: https://www.sqlite.org/json1.html."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Sequence[int] | None, dialect: Dialect) -> str | None:
        """The ids as JSON."""
        return None if value is None else json.dumps(list(value))


def in_chunks(ids: Sequence[Any]) -> Iterator[dict[str, Sequence[Any]]]:
    """The parameter, once for each execution that so many ids take."""
    return ({IDS: part} for part in chunks(ids, _CHUNK))
