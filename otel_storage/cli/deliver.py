"""``otel-storage deliver``: send the spans that wait, and say what still waits and why."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from otel_storage.cli import Failure, text
from otel_storage.cli.metrics import address_option, telling
from otel_storage.cli.options import json_option, open_telemetry, url_option
from otel_storage.cli.output import Output, saying_log
from otel_storage.privacy.lines import one_line
from otel_storage.results import clock
from otel_storage.results.exceptions import DatabaseUnavailable
from otel_storage.runtime.complaints import Complaints

if TYPE_CHECKING:
    from otel_storage.composite import OtelPipelineStorage
    from otel_storage.ports.outbox import OutboxStatus
    from otel_storage.telemetry.delivery.sending import DeliveryReport

_SLICE = 0.1
"""Seconds that a pause is slept at a time, so that a signal ends it."""

_LOOK_SHARE = 20
"""How many times as long as the last look at the outbox took there is none."""


@click.command()
@click.option("--watch", is_flag=True, help="Stay, and send what becomes due, until SIGTERM or Ctrl-C.")
@address_option(
    "--metrics",
    "serve",
    "With --watch: serve the metrics too, for Prometheus to scrape; see otel-storage metrics --serve.",
)
@click.option("--push-metrics", is_flag=True, help="With --watch: push them; see otel-storage metrics --push.")
@url_option
@json_option
def deliver(watch: bool, serve: tuple[str, int] | None, push_metrics: bool, url: str | None, as_json: bool) -> None:
    """Send the spans that wait, until nothing is due.

    What waits is counted in entries of the outbox: one for the span of each finished task result, one for the other
    spans of each run. An entry is removed once the endpoint has accepted its spans.

    Exits 1 if something could not be sent, or was refused or expired.

    \b
    JSON keys: endpoint; sent (spans accepted), refused and expired (entries)
    by this call; error (null: none); outbox: due, retrying, leased, waiting
    (the sum of these), held (runs whose records below still change), open
    (runs that are not final), refused, expired, oldest, error, refusal, hold.
    With --watch one such document a line, each time that something was sent
    or changed, with at (the time).
    """
    if not watch and (serve or push_metrics):
        raise click.UsageError("--metrics and --push-metrics need --watch; otel-storage metrics prints them")
    output = Output(as_json)
    with saying_log(output.say, "otel_storage.telemetry.otlp", logging.WARNING), open_telemetry(url) as storage:
        if watch and (serve or push_metrics):
            with (
                telling(storage.records, output.say, serve=serve, push=push_metrics) as exposed,
                exposed.in_background(),
            ):
                _watch(storage, output)
        elif watch:
            _watch(storage, output)
        else:
            _deliver_once(storage, output)


def _deliver_once(storage: OtelPipelineStorage, output: Output) -> None:
    endpoint = storage.delivery.endpoint
    outbox = storage.records.outbox
    with output.progress("Sending", "entries of the outbox", lambda: outbox.status().waiting) as show:
        report = storage.delivery.deliver_due(lambda each: show(each.settled + each.refused + each.expired))
    status = storage.records.outbox.status()
    if output.as_json:
        output.document(as_json(endpoint, report, status))
    else:
        output.lines(_figures(endpoint, report, status, output))
    complaint = complaint_about(report, status)
    if complaint:
        raise Failure(complaint)


def _watch(storage: OtelPipelineStorage, output: Output) -> None:
    """Deliver until SIGTERM; what fails is told once, and tried again."""
    stopped: list[int] = []
    from sqlalchemy.exc import SQLAlchemyError

    endpoint = storage.delivery.endpoint
    before = signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    output.say(f"Delivering to {endpoint} as spans become due; Ctrl-C ends it.")
    complaints = Complaints()
    is_first, told = True, None
    sent, look_again = 0, 0.0
    try:
        while not stopped:
            pause = storage.delivery.poll_interval
            storage.delivery.watch()
            try:
                # The first time at once, then when each is due.
                report = storage.delivery.deliver_due(retry_now=is_first)
                sent += report.sent
                status = None
                # What it takes grows with the backlog: then what is sent is told together.
                if (began := time.monotonic()) >= look_again:
                    status = storage.records.outbox.status()
                    look_again = time.monotonic() + _LOOK_SHARE * (time.monotonic() - began)
            except (DatabaseUnavailable, SQLAlchemyError) as error:
                # A database that restarts ends no sender.
                if complaints.is_new(cause := one_line(error)):
                    output.say(f"otel-storage: {cause}", style="red")
                told = None
            else:
                complaints.end()
                if status is not None:
                    news = (report.error, status.held, status.open, status.refused, status.expired)
                    if sent or news != told:
                        _tell(endpoint, output, replace(report, sent=sent), status)
                    told, sent = news, 0
                if report.error:
                    pause = max(report.delay.total_seconds(), 1.0)
            is_first = False
            end = time.monotonic() + pause
            while not stopped and time.monotonic() < end:
                time.sleep(_SLICE)
                storage.delivery.watch()
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(endpoint: str, output: Output, report: DeliveryReport, status: OutboxStatus) -> None:
    if output.as_json:
        output.document({"at": text.iso(clock.now()), **as_json(endpoint, report, status)}, compact=True)
        return
    facts = [f"sent {text.plural(report.sent, 'span')}"]
    facts += [f"{text.grouped(count)} {name}" for name, count in _counts(status) if count]
    line = f"{clock.now().astimezone():%H:%M:%S}  {', '.join(facts)}"
    output.lines([Text(line)])
    if report.error:
        output.say(one_line(report.error), style="red")


def as_json(endpoint: str, report: DeliveryReport, status: OutboxStatus) -> dict[str, Any]:
    """The outcome, as ``deliver --json`` documents it."""
    return {
        "endpoint": endpoint,
        "sent": report.sent,
        "refused": report.refused,
        "expired": report.expired,
        "error": report.error or None,
        "outbox": outbox_as_json(status),
    }


def outbox_as_json(status: OutboxStatus) -> dict[str, Any]:
    """What is in the outbox, as ``deliver --json`` and ``status --json`` document it."""
    return {
        "due": status.due,
        "retrying": status.retrying,
        "leased": status.leased,
        "waiting": status.waiting,
        "held": status.held,
        "open": status.open,
        "refused": status.refused,
        "expired": status.expired,
        "oldest": text.iso(status.oldest),
        "error": status.error or None,
        "refusal": status.refusal or None,
        "hold": status.hold or None,
    }


def complaint_about(report: DeliveryReport, status: OutboxStatus) -> str:
    """What is wrong after a delivery; empty if nothing is."""
    if status.waiting:
        reason = report.error or status.error or "another sender holds them"
        return f"{entries(status.waiting)} still wait{'s' if status.waiting == 1 else ''}: {reason}"
    if report.error:
        return report.error
    if report.refused:
        return f"{entries(report.refused)} refused for good and set aside: {status.refusal}"
    if report.expired:
        return f"{entries(report.expired)} expired: too old to be sent"
    return ""


def _figures(endpoint: str, report: DeliveryReport, status: OutboxStatus, output: Output) -> Iterator[Text]:
    """A line for each figure that is not zero: its name, the number and what it means."""
    meanings = {
        "sent": f"{'span' if report.sent == 1 else 'spans'} accepted by {endpoint}",
        "waiting": status.error or "to be sent",
        "held": f"finished {'run' if status.held == 1 else 'runs'}, for: {status.hold or 'the records below'}",
        "open": f"{'run is' if status.open == 1 else 'runs are'} not finished yet",
        "refused": status.refusal or "set aside",
        "expired": "too old to be sent",
    }
    figures = [("sent", report.sent), *_counts(status)]
    shown = [(name, text.grouped(count)) for name, count in figures if count or name in ("sent", "waiting")]
    number_width = max(len(number) for _, number in shown)
    for name, number in shown:
        prefix = f"{name:8} {number.rjust(number_width)}  "
        room = output.width - len(prefix)
        meaning = text.cut(one_line(meanings[name]), room, output.glyphs.ellipsis) if number != "0" else ""
        yield Text.assemble((f"{name:8} ", "dim"), (number.rjust(number_width), "bold"), "  ", meaning)


def _counts(status: OutboxStatus) -> list[tuple[str, int]]:
    return [
        ("waiting", status.waiting),
        ("held", status.held),
        ("open", status.open),
        ("refused", status.refused),
        ("expired", status.expired),
    ]


def entries(count: int) -> str:
    """``1 entry of the outbox``, ``12 345 entries of the outbox``."""
    return f"{text.grouped(count)} {'entry' if count == 1 else 'entries'} of the outbox"
