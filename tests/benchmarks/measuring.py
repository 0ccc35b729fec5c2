"""What the benchmarks share: databases, the host's ORM storage, and a table of ratios."""

from __future__ import annotations

import gc
import json
import logging
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import click
from rich.console import Console
from rich.table import Table
from sqlalchemy import URL, create_engine, event, make_url, text

from tests.benchmarks import history

Prepared = Callable[[], tuple[Callable[[], object], Callable[[], object]]]
"""Makes everything ready, untimed; of the two that it returns the first is timed, the second cleans up."""


class NullReporter:
    """Is told, and does nothing."""

    def report_context_object(self, *_: object) -> None:
        """Do nothing."""

    report_pipeline_execution = report_pipeline_result = report_context_object
    report_task_execution = report_task_result = report_context_object


class Databases:
    """Fresh databases on one engine: files in a folder, or databases of a server.

    Can be sent to another process, which makes databases of its own.
    """

    def __init__(self, url: str | URL | None, folder: Path, shared: Databases | None = None) -> None:
        self.server = make_url(url) if url else None
        self._folder = folder
        self._names: list[str] = []
        self._shared = shared
        self.histories: dict[int, URL] = {} if shared is None else shared.histories
        """The long histories that were made, by the number of their runs."""

    @property
    def engine(self) -> str:
        """The engine's name."""
        return self.server.get_backend_name() if self.server else "sqlite"

    def fresh(self) -> URL:
        """An empty database."""
        if self.server is None:
            return self.fresh_file()
        name = f"benchmark_{uuid.uuid4().hex}"
        self._admin(f"CREATE DATABASE {name}")
        self._names.append(name)
        return self.server.set(database=name)

    def fresh_file(self) -> URL:
        """A SQLite file that does not exist yet, whatever the engine is."""
        return URL.create("sqlite", database=str(self._folder / f"{uuid.uuid4().hex}.db"))

    def history(self, runs: int) -> URL:
        """A database with so many runs, made once for all benchmarks of one command; see :mod:`history`.

        It is read, and never written to.
        """
        if runs not in self.histories:
            url = (self._shared or self).fresh()
            history.fill(url, runs)
            self.histories[runs] = url
        return self.histories[runs]

    def remove(self, url: URL) -> None:
        """Remove one that is no longer needed: some are large."""
        if self.server is None:
            Path(str(url.database)).unlink()
        else:
            self._names.remove(str(url.database))
            self._drop(str(url.database))

    def adopt(self, histories: dict[int, URL]) -> None:
        """Take over those that another process made."""
        self.histories.update(histories)
        if self.server is not None:
            self._names = list({*self._names, *(str(url.database) for url in self.histories.values())})

    def drop(self) -> None:
        """Remove those on a server; files go with the folder they are in."""
        while self._names:
            self._drop(self._names.pop())

    def _drop(self, name: str) -> None:
        self._admin(f"DROP DATABASE IF EXISTS {name}{' WITH (FORCE)' if self.engine == 'postgresql' else ''}")

    def _admin(self, statement: str) -> None:
        assert self.server is not None
        engine = create_engine(self.server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()


@contextmanager
def counted(storage: Any) -> Iterator[list[str]]:
    """The statements of a storage of ours that are executed meanwhile; those that begin and end a transaction are none.

    Of an ``OtelPipelineStorage`` those of its records.
    """
    statements: list[str] = []
    engine = getattr(storage, "records", storage).database.engine

    def execute(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            statements.append(statement)

    event.listen(engine, "before_cursor_execute", execute)
    yield statements
    event.remove(engine, "before_cursor_execute", execute)


@contextmanager
def databases(url: str | URL | None, shared: Databases | None = None) -> Iterator[Databases]:
    """Fresh databases, removed afterwards; histories are made among the shared ones, and removed with those."""
    with _without_collector(), tempfile.TemporaryDirectory() as folder:
        made = Databases(url, Path(folder), shared)
        try:
            yield made
        except BaseException:
            if shared is not None:
                shared.drop()
            raise
        finally:
            made.drop()


@contextmanager
def _without_collector() -> Iterator[None]:
    """Nothing that listens, and nobody told of it: what is measured is the run."""
    logger = logging.getLogger("otel_storage")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with mock.patch.dict(os.environ, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9"):
            yield
    finally:
        logger.setLevel(level)


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
    """The median seconds of each, taken in turns, so that all meet the same weather.

    Memory is collected before each: to collect all that there is takes as long as hundreds of changes of state, and it
    came upon one of them at every second turn, and upon others never.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeat):
        for name, prepare in contenders.items():
            work, clean_up = prepare()
            gc.collect()
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
    """The host's ORM storage on a database of its own, in this process; the one made last is the one in use."""

    def __init__(self, url: URL) -> None:
        import django
        from django.conf import settings
        from django.db import connections

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
        if settings.configured:
            connections["default"].close()
            del connections["default"]
            connections.settings = connections.configure_settings({"default": database})
        else:
            settings.configure(
                INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.humanize", "pipelines"],
                DATABASES={"default": database},
                TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
                USE_TZ=True,
                LOGGING_CONFIG=None,
            )
            django.setup()
        from django.core.management import call_command
        from pipelines.results.orm import OrmPipelineResultsStorage

        call_command("migrate", verbosity=0)
        self.storage: Any = OrmPipelineResultsStorage()

    @contextmanager
    def counted(self) -> Iterator[list[Any]]:
        """The queries of Django's that are executed meanwhile."""
        from django.db import connection
        from django.test.utils import CaptureQueriesContext

        queries: list[Any] = []
        with CaptureQueriesContext(connection) as captured:
            yield queries
        queries += captured.captured_queries

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
