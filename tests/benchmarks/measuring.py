"""What the benchmarks share: databases, the host's ORM storage, and a table of ratios."""

from __future__ import annotations

import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from sqlalchemy import URL, create_engine, make_url, text

Prepared = Callable[[], tuple[Callable[[], object], Callable[[], object]]]
"""Makes everything ready, untimed; of the two that it returns the first is timed, the second cleans up."""


class NullReporter:
    """Is told, and does nothing."""

    def report_context_object(self, *_: object) -> None:
        """Do nothing."""

    report_pipeline_execution = report_pipeline_result = report_context_object
    report_task_execution = report_task_result = report_context_object


class Databases:
    """Fresh databases on one engine: files in a folder, or databases of a server."""

    def __init__(self, url: str | None) -> None:
        self._server = make_url(url) if url else None
        self._folder = tempfile.TemporaryDirectory()
        self._names: list[str] = []
        self._count = 0

    @property
    def engine(self) -> str:
        """The engine's name."""
        return self._server.get_backend_name() if self._server else "sqlite"

    def fresh(self) -> URL:
        """An empty database."""
        if self._server is None:
            return self.fresh_file()
        name = self._name()
        self._admin(f"CREATE DATABASE {name}")
        self._names.append(name)
        return self._server.set(database=name)

    def fresh_file(self) -> URL:
        """A SQLite file that does not exist yet, whatever the engine is."""
        return URL.create("sqlite", database=str(Path(self._folder.name) / f"{self._name()}.db"))

    def _name(self) -> str:
        self._count += 1
        return f"benchmark_{os.getpid()}_{self._count}"

    def drop(self) -> None:
        """Remove them all."""
        for name in self._names:
            self._admin(f"DROP DATABASE {name}{' WITH (FORCE)' if self.engine == 'postgresql' else ''}")
        self._folder.cleanup()

    def _admin(self, statement: str) -> None:
        assert self._server is not None
        engine = create_engine(self._server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()


@contextmanager
def databases(url: str | None) -> Iterator[Databases]:
    """Fresh databases, removed afterwards."""
    logging.getLogger("otel_storage").setLevel(logging.ERROR)
    # No collector: what is measured is the run.
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    made = Databases(url)
    try:
        yield made
    finally:
        made.drop()


def best_of(contenders: dict[str, Prepared], repeat: int) -> dict[str, float]:
    """The shortest seconds of each, taken in turns, so that all meet the same weather."""
    seconds = dict.fromkeys(contenders, float("inf"))
    for _ in range(repeat):
        for name, prepare in contenders.items():
            work, clean_up = prepare()
            began = time.perf_counter()
            work()
            seconds[name] = min(seconds[name], time.perf_counter() - began)
            clean_up()
    return seconds


def medians_of(contenders: dict[str, Prepared], repeat: int) -> dict[str, float]:
    """The median seconds of each, taken in turns, so that all meet the same weather."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeat):
        for name, prepare in contenders.items():
            work, clean_up = prepare()
            began = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began)
            clean_up()
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def print_ratios(title: str, rows: list[dict[str, Any]], columns: dict[str, str], as_json: bool) -> None:
    """A table of the rows, or JSON."""
    if as_json:
        click.echo(json.dumps({"title": title, "rows": rows}))
        return
    table = Table(title=title)
    for name, heading in columns.items():
        table.add_column(heading, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:,.2f}" for value in (row[c] for c in columns)))
    Console(width=100).print(table)


def _django_engine(backend: str) -> str:
    if backend == "postgresql":
        return "django.db.backends.postgresql"
    import pymysql

    # Django asks for mysqlclient, which PyMySQL can stand in for.
    pymysql.install_as_MySQLdb()
    return "django.db.backends.mysql"


class Host:
    """The host's ORM storage on a database of its own, in this process."""

    def __init__(self, url: URL) -> None:
        import django
        from django.conf import settings

        if url.get_backend_name() == "sqlite":
            database: dict[str, Any] = {"ENGINE": "django.db.backends.sqlite3", "NAME": url.database}
        else:
            database = {
                "ENGINE": _django_engine(url.get_backend_name()),
                "NAME": url.database,
                "USER": url.username,
                "PASSWORD": url.password,
                "HOST": url.host,
                "PORT": url.port,
            }
        settings.configure(
            INSTALLED_APPS=["django.contrib.contenttypes", "pipelines"],
            DATABASES={"default": database},
            USE_TZ=True,
            LOGGING_CONFIG=None,
        )
        django.setup()
        from django.core.management import call_command
        from pipelines.results.orm import OrmPipelineResultsStorage

        call_command("migrate", verbosity=0)
        self.storage: Any = OrmPipelineResultsStorage()

    def pipeline(self, id_: str, tasks: int, per_task: int, per_pipeline: int) -> Any:
        """A pipeline of the host's own classes, which its storage loads by their ids."""
        from pipelines.base import Pipeline
        from pipelines.tasks.base import Task

        meta = type("Meta", (), {"app_label": "benchmarks"})

        def objects(number: int) -> Any:
            return classmethod(lambda _: list(range(number)) if number > 1 else None)

        task: Any = type(f"{id_}Task", (Task,), {"Meta": meta, "get_iterator": objects(per_task)})
        named = {f"task_{number}": task() for number in range(tasks)}
        pipeline: Any = type(id_, (Pipeline,), {"Meta": meta, "get_iterator": objects(per_pipeline), **named})
        return pipeline()
