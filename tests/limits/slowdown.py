"""What an endpoint costs a run: ``python -m tests.limits.slowdown``.

The same runs with an endpoint that works, one that accepts connections and never answers, and none at all, in turns;
the ratio is to the one that works. The receiver is a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from otel_storage.composite import OtelPipelineStorage
from tests.benchmarks.measuring import Databases, Prepared, best_of, databases, print_ratios
from tests.limits import runs
from tests.limits.backlog import receive
from tests.limits.sockets import BlackHole


@click.command()
@click.option("--url", help="A PostgreSQL whose user may create databases; else SQLite files.")
@click.option("--runs", "number", default=20, show_default=True, help="Runs of 50 task results, each time.")
@click.option("--repeat", default=5, show_default=True, help="The best of so many is taken.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(url: str | None, number: int, repeat: int, as_json: bool) -> None:
    """Measure, and print a table."""
    with databases(url) as fresh:
        with _receiver() as healthy, BlackHole() as hole:
            endpoints = {
                "works": healthy,
                "accepts and never answers": hole.endpoint,
                "is closed": "http://127.0.0.1:9",
            }
            contenders = {name: _contender(fresh, endpoint, number) for name, endpoint in endpoints.items()}
            best = best_of(contenders, repeat)
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                # A sender that waited for the answer.
                thread.join(15)
        rows = [
            {"endpoint": name, "milliseconds": 1000 * seconds / number, "ratio": seconds / best["works"]}
            for name, seconds in best.items()
        ]
        columns = {"endpoint": "an endpoint that", "milliseconds": "ms a run", "ratio": "x"}
        print_ratios(f"a run of 50 task results, {fresh.engine}", rows, columns, as_json)


def _contender(fresh: Databases, endpoint: str, number: int) -> Prepared:
    def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
        storage = OtelPipelineStorage(url=fresh.fresh())
        storage.records.upgrade()
        runs.run(storage)
        # By then what does not answer has a request.
        storage.flush(0.7)

        def work() -> None:
            for _ in range(number):
                runs.run(storage, objects=range(50))

        def clean_up() -> None:
            # Without what is left: that would be five seconds of waiting, each time.
            storage.delivery.close(0.1)
            storage.close()

        return work, clean_up

    return prepare


@contextmanager
def _receiver() -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=receive, args=(there,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        process.terminate()


if __name__ == "__main__":
    main()
