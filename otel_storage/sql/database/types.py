"""Column types that store values unchanged on every engine, or refuse them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Dialect, String, Text
from sqlalchemy.dialects import mysql
from sqlalchemy.types import DateTime, TypeDecorator, TypeEngine, UserDefinedType

from otel_storage.results.status import STATUSES, PipelineTaskStatus, as_status
from otel_storage.sql.database.policies import policy_of

LongText = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
"""Text of any length: MariaDB's TEXT ends at 64 KiB."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, stored and given as UTC to the microsecond; a naive time is refused.

    SQLite silently drops a time's zone, and MariaDB's DATETIME its microseconds unless told otherwise: the type of each
    engine is its policy's.
    """

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The engine's own type."""
        return policy_of(dialect).time_type()


class Status(TypeDecorator[PipelineTaskStatus]):
    """A status, stored by its name."""

    impl = String(16)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The same on every engine."""
        return _Name()


class _Name(UserDefinedType[PipelineTaskStatus]):
    """The name of a status; a type without a Python class, so that SQLAlchemy adds no conversion of its own."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """The longest name of a status has 16 characters."""
        return "VARCHAR(16)"

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any]:
        """Store the name."""
        return _name_of

    def literal_processor(self, dialect: Dialect) -> Callable[[Any], str]:
        """The name as a literal of the statement."""
        return lambda status: f"'{status.value}'"

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], PipelineTaskStatus | None]:
        """Return the status."""
        return _status_of


def _name_of(status: PipelineTaskStatus | None) -> Any:
    return None if status is None else status.value


def _status_of(name: str | None) -> PipelineTaskStatus | None:
    return None if name is None else STATUSES.get(name) or as_status(name)
