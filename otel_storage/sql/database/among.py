"""Selects rows by a list of ids, in one statement that fits lists of any length: see ``Policy.among``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from otel_storage.runtime.chunks import chunks

IDS = "ids"
"""The name of the parameter that holds the list."""

_CHUNK = 512
"""Ids per execution, since engines limit a statement's parameters; more than a sender claims at once."""


def in_chunks(ids: Sequence[Any]) -> Iterator[dict[str, Sequence[Any]]]:
    """The parameter's values, one for each execution: an execution takes a limited number of ids."""
    return ({IDS: part} for part in chunks(ids, _CHUNK))
