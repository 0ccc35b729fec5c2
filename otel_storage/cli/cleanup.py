"""``otel-storage cleanup``: remove old runs, but for those that are unfinished or wait to be delivered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from otel_storage.cli import Failure, text
from otel_storage.cli.options import given_options, json_option, open_storage, parse_moment, url_option
from otel_storage.cli.output import Output
from otel_storage.results import host

if TYPE_CHECKING:
    from otel_storage.results.base import PipelineStorage
    from otel_storage.sql.storage import SqlPipelineStorage
    from otel_storage.sql.upkeep.cleanup import Extent


@click.command()
@click.option(
    "--before",
    required=True,
    metavar="AGE",
    callback=parse_moment,
    help="Runs that were built before: 30m, 12h, 7d, or an ISO date or time.",
)
@click.option("--yes", is_flag=True, help="Remove the runs; without --yes they are only counted.")
@click.option("--force", is_flag=True, help="Remove unfinished runs too, and those whose spans wait to be sent.")
@url_option
@json_option
def cleanup(before: datetime, yes: bool, force: bool, url: str | None, as_json: bool) -> None:
    """Remove the runs that were built before a time, with all their records.

    Unfinished runs stay, and so do finished ones whose spans wait to be sent; --force removes them too, and loses the
    spans that wait. Totals and metrics still count the runs that are removed.

    Runs go in small transactions, so that others write meanwhile. Ctrl-C stops it after one of them.

    A wrapped storage removes its runs by its own cleanup, which decides which runs are old, and spares none. The
    command calls that cleanup if the copies of its runs show none to be spared, or with --force. Where --url names the
    database of the copies, the command removes only copies.

    Exits 1 if runs are found that would be removed, and --yes is not given.

    \b
    JSON keys: url; before (the time); runs (built before it), unfinished and
    undelivered (those of them that are unfinished; finished, but their spans
    wait to be sent), removable (how many --yes removes); removed (how many
    were; null without --yes).
    """
    from otel_storage.sql.upkeep import cleanup as upkeep

    output = Output(as_json)
    with open_storage(url) as (storage, records):
        is_wrapped = getattr(storage, "storage", records) is not records
        with records.database.read() as connection:
            extent = upkeep.extent(connection, before, copies_alone=is_wrapped)
        plan = _Plan(records.url, before, extent, extent.runs if force else extent.runs - extent.spared)
        removed = None
        if yes and is_wrapped:
            removed = _remove_by_wrapped(storage, plan, force=force)
        elif yes:
            removed = _remove(records, plan, output, force=force)
        if as_json:
            output.document(plan.as_json(removed))
        else:
            output.lines(plan.figures(removed))
            if removed is None and plan.removable:
                output.say("To remove them:")
                given = given_options(click.get_current_context())
                output.say_command(["otel-storage", "cleanup", *given, "--yes"])
    if removed is None and plan.removable:
        click.get_current_context().exit(1)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What there is to remove."""

    url: str
    before: datetime
    extent: Extent
    removable: int

    def as_json(self, removed: int | None) -> dict[str, Any]:
        """As ``cleanup --json`` documents it."""
        return {
            "url": self.url,
            "before": text.iso(self.before),
            "runs": self.extent.runs,
            "unfinished": self.extent.unfinished,
            "undelivered": self.extent.undelivered,
            "removable": self.removable,
            "removed": removed,
        }

    def figures(self, removed: int | None) -> Iterator[Text]:
        """A line for each figure that is not zero: its name, the number and what it means."""
        stay = "stay" if self.removable < self.extent.runs else "go too"
        last = ("removable", self.removable, "would be removed") if removed is None else ("removed", removed, "")
        lines = [
            ("runs", self.extent.runs, f"built before {text.local_time(self.before)}"),
            ("unfinished", self.extent.unfinished, f"of them are PENDING or RUNNING: they {stay}"),
            ("undelivered", self.extent.undelivered, f"of them are finished, their spans not sent: they {stay}"),
            last,
        ]
        width = max(len(text.grouped(number)) for _, number, _ in lines)
        for name, number, meaning in lines:
            if number or name in ("runs", last[0]):
                yield Text.assemble(
                    (f"{name:11} ", "dim"), (text.grouped(number).rjust(width), "bold"), f"  {meaning}".rstrip()
                )


def _remove(records: SqlPipelineStorage, plan: _Plan, output: Output, *, force: bool) -> int:
    from otel_storage.sql.upkeep.cleanup import in_parts

    removed = 0
    with output.progress("Removing", "runs", lambda: plan.removable) as show:
        for run_ids, _ in in_parts(records.database, records.clock, plan.before, spares=not force):
            removed += len(run_ids)
            show(removed)
    return removed


def _remove_by_wrapped(storage: PipelineStorage, plan: _Plan, *, force: bool) -> int:
    """Have a wrapped storage remove its runs, and the copies of them.

    Raises:
        Failure: there are runs to be spared, which only our own tables can.
    """
    if plan.extent.spared and not force:
        wrapped = type(getattr(storage, "storage", storage)).__name__
        raise Failure(
            f"the cleanup of the wrapped {wrapped} spares no run, and there are "
            f"{text.plural(plan.extent.unfinished, 'unfinished run')} and "
            f"{text.plural(plan.extent.undelivered, 'undelivered run')} built before; "
            "give an earlier --before, or --force to remove them too"
        )
    # The host's own command gives the time as Django has it.
    return len(storage.cleanup(before=host.present(plan.before)))
