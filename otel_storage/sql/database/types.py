"""Column types that keep what they are given, on every engine, or refuse it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import DateTime, Dialect, String, Text
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator, TypeEngine

from otel_storage.results.exceptions import InvalidInput
from otel_storage.results.status import PipelineTaskStatus, as_status

LongText = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
"""Text of any length: MariaDB's TEXT ends at 64 KiB."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, stored and given as UTC to the microsecond.

    SQLite silently drops a time's zone, and MariaDB's DATETIME its microseconds unless told otherwise.
    """

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The engine's own type."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(DateTime(timezone=True))
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC; a naive time is refused."""
        if value is None:
            return None
        value = aware(value, "a stored time")
        return value if dialect.name == "postgresql" else value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give UTC."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo is not None else value.replace(tzinfo=UTC)

    # On SQLite times are text: written and read as UTC at once they take a fraction of the time, and they are most of
    # what a statement with its values costs there.

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:
        """What makes the engine's value of a time."""
        return _text_from_utc if _keeps_text(dialect) else super().bind_processor(dialect)

    def result_processor(self, dialect: Dialect, coltype: Any) -> Callable[[Any], datetime | None] | None:
        """What makes a time of the engine's value."""
        return _utc_from_text if _keeps_text(dialect) else super().result_processor(dialect, coltype)


class Status(TypeDecorator[PipelineTaskStatus]):
    """A status, stored by its name."""

    impl = String(16)
    cache_ok = True

    def process_bind_param(self, value: PipelineTaskStatus | None, dialect: Dialect) -> str | None:
        """Store the name."""
        return None if value is None else value.value

    def process_result_value(self, value: str | None, dialect: Dialect) -> PipelineTaskStatus | None:
        """Give the status."""
        return _status_of(value)

    def result_processor(self, dialect: Dialect, coltype: Any) -> Callable[[Any], PipelineTaskStatus | None]:
        """What makes a status of its name, without what SQLAlchemy would put around it."""
        return _status_of


_STATUSES = {status.value: status for status in PipelineTaskStatus}


def _status_of(name: str | None) -> PipelineTaskStatus | None:
    return None if name is None else _STATUSES.get(name) or as_status(name)


def _keeps_text(dialect: Dialect) -> bool:
    return dialect.name == "sqlite" and not getattr(dialect, "native_datetime", False)


def _text_from_utc(moment: datetime | None) -> str | None:
    return None if moment is None else _text(aware(moment, "a stored time"))


@lru_cache(maxsize=256)
def _text(utc: datetime) -> str:
    # As SQLAlchemy's own type writes it, always with six digits after the point: text is compared as text. Kept, as the
    # time of one change goes into several columns, and the start of a process into each row that it works on. Of times
    # in UTC alone: in another zone two that are equal may be an hour apart, and differ in nothing but ``fold``.
    return utc.isoformat(" ", "microseconds")[:26]


def _utc_from_text(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(f"{text}+00:00")


def aware(moment: object, what: str) -> datetime:
    """The time in UTC.

    Raises:
        InvalidInput: it is no time, or a naive one.
    """
    if isinstance(moment, datetime) and moment.tzinfo is UTC:
        return moment
    if not isinstance(moment, datetime):
        raise InvalidInput(f"{what} must be a datetime, not a {type(moment).__name__}")
    if moment.utcoffset() is None:
        raise InvalidInput(
            f"{what} must be an aware datetime: {moment.isoformat()} has no time zone; "
            "use datetime.now(datetime.UTC) or django.utils.timezone.make_aware()"
        )
    return moment.astimezone(UTC)


def dump_json(value: Any, what: str) -> str | None:
    """The value as strict JSON, None for None.

    Raises:
        InvalidInput: JSON cannot hold the value; NaN and infinities are no JSON either.
    """
    if value is None:
        return None
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{what} cannot be stored as JSON: {error}; use strings, finite numbers, booleans, None, lists and dicts"
        ) from error


# json.dumps would make an encoder for each value.
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def load_json(text: str | None) -> Any:
    """The value that :func:`dump_json` made the text of."""
    return None if text is None else _decode(text)


_decode = json.JSONDecoder().decode


def storable(text: object) -> str:
    """The text as every engine can hold it: PostgreSQL refuses NUL, and none encodes half a surrogate pair."""
    result = text if isinstance(text, str) else str(text)
    return result.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def identifier(value: object, what: str, length: int = 255) -> str:
    """An id given by the caller, as every engine keeps it unchanged.

    Raises:
        InvalidInput: it is no string, empty, too long, or holds what cannot be stored.
    """
    if not isinstance(value, (str, uuid.UUID)):
        raise InvalidInput(f"{what} must be a string, not a {type(value).__name__}")
    text = str(value)
    if not text or len(text) > length:
        raise InvalidInput(f"{what} must have 1 to {length} characters, not {len(text)}")
    if text != storable(text):
        raise InvalidInput(f"{what} {text!r:.100} holds a NUL or an unpaired surrogate, which no database can store")
    return text


def record_id(value: object) -> int | None:
    """The record id that ``value`` means: an integer, or decimal digits; None for anything else, and so no record."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    return value if isinstance(value, int) and 0 < value < 2**63 else None
