"""``otel-storage replay``: put stored history back into the outbox, so that its spans are sent again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from otel_storage.cli import text
from otel_storage.cli.options import given_options, json_option, open_records, parse_moment, url_option
from otel_storage.cli.output import Output
from otel_storage.cli.runs import find_run
from otel_storage.ports.outbox import REPLAY_RATE
from otel_storage.results import clock

if TYPE_CHECKING:
    from otel_storage.sql.outbox.replay import ReplayReport


@click.command()
@click.option(
    "--run",
    "run_ids",
    multiple=True,
    metavar="ID",
    help="Only this run, named as for otel-storage show. May be given more than once.",
)
@click.option("--pipeline", "pipeline_id", metavar="ID", help="Only runs of this pipeline.")
@click.option(
    "--since",
    metavar="AGE",
    callback=parse_moment,
    help="Only runs built since: 30m, 12h, 7d, or an ISO date or time.",
)
@click.option("--until", metavar="AGE", callback=parse_moment, help="Only runs built before: the same.")
@click.option(
    "--rate",
    metavar="N",
    type=click.IntRange(0),
    default=REPLAY_RATE,
    show_default=True,
    help="How many entries become due in a second, among those of new spans; 0: all at once.",
)
@click.option("--after", type=click.IntRange(0), metavar="CURSOR", default=0, help="Go on where a replay was stopped.")
@click.option("--dry-run", is_flag=True, help="Count alone.")
@url_option
@json_option
def replay(
    run_ids: Sequence[str],
    pipeline_id: str | None,
    since: datetime | None,
    until: datetime | None,
    rate: int,
    after: int,
    dry_run: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Send the spans of stored runs again, the same to the byte.

    Puts entries for them back into the outbox, where a sender finds them: for every finished task result, and for the
    other spans of every run that is final. Entries that are there stay as they are, but for those that were refused or
    have expired: they wait again. Spans that were sent already are sent once more; viewers take equal ids for one
    span. At least one of --run, --pipeline, --since and --until says which runs; they must meet all that are given.

    New spans do not wait behind old ones: what is replayed becomes due at --rate. A sender that watches sends it as it
    becomes due; `otel-storage deliver` sends all of it at once.

    Ctrl-C stops it after some run, and the command that goes on from there is told. To start it again from the
    beginning does no harm.

    \b
    JSON keys: runs, untraced (runs without telemetry, or not sampled), written
    (entries), revived (those that were refused or expired), waiting (those
    that were there), due (when the last of them is, or null), dry_run, next
    (the cursor for --after, if it was stopped; or null).
    """
    if not (run_ids or pipeline_id or since or until):
        raise click.UsageError("say which runs: --run, --pipeline, --since or --until; --since 1970-01-01 means all")
    from otel_storage.sql.outbox.replay import Replay, Selection

    output = Output(as_json)
    with open_records(url) as records:
        selection = Selection(
            execution_ids=[find_run(records, run_id).get_id() for run_id in run_ids],
            pipeline_id=pipeline_id,
            since=since,
            until=until,
            after=after,
        )
        work = Replay(records.database, records.clock, selection, rate=rate, dry_run=dry_run)
        try:
            with output.progress("Replaying", "runs", work.count) as done:
                for report in work.run():
                    done(report.runs + report.untraced)
        except BaseException:
            if work.report.cursor > after:
                _tell(output, work.report, dry_run=dry_run, is_complete=False)
            raise
        _tell(output, work.report, dry_run=dry_run, is_complete=True)


def _tell(output: Output, report: ReplayReport, *, dry_run: bool, is_complete: bool) -> None:
    if output.as_json:
        output.document(_as_json(report, dry_run=dry_run, is_complete=is_complete))
    else:
        output.lines(_figures(report, dry_run=dry_run))
    if not is_complete:
        output.say(f"Stopped after {text.plural(report.runs + report.untraced, 'run')}. To go on from there:")
        given = given_options(click.get_current_context(), without=("after",))
        output.say_command(["otel-storage", "replay", *given, "--after", str(report.cursor)])
    elif not report.runs + report.untraced:
        output.say("No run is like that.")
    elif report.due is not None and not dry_run and not output.as_json:
        wait = report.due - clock.now()
        last = f"the last in {text.duration(wait)}" if wait.total_seconds() > 1 else "now"
        output.say(f"A sender that watches sends them as they become due, {last}; otel-storage deliver at once.")


def _as_json(report: ReplayReport, *, dry_run: bool, is_complete: bool) -> dict[str, Any]:
    return {
        "runs": report.runs,
        "untraced": report.untraced,
        "written": report.written,
        "revived": report.revived,
        "waiting": report.waiting,
        "due": text.iso(report.due),
        "dry_run": dry_run,
        "next": None if is_complete else report.cursor,
    }


def _figures(report: ReplayReport, *, dry_run: bool) -> Iterator[Text]:
    """A line for each figure that is not zero: its name, the number and what it means."""
    to_be = "to be put into the outbox" if dry_run else "put into the outbox"
    wait = "would wait again" if dry_run else "wait again"
    figures = [
        ("runs", report.runs, "that have spans"),
        ("written", report.written, f"{_entries(report.written)} {to_be}"),
        ("revived", report.revived, f"{_entries(report.revived)}, refused or expired, {wait}"),
        ("waiting", report.waiting, f"{_entries(report.waiting)} there already, and not sent yet"),
        ("untraced", report.untraced, "runs without telemetry, or not sampled"),
    ]
    shown = [(name, text.grouped(number), meaning) for name, number, meaning in figures if number or name == "written"]
    number_width = max(len(number) for _, number, _ in shown)
    for name, number, meaning in shown:
        yield Text.assemble((f"{name:8} ", "dim"), (number.rjust(number_width), "bold"), "  ", meaning)


def _entries(count: int) -> str:
    return "entry" if count == 1 else "entries"
