"""Rows by a list of ids, in a statement that is made once for lists of any length: see ``Policy.among``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from otel_storage.runtime.chunks import chunks

IDS = "ids"
"""The parameter that the list is given as."""

_CHUNK = 512
"""Engines limit the parameters of a statement; what a sender claims at once fits in one."""


def in_chunks(ids: Sequence[Any]) -> Iterator[dict[str, Sequence[Any]]]:
    """The parameter, once for each execution that so many ids take."""
    return ({IDS: part} for part in chunks(ids, _CHUNK))
