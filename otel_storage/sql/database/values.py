"""Converts given values to stored ones: strict JSON, texts and ids that every engine holds, times in UTC."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

from otel_storage.privacy.lines import as_text, in_utf8
from otel_storage.privacy.masking import cut_middle
from otel_storage.results.exceptions import InvalidInput

MESSAGE_LIMIT = 65_536
"""Bytes of UTF-8 of a status message that are stored, unless the storage is told otherwise."""


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
    return in_utf8(result.replace("\x00", "\ufffd"))


def message_text(message: object, limit: int = MESSAGE_LIMIT) -> str:
    """A status message as it is stored: of one over ``limit`` bytes its start and its end, around a mark that says so.

    Never raises: no change of state fails for its message.
    """
    return storable(cut_middle(as_text(message), limit))


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
