"""Rows by a list of ids, in a statement that is made once for lists of any length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, any_, bindparam

IDS = "ids"
"""The parameter of :func:`among`."""

_CHUNK = 512
"""Engines limit the parameters of a statement; what a sender claims at once fits in one."""


def among(column: ColumnElement[int], dialect: str) -> ColumnElement[bool]:
    """Whether the column has one of the ids that the statement is executed with, as the parameter ``ids``.

    PostgreSQL is given them as one array: with a parameter for each, every length is a statement of its own, which the
    driver parses and the server plans.
    """
    if dialect == "postgresql":
        return column == any_(bindparam(IDS, type_=ARRAY(BigInteger)))
    return column.in_(bindparam(IDS, expanding=True))


def in_chunks(ids: Sequence[Any]) -> Iterator[dict[str, Sequence[Any]]]:
    """The parameter, once for each execution that so many ids take."""
    for start in range(0, len(ids), _CHUNK):
        yield {IDS: ids[start : start + _CHUNK]}
