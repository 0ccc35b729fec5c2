"""The statuses that ``--status`` names."""

from __future__ import annotations

from collections.abc import Sequence

import click
from click.shell_completion import CompletionItem

from otel_storage.results.status import ERRORS
from otel_storage.results.status import PipelineTaskStatus as Status

_NAMED: dict[str, tuple[str, ...]] = {
    **{status.value: (status.value,) for status in Status},
    "ERROR": tuple(status.value for status in Status if status in ERRORS),
}
"""What each name stands for. ERROR is no status: "failed" would include CANCELLED in the contract."""


class StatusNames(click.ParamType):  # type: ignore[type-arg]  # older releases of click take no type here
    """One or more names of statuses, separated by commas, in any case."""

    name = "status"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The statuses' own names, each once.

        Raises:
            BadParameter: one of the names is none; the message has all that are.
        """
        found: dict[str, None] = {}
        for name in value.split(","):
            if name.strip().upper() not in _NAMED:
                self.fail(f"{name.strip()!r:.50} is not a status; use {', '.join(_NAMED)}", param, ctx)
            found.update(dict.fromkeys(_NAMED[name.strip().upper()]))
        return tuple(found)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names that the last one, which a comma may precede, begins."""
        before, comma, last = incomplete.rpartition(",")
        return [CompletionItem(f"{before}{comma}{name}") for name in _NAMED if name.startswith(last.upper())]


def flat(
    _context: click.Context, _option: click.Parameter, values: Sequence[tuple[str, ...]] | None
) -> tuple[str, ...]:
    """The statuses of several options, each once."""
    return tuple(dict.fromkeys(status for each in values or () for status in each))
