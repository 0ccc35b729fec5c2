"""The microseconds between two times, for which every engine has another expression."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class microseconds_between(FunctionElement[int]):
    """The microseconds from one time to another, an integer; NULL if one of them is NULL."""

    type = BigInteger()
    inherit_cache = True
    name = "microseconds_between"


@compiles(microseconds_between, "postgresql")
def _postgresql(element: microseconds_between, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(clause, **options) for clause in element.clauses)
    return f"CAST(EXTRACT(EPOCH FROM ({end} - {start})) * 1000000 AS BIGINT)"


@compiles(microseconds_between, "mysql")
@compiles(microseconds_between, "mariadb")
def _mariadb(element: microseconds_between, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(clause, **options) for clause in element.clauses)
    return f"TIMESTAMPDIFF(MICROSECOND, {start}, {end})"


@compiles(microseconds_between, "sqlite")
def _sqlite(element: microseconds_between, compiler: SQLCompiler, **options: Any) -> str:
    # julianday() loses microseconds, so they are read from the stored text ("YYYY-MM-DD HH:MM:SS.ffffff", position 21).
    start, end = (compiler.process(clause, **options) for clause in element.clauses)
    seconds = f"(strftime('%s', {end}) - strftime('%s', {start}))"
    return f"({seconds} * 1000000 + (substr({end}, 21, 6) - substr({start}, 21, 6)))"
