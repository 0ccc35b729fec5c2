"""``otel-storage status``: what waits to be sent, why, who sends, and whether a person is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from otel_storage.cli import Failure, tables, text
from otel_storage.cli.deliver import entries, outbox_as_json
from otel_storage.cli.options import json_option, open_telemetry, parse_age, url_option
from otel_storage.cli.output import Output
from otel_storage.cli.tables import Column
from otel_storage.privacy.lines import one_line

if TYPE_CHECKING:
    from otel_storage.ports.outbox import OutboxStatus, SeenSender
    from otel_storage.sql.storage import SqlPipelineStorage

_SENDERS_READ = 100
_SENDERS_SHOWN = 10
_LABEL = 10
"""Cells of a line's label."""
_HOST = 30
"""The most cells that a host's name takes of a line."""
_GAP = "  "


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be, before a person is called."""

    wait: timedelta
    """How long entries wait while nothing is accepted."""
    set_aside: int
    expired: int


@dataclass(frozen=True, slots=True)
class Overview:
    """What is known of an outbox and of those who send what is in it."""

    url: str
    at: datetime
    outbox: OutboxStatus
    senders: Sequence[SeenSender]
    watching: SeenSender | None
    success: SeenSender | None
    failure: SeenSender | None

    def age(self, moment: datetime | None) -> timedelta:
        """How long ago it was; clocks of several hosts never agree quite."""
        return timedelta(0) if moment is None else max(self.at - moment, timedelta(0))


def _age(_context: click.Context, _option: click.Parameter, value: str) -> timedelta:
    age = parse_age(value)
    if age is None:
        raise click.BadParameter(f"{value!r} is not an age such as 90s, 15m, 2h or 1d")
    return age


@click.command()
@click.option(
    "--max-wait",
    metavar="AGE",
    callback=_age,
    default="15m",
    show_default=True,
    help="How long entries may wait while nothing is accepted: 90s, 15m, 2h, 1d.",
)
@click.option(
    "--max-set-aside",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="How many entries may be set aside: those that are known.",
)
@click.option(
    "--max-expired",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="How many entries may be expired.",
)
@url_option
@json_option
def status(max_wait: timedelta, max_set_aside: int, max_expired: int, url: str | None, as_json: bool) -> None:
    """Tell what waits to be sent and why, and who sends.

    What waits is counted in entries of the outbox: one for the span of each finished task result, one for the other
    spans of each run. Nothing is sent, and the endpoint is not asked.

    Exits 1 if something needs a person: entries were refused for good and set aside, or expired, or they wait for
    longer than --max-wait and nothing was accepted for as long, or OTEL_EXPORTER_OTLP_ENDPOINT is no address.

    A sender is a process that sends. One that watches (deliver --watch) is seen every 30 seconds, any other when it
    sends; one that was not seen for 7 days is forgotten.

    \b
    JSON keys: url; at (the time); outbox: due, retrying, leased, waiting (the sum
    of these), held (runs whose records below still change), open (runs that are
    not final), refused (set aside), expired, oldest, error, refusal, hold;
    oldest_age (seconds, or null: nothing waits); last_success (at, host, pid; or
    null); last_failure (at, host, pid, error; or null); senders (host, pid,
    watching, seen, seen_age in seconds, sent, failed, error), the 100 seen last;
    problems (what needs a person, in words; empty if nothing does).
    """
    output = Output(as_json)
    with open_telemetry(url) as storage:
        overview = look_at(storage.records)
        wrong = storage.export_problem
    problems = problems_of(overview, Limits(max_wait, max_set_aside, max_expired))
    if wrong is not None:
        problems.append(str(wrong))
    if as_json:
        output.document({**_as_json(overview), "problems": problems})
    else:
        output.lines(_lines(overview, output))
    if problems:
        raise Failure("; ".join(problems))


def look_at(records: SqlPipelineStorage) -> Overview:
    """What is in the outbox now, and who was seen."""
    senders = records.outbox.senders
    return Overview(
        url=records.url,
        at=records.clock(),
        outbox=records.outbox.status(),
        senders=senders.latest(_SENDERS_READ),
        watching=senders.last_watching(),
        success=senders.last_success(),
        failure=senders.last_failure(),
    )


def problems_of(overview: Overview, limits: Limits) -> list[str]:
    """What needs a person; nothing, if it is within the limits."""
    outbox = overview.outbox
    problems = []
    if outbox.refused > limits.set_aside:
        problems.append(f"{entries(outbox.refused)} refused for good and set aside: {outbox.refusal}")
    if outbox.expired > limits.expired:
        problems.append(f"{entries(outbox.expired)} expired: too old to be sent")
    if _is_stuck(overview, limits.wait):
        accepted = f"for {_length(overview.age(overview.success.sent))}" if overview.success else "so far"
        reason = outbox.error or ("nobody sends" if not overview.senders else "no attempt has failed")
        problems.append(
            f"{entries(outbox.waiting)} wait{'s' if outbox.waiting == 1 else ''}, "
            f"the oldest for {_length(overview.age(outbox.oldest))}, and nothing was accepted {accepted}: {reason}"
        )
    return problems


def _is_stuck(overview: Overview, wait: timedelta) -> bool:
    """Whether entries wait for too long and none is accepted: a long backlog that shrinks needs nobody."""
    if overview.outbox.oldest is None or overview.age(overview.outbox.oldest) <= wait:
        return False
    return overview.success is None or overview.age(overview.success.sent) > wait


def _as_json(overview: Overview) -> dict[str, Any]:
    success, failure, oldest = overview.success, overview.failure, overview.outbox.oldest
    return {
        "url": overview.url,
        "at": text.iso(overview.at),
        "outbox": outbox_as_json(overview.outbox),
        "oldest_age": None if oldest is None else text.seconds(overview.age(oldest)),
        "last_success": success and {"at": text.iso(success.sent), "host": success.host, "pid": success.pid},
        "last_failure": failure
        and {"at": text.iso(failure.failed), "host": failure.host, "pid": failure.pid, "error": failure.error},
        "senders": [
            {
                "host": sender.host,
                "pid": sender.pid,
                "watching": sender.is_watching,
                "seen": text.iso(sender.seen),
                "seen_age": text.seconds(overview.age(sender.seen)),
                "sent": text.iso(sender.sent),
                "failed": text.iso(sender.failed),
                "error": sender.error or None,
            }
            for sender in overview.senders
        ],
    }


def _lines(overview: Overview, output: Output) -> Iterator[Text]:
    yield from _figures(overview, output)
    yield Text()
    yield from _events(overview, output)
    if overview.senders:
        yield Text()
        yield from _table(overview, output)


def _figures(overview: Overview, output: Output) -> Iterator[Text]:
    """A line for each figure: its name, the number and, if there are any, what it means."""
    outbox = overview.outbox
    figures = [
        (
            "waiting",
            outbox.waiting,
            f"entries of the outbox, the oldest for {_length(overview.age(outbox.oldest))}",
            "",
        ),
        ("  due", outbox.due, "to be sent now", ""),
        ("  retrying", outbox.retrying, f"to be tried again: {outbox.error or 'the last attempt failed'}", "yellow"),
        ("  leased", outbox.leased, "in the hands of a sender", ""),
        ("held back", outbox.held, f"finished runs, for: {outbox.hold or 'the records below'}", ""),
        ("open", outbox.open, "runs that are not finished yet", ""),
        ("set aside", outbox.refused, f"refused for good: {outbox.refusal or 'no reason was given'}", "red"),
        ("expired", outbox.expired, "too old to be sent", "red"),
    ]
    width = max(len(text.grouped(count)) for _, count, _, _ in figures)
    for name, count, meaning, style in figures:
        number = text.grouped(count).rjust(width)
        line = Text.assemble((name.ljust(_LABEL), "dim"), _GAP, (number, f"bold {style}".strip() if count else "dim"))
        if count:
            line.append(_GAP + _fitting(meaning, output, _LABEL + width + 2 * len(_GAP)))
        yield line


def _events(overview: Overview, output: Output) -> Iterator[Text]:
    """What happened last, and to whom."""
    success, failure, watching = overview.success, overview.failure, overview.watching

    def name(sender: SeenSender) -> str:
        return f"{text.cut(one_line(sender.host), _HOST, output.glyphs.ellipsis)}, pid {sender.pid}"

    events = [
        ("accepted", success and f"{_ago(overview, success.sent)}, by {name(success)}", "never"),
        ("failed", failure and f"{_ago(overview, failure.failed)}: {failure.error}", "never"),
        (
            "watching",
            watching and f"{name(watching)}, seen {_ago(overview, watching.seen)}",
            "nobody; in production run: otel-storage deliver --watch",
        ),
    ]
    for label, event, nothing in events:
        meaning = _fitting(event or nothing, output, _LABEL + len(_GAP))
        yield Text.assemble((label.ljust(_LABEL), "dim"), _GAP, (meaning, "" if event else "dim"))


def _table(overview: Overview, output: Output) -> Iterator[Text]:
    """The senders: which process, whether it watches, and when it was seen, succeeded and failed."""
    shown = overview.senders[:_SENDERS_SHOWN]
    rows = [
        (
            one_line(sender.host),
            str(sender.pid),
            "yes" if sender.is_watching else "",
            _ago(overview, sender.seen),
            _ago(overview, sender.sent),
            _ago(overview, sender.failed),
        )
        for sender in shown
    ]
    yield from tables.lines(_COLUMNS, rows, output.width, output.glyphs.ellipsis)
    if len(overview.senders) > len(shown):
        yield Text("and more; --json lists the 100 seen last", style="dim")


_COLUMNS = (
    Column(heading="SENDER", shrinks=1, least=8),
    Column(heading="PID"),
    Column(heading="WATCHES"),
    Column(heading="SEEN"),
    Column(heading="ACCEPTED"),
    Column(heading="FAILED"),
)


def _fitting(words: str, output: Output, taken: int) -> str:
    return text.cut(one_line(words), output.width - taken, output.glyphs.ellipsis)


def _ago(overview: Overview, moment: datetime | None) -> str:
    return "" if moment is None else f"{_length(overview.age(moment))} ago"


def _length(age: timedelta) -> str:
    """An age in whole seconds, or in two units."""
    seconds = round(age.total_seconds())
    return f"{seconds} s" if seconds < 60 else text.duration(timedelta(seconds=seconds))
