"""Words and figures as people read them: durations, times, names, commands to copy."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.cells import cell_len, set_cell_size

from otel_storage.privacy.lines import one_line
from otel_storage.results.model_objects import is_model_object


def cut(text: str, width: int, ellipsis: str = "…") -> str:
    """The text in at most ``width`` terminal cells, ending in an ellipsis if something is missing."""
    if cell_len(text) <= width:
        return text
    if width <= len(ellipsis):
        return ellipsis[: max(width, 0)]
    return set_cell_size(text, width - len(ellipsis)).rstrip() + ellipsis


def pad(text: str, width: int) -> str:
    """The text followed by spaces up to ``width`` cells; a longer one is returned as it is."""
    return text + " " * (width - cell_len(text))


def duration(value: timedelta | None) -> str:
    """A duration with three significant figures or two units; empty for None."""
    if value is None:
        return ""
    seconds = value.total_seconds()
    if seconds < 0.0005:
        return "0 ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02} h"


def aware(moment: datetime | None) -> datetime | None:
    """The moment in UTC. Getters give naive times under Django's ``USE_TZ=False``, which sets the process's zone."""
    return None if moment is None else moment.astimezone(UTC)


def local_time(moment: datetime) -> str:
    """The moment in the local zone, which is named."""
    local = moment.astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S} {local.tzname() or local.strftime('%z')}"


def iso(moment: datetime | None) -> str | None:
    """The moment as JSON has it: ISO 8601 in UTC, with microseconds."""
    moment = aware(moment)
    return None if moment is None else moment.isoformat(timespec="microseconds")


def seconds(value: timedelta | None) -> float | None:
    """A duration as JSON has it: seconds."""
    return None if value is None else value.total_seconds()


def object_name(serializable_object: Any) -> str:
    """What to call the object that an instance was started with; empty for None."""
    if serializable_object is None:
        return ""
    if is_model_object(serializable_object):
        return "{app_label}.{model_name} {pk}".format_map(serializable_object)
    if isinstance(serializable_object, dict) and len(serializable_object) == 1:
        # The host stores what an iterator gives as {"obj": ...}.
        (serializable_object,) = serializable_object.values()
    if isinstance(serializable_object, str):
        return one_line(serializable_object) or '""'
    return one_line(json.dumps(serializable_object, ensure_ascii=False))


def grouped(number: int) -> str:
    """The number with its thousands apart: ``12 345``."""
    return f"{number:,}".replace(",", " ")


def plural(count: int, noun: str) -> str:
    """``1 span``, ``12 345 spans``."""
    return f"{grouped(count)} {noun}{'' if count == 1 else 's'}"


def shell_command(words: Sequence[str], width: int) -> list[str]:
    """The command as lines of at most ``width`` cells where it can be broken; pasted together they are one command."""
    lines: list[str] = []
    line = ""
    for word in map(_quoted, words):
        # Two cells are kept for the " \" at the end of a broken line.
        if line and cell_len(line) + 1 + cell_len(word) > width - 2:
            lines.append(f"{line} \\")
            line = f"  {word}"
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


def _quoted(word: str) -> str:
    """The word as a shell wants it; an assignment before a command keeps its name unquoted."""
    name, equals, value = word.partition("=")
    if equals and name.isidentifier() and name.isupper():
        return f"{name}={shlex.quote(value)}"
    return shlex.quote(word)
