"""``otel-storage metrics``: print the metrics, serve them to Prometheus, or push them over OTLP."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from otel_storage.cli import text
from otel_storage.cli.options import json_option, open_records, parse_age, url_option
from otel_storage.cli.output import Output, saying_log
from otel_storage.ports.totals import MOST_SERIES, Histogram
from otel_storage.results import clock

if TYPE_CHECKING:
    from otel_storage.metrics.otlp import Pusher
    from otel_storage.metrics.points import FamilyPoints
    from otel_storage.metrics.reading import Reader
    from otel_storage.sql.storage import SqlPipelineStorage

    Tell = Callable[[str], None]

_SLICE = 0.1
"""Seconds that a pause is slept at a time, so that a signal ends it."""

_COUNT_INTERVAL = 1.0
"""Seconds between two looks for what is to be counted, so that little is left when the metrics are read."""


def _address(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, int] | None:
    if value is None:
        return None
    from otel_storage.metrics.exposition import parse_address

    try:
        return parse_address(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _interval(_context: click.Context, _option: click.Parameter, value: str) -> timedelta:
    age = parse_age(value)
    if not age:
        raise click.BadParameter(f"{value!r} is not a time such as 10s or 1m")
    return age


def address_option(name: str, parameter: str, words: str) -> Callable[[Any], Any]:
    """An option that takes where to listen."""
    return click.option(name, parameter, metavar="HOST:PORT", callback=_address, help=words)


@click.command()
@address_option(
    "--serve",
    "serve",
    "Stay, and serve /metrics and /health for Prometheus to scrape. Without a host, on the loopback.",
)
@click.option("--push", is_flag=True, help="Stay, and push to $OTEL_EXPORTER_OTLP_(METRICS_)ENDPOINT.")
@click.option(
    "--interval",
    metavar="TIME",
    callback=_interval,
    default="10s",
    show_default=True,
    help="How often to push: 10s, 1m.",
)
@click.option(
    "--max-series",
    metavar="N",
    type=click.IntRange(1),
    default=MOST_SERIES,
    show_default=True,
    help="How many pipelines and tasks are told apart; the others are one series, otel_metric_overflow.",
)
@url_option
@json_option
def metrics(
    serve: tuple[str, int] | None, push: bool, interval: timedelta, max_series: int, url: str | None, as_json: bool
) -> None:
    """Print, serve or push the metrics of the runs and of their delivery.

    They are made from the database, and exact whoever died: what finished and was not counted yet is counted first.
    With --serve or --push until SIGTERM or Ctrl-C; an outage of the database or of the endpoint does not end it, and
    is told once.

    Where they are served or pushed, a series that is new is shown for 10 seconds as it began, mostly at 0, so that
    the first failure ever is a growth. Printed, they are as they are.

    \b
    JSON keys: at (the time); metrics: name, unit, kind, description, points:
    attributes and value, or, of a histogram, count, sum, bounds and counts (by
    bucket; the last is above all bounds).
    """
    output = Output(as_json)
    with open_records(url) as records:
        from otel_storage.metrics.reading import Reader

        if serve is None and not push:
            # A person, or a program that is called once, derives no growth from it.
            _print_once(Reader(records.totals, most_series=max_series, as_shown=False), output)
            return
        with telling(records, output.say, serve=serve, push=push, interval=interval, max_series=max_series) as exposed:
            _stay(exposed)


class Exposed:
    """What serves or pushes metrics meanwhile.

    Args:
        reader: Gives them.
        pusher: Pushes them; None if they are not pushed.
        interval: Seconds between two pushes.
    """

    def __init__(self, reader: Reader, pusher: Pusher | None, interval: float) -> None:
        from otel_storage.metrics.troubles import Troubles

        self._reader = reader
        self._pusher = pusher
        self._interval = interval
        self._troubles = Troubles("finished records cannot be counted", "finished records are counted again")
        self._next_push = self._next_count = time.monotonic()

    def work(self) -> None:
        """Count and push, if it is time; never raises what the database or the endpoint does."""
        now = time.monotonic()
        if now >= self._next_count:
            with self._troubles.told():
                self._reader.count(_COUNT_INTERVAL)
            self._next_count = time.monotonic() + _COUNT_INTERVAL
        if self._pusher is not None and now >= self._next_push:
            self._pusher.push()
            # One that took long does not make the next ones come in a row.
            self._next_push = max(self._next_push + self._interval, time.monotonic())

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Count and push by a thread meanwhile: what else the process does may take long."""
        stopped = threading.Event()

        def run() -> None:
            while not stopped.is_set():
                self.work()
                stopped.wait(_SLICE)

        thread = threading.Thread(target=run, name="otel-storage-metrics-push", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


@contextmanager
def telling(
    records: SqlPipelineStorage,
    say: Tell,
    *,
    serve: tuple[str, int] | None,
    push: bool,
    interval: timedelta = timedelta(seconds=10),
    max_series: int = MOST_SERIES,
) -> Iterator[Exposed]:
    """Serve the metrics meanwhile; push them by :meth:`Exposed.work`."""
    from otel_storage.metrics.otlp import Pusher
    from otel_storage.metrics.reading import Reader

    reader = Reader(records.totals, most_series=max_series)
    with ExitStack() as stack:
        pusher = None
        if serve is not None:
            from otel_storage.metrics.exposition import serving

            say(f"Serving metrics at {stack.enter_context(serving(reader, *serve)).url}; Ctrl-C ends it.")
        if push:
            pusher = Pusher(reader)
            stack.callback(pusher.close)
            say(f"Pushing metrics to {pusher.endpoint} every {text.duration(interval)}; Ctrl-C ends it.")
        stack.enter_context(saying_log(say, "otel_storage.metrics", logging.INFO))
        yield Exposed(reader, pusher, interval.total_seconds())


def _stay(exposed: Exposed) -> None:
    stopped: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    try:
        while not stopped:
            exposed.work()
            time.sleep(_SLICE)
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_once(reader: Reader, output: Output) -> None:
    if output.as_json:
        reader.count()
        output.document({"at": text.iso(clock.now()), "metrics": [_as_json(one) for one in reader.read()]})
        return
    from otel_storage.metrics.exposition import check_installed, render

    check_installed()
    reader.count()
    click.echo(render(reader.read())[0].decode(), nl=False)


def _as_json(one: FamilyPoints) -> dict[str, Any]:
    from otel_storage.metrics.points import sorted_points

    return {
        "name": one.family.name,
        "unit": one.family.unit,
        "kind": one.family.kind.value,
        "description": one.family.description,
        "points": [
            {"attributes": dict(attributes), **_value(point.value)} for attributes, point in sorted_points(one.points)
        ],
    }


def _value(value: float | Histogram) -> dict[str, Any]:
    if not isinstance(value, Histogram):
        return {"value": value}
    from otel_storage.ports.totals import BOUNDS

    bounds: Sequence[float] = BOUNDS
    return {
        "count": value.count,
        "sum": value.total / 1_000_000,
        "bounds": list(bounds),
        "counts": list(value.counts),
    }
