"""System checks: what is wrong with the configured storage, and what mends it.

They raise nothing, start no sender, write to no database and create no SQLite file. A storage of somebody else's is
nothing to check.
"""

from __future__ import annotations

import inspect
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from django.apps import apps
from django.conf import settings
from django.core.checks import ERROR, CheckMessage, Error, Info, Warning

from otel_storage.results import config, host
from otel_storage.results.exceptions import ConfigurationError, DatabaseUnavailable

if TYPE_CHECKING:
    from otel_storage.results.base import PipelineStorage
    from otel_storage.sql.database.engine import Database
    from otel_storage.sql.storage import SqlPipelineStorage

DEADLINE = 15.0
"""Seconds that a database has to answer; one that cannot be connected to has 10 before."""

WATCHING_UNTIL = timedelta(minutes=5)
"""A process that watches and was not heard of for so long is taken for dead."""

_HOST_APP = "pipelines"

Check = Callable[..., Sequence[CheckMessage]]


def _guarded(check: Check) -> Check:
    """Whatever else goes wrong in a check is a message too."""

    @wraps(check)
    def run(app_configs: Any = None, **kwargs: Any) -> Sequence[CheckMessage]:
        if app_configs is not None and all(app.label != "otel_storage" for app in app_configs):
            return []
        try:
            return check(**kwargs)
        except Exception as error:  # noqa: BLE001 - a check never fails the command that runs it
            return [
                Warning(
                    f"The configured storage could not be checked: {_words(error)}",
                    hint="Run otel-storage status, or start a shell and call "
                    "otel_storage.results.helpers.get_pipeline_results_storage().",
                    id="otel_storage.W004",
                )
            ]

    return run


@_guarded
def check_setting(**_kwargs: Any) -> Sequence[CheckMessage]:
    """What can be told without asking a database."""
    try:
        setting = _setting()
    except Exception as error:  # noqa: BLE001 - importing the storage runs anybody's code
        return [
            Error(
                _words(error) if isinstance(error, ConfigurationError) else f"{config.SETTING}: {_words(error)}",
                hint=f'Set it to "{config.DEFAULT}", or to a pair of that path and a dict of its arguments.',
                id="otel_storage.E001",
            )
        ]
    if setting is None:
        return []
    messages = [*_argument_errors(setting)]
    if not _has_error(messages):
        messages += _opening_errors(setting)
    return [*messages, *_order_warning(setting), *_switched_off(setting)]


@_guarded
def check_database(databases: Any = None, **_kwargs: Any) -> Sequence[CheckMessage]:
    """What the storage's database says; asked where Django asks its own databases, too.

    Warnings, all of it: an error would keep ``manage.py migrate`` from bringing up Django's own databases.
    """
    if not databases:
        return []
    try:
        setting = _setting()
        if setting is None or _has_error([*_argument_errors(setting)]) or _has_error([*_opening_errors(setting)]):
            return []
    except Exception:  # noqa: BLE001 - check_setting tells
        return []
    with _opened(setting) as storage:
        return [] if storage is None else _in_time(lambda: _database_messages(_records(storage), setting))


@dataclass(frozen=True, slots=True)
class _Setting:
    """A storage of ours that is configured."""

    cls: type[PipelineStorage]
    kwargs: dict[str, Any]

    @property
    def path(self) -> str:
        return f"{self.cls.__module__}.{self.cls.__qualname__}"

    @property
    def makes_spans(self) -> bool:
        from otel_storage.composite import OtelPipelineStorage

        return issubclass(self.cls, OtelPipelineStorage)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments, with the defaults of those that are not given.

        Raises:
            TypeError: they are not what the class takes.
        """
        bound = inspect.signature(self.cls).bind(**self.kwargs)
        bound.apply_defaults()
        return bound.arguments


def _setting() -> _Setting | None:
    """What is configured; None if it is somebody else's.

    Raises:
        Exception: it cannot be loaded.
    """
    cls, kwargs = config.configured_storage()
    from otel_storage.composite import OtelPipelineStorage
    from otel_storage.sql.storage import SqlPipelineStorage

    return _Setting(cls, kwargs) if issubclass(cls, (OtelPipelineStorage, SqlPipelineStorage)) else None


# --- the setting ---


def _has_error(messages: Sequence[CheckMessage]) -> bool:
    return any(message.level >= ERROR for message in messages)


def _argument_errors(setting: _Setting) -> Iterator[CheckMessage]:
    try:
        arguments = setting.arguments
    except TypeError as error:
        yield _refused(f"{config.SETTING}: {setting.path} does not take these arguments: {error}")
        return
    yield from _url_errors(arguments)
    yield from _address_errors(arguments)
    if setting.makes_spans:
        yield from _endpoint_errors(arguments)


def _refused(words: str) -> CheckMessage:
    return Error(
        words,
        hint=f"Correct the arguments in {config.SETTING}; help(otel_storage.OtelPipelineStorage) tells what they are.",
        id="otel_storage.E002",
    )


def _url_errors(arguments: dict[str, Any]) -> Iterator[CheckMessage]:
    from otel_storage.sql.database.engine import Database

    for url in _urls(arguments):
        try:
            database = Database(url)
        except ConfigurationError as error:
            if isinstance(error.__cause__, ModuleNotFoundError):
                yield Error(
                    _words(error),
                    hint="Install it where Django runs, or name a driver in the URL that is installed.",
                    id="otel_storage.E004",
                )
            else:
                yield Error(
                    _words(error),
                    hint=f"Correct the URL in {config.SETTING} or in the environment variable OTEL_STORAGE_URL.",
                    id="otel_storage.E003",
                )
        else:
            yield from _sharing_warning(database)


def _urls(arguments: dict[str, Any]) -> list[Any]:
    """The URL that the storage will use, where it uses one; None is the default's."""
    storage = arguments.get("storage")
    if storage is None:
        return [] if arguments.get("engine") is not None else [arguments.get("url")]
    if not _is_spec(storage):
        return []
    from otel_storage.sql.storage import SqlPipelineStorage

    try:
        cls, kwargs = config.storage_class(storage, "storage")
    except Exception:  # noqa: BLE001 - told where the storage is opened
        return []
    return _urls(kwargs) if issubclass(cls, SqlPipelineStorage) else [arguments.get("outbox_url")]


def _sharing_warning(database: Database) -> Iterator[CheckMessage]:
    file = _file(database)
    if file is None:
        return
    for alias, django_database in settings.DATABASES.items():
        name = django_database.get("NAME")
        is_sqlite = str(django_database.get("ENGINE", "")).endswith("sqlite3")
        if is_sqlite and name and Path(name).resolve() == file.resolve():
            yield Warning(
                f"The storage's SQLite file is that of Django's own database {alias!r}: {file}",
                hint="Give the storage a file of its own, e.g. sqlite:///otel_storage.db: while one of the two holds a "
                'transaction that writes, the other waits, and may fail with "database is locked".',
                id="otel_storage.W001",
            )


def _address_errors(arguments: dict[str, Any]) -> Iterator[CheckMessage]:
    from otel_storage.telemetry.recording import Recording

    examples = {"trace_url": "http://jaeger:16686/trace/{trace_id}", "run_url": "https://example.com/{run_id}/results/"}
    for name, example in examples.items():
        if arguments.get(name) is None:
            continue
        try:
            Recording(lambda: None, **{name: arguments[name]})
        except ConfigurationError as error:
            yield Error(
                f"{config.SETTING}: {_words(error)}", hint=f"Use an address such as {example}", id="otel_storage.E005"
            )


def _endpoint_errors(arguments: dict[str, Any]) -> Iterator[CheckMessage]:
    """What OpenTelemetry's variables say that no span can be sent by."""
    from otel_storage.telemetry.otlp.exporter import problem_of
    from otel_storage.telemetry.spans.run_trace import is_disabled

    problem = None if is_disabled() else problem_of(arguments.get("exporter"))
    if problem is not None:
        yield Error(
            _words(problem),
            hint="Set it where Django runs, and where spans are sent; they are kept until it is right.",
            id="otel_storage.E006",
        )


def _opening_errors(setting: _Setting) -> Iterator[CheckMessage]:
    """What the storage itself says of its arguments."""
    try:
        with _opened(setting):
            pass
    except Exception as error:  # noqa: BLE001 - arguments are anybody's objects
        yield _refused(f"{config.SETTING}: {_words(error)}")


def _order_warning(setting: _Setting) -> Iterator[CheckMessage]:
    names = [app.name for app in apps.get_app_configs()]
    ours = apps.get_app_config("otel_storage").name
    if setting.kwargs.get("trace_url") and _HOST_APP in names[: names.index(ours)]:
        yield Warning(
            f"{ours} comes after {_HOST_APP} in INSTALLED_APPS: the results page of a run has no link to its trace",
            hint=f'Put "{ours}" before "{_HOST_APP}": of two templates of one name, that of the first app is used.',
            id="otel_storage.W002",
        )


def _switched_off(setting: _Setting) -> Iterator[CheckMessage]:
    from otel_storage.telemetry.spans.run_trace import is_disabled

    if setting.makes_spans and is_disabled():
        given = [f"{name}={os.environ[name]}" for name in _SWITCHES if os.environ.get(name)]
        yield Info(
            f"Telemetry is switched off by {' and '.join(given)}: runs are stored, and make no traces",
            hint='Unset it, or silence this: SILENCED_SYSTEM_CHECKS = ["otel_storage.I001"].',
            id="otel_storage.I001",
        )


_SWITCHES = ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER")


# --- the storage ---


@contextmanager
def _opened(setting: _Setting) -> Iterator[PipelineStorage | None]:
    """The storage of this process, else one for the while that sends nothing; None if none can be had so.

    Raises:
        ConfigurationError: it refuses its arguments.
    """
    used = _storage_in_use()
    if used is not None:
        yield used if type(used) is setting.cls else None
        return
    kwargs = setting.kwargs
    if setting.makes_spans:
        is_safe = "delivery" in inspect.signature(setting.cls).parameters
        # An instance is the project's: it must not be closed, nor be found in use by the storage that is made later.
        if not is_safe or not (kwargs.get("storage") is None or _is_spec(kwargs["storage"])):
            yield None
            return
        # What is not one of the two names is left for the storage to refuse.
        if setting.arguments["delivery"] == "thread":
            kwargs = {**kwargs, "delivery": "external"}
    storage = config.instantiate(setting.cls, kwargs, config.SETTING, setting.path)
    try:
        yield storage
    finally:
        storage.close()


def _storage_in_use() -> Any:
    """The storage that this process has made, if it has."""
    module = sys.modules.get("pipelines.results.helpers") if host.is_installed() else None
    return getattr(module, "_storage", None)


def _records(storage: PipelineStorage) -> SqlPipelineStorage:
    # The setting was checked: the storage is one of the two of ours.
    records: Any = getattr(storage, "records", storage)
    return cast("SqlPipelineStorage", records)


def _is_spec(value: object) -> bool:
    return isinstance(value, (str, tuple, list))


# --- the database ---


def _database_messages(records: SqlPipelineStorage, setting: _Setting) -> Sequence[CheckMessage]:
    file = _file(records.database)
    if file is not None and not file.exists():
        # It is made with the first run.
        problem = _problem_of_folder(file.parent)
        return [_unreachable(problem)] if problem else [*_watching_warning(None, records, setting)]
    if file is None:
        if records.database.dialect == "sqlite":
            return []  # in memory, or an address that only SQLite understands
        return [*_reachable_messages(records.database, records, setting)]
    if not os.access(file, os.W_OK):
        return [_unreachable(f"{file} may not be written by this user")]
    with _read_only(records, file) as database:
        return [*_reachable_messages(database, records, setting)]


def _problem_of_folder(folder: Path) -> str:
    if not folder.is_dir():
        return f"there is no folder {folder}"
    return "" if os.access(folder, os.W_OK) else f"nothing may be written in {folder} by this user"


@contextmanager
def _read_only(records: SqlPipelineStorage, file: Path) -> Iterator[Database]:
    """The SQLite file, to be read alone: our own connections switch a file to WAL and migrate it."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    from otel_storage.sql.database.engine import Database

    address = f"{file.resolve().as_uri()}?mode=ro"
    engine = create_engine(
        records.database.engine.url,
        creator=lambda: sqlite3.connect(address, uri=True, timeout=5.0),
        poolclass=NullPool,
        hide_parameters=True,
    )
    yield Database(engine=engine)


def _reachable_messages(database: Database, records: SqlPipelineStorage, setting: _Setting) -> Iterator[CheckMessage]:
    from sqlalchemy.exc import DBAPIError

    from otel_storage.sql.database.schema import SCHEMA_VERSION

    try:
        version = database.current()
    except DatabaseUnavailable as error:
        yield _unreachable(_words(error))
        return
    except DBAPIError as error:
        yield _unreachable(f"{records.url}: {_words(error.orig or error)}")
        return
    if version == SCHEMA_VERSION:
        yield from _watching_warning(database, records, setting)
    elif message := _schema_message(version, SCHEMA_VERSION, records):
        yield message


def _schema_message(version: str | None, expected: str, records: SqlPipelineStorage) -> CheckMessage | None:
    from otel_storage.sql.database.migrate import known_versions

    if version is not None and version not in known_versions():
        return Warning(
            f"The schema of {records.url} is version {version}, newer than {expected}, which this package works with",
            hint="Run: pip install --upgrade otel-storage",
            id="otel_storage.W007",
        )
    if records.database.dialect == "sqlite":
        return None  # brought up with the first use
    state = "has no schema yet" if version is None else f"has a schema of version {version}, older than {expected}"
    return Warning(
        f"The storage's database {records.url} {state}",
        hint="Run: python manage.py otel_storage_migrate",
        id="otel_storage.W006",
    )


def _unreachable(cause: str) -> CheckMessage:
    return Warning(
        f"The storage's database cannot be used: {cause}",
        hint=f"Mend the database, or its URL in {config.SETTING} or OTEL_STORAGE_URL: no run can be stored meanwhile.",
        id="otel_storage.W005",
    )


def _watching_warning(
    database: Database | None, records: SqlPipelineStorage, setting: _Setting
) -> Iterator[CheckMessage]:
    """Whether somebody sends what this process leaves to others; without a database nobody was ever seen."""
    from otel_storage.sql.outbox.senders import SqlSenders
    from otel_storage.telemetry.spans.run_trace import is_disabled

    if not setting.makes_spans or setting.arguments.get("delivery") != "external" or is_disabled():
        return
    watching = None if database is None else SqlSenders(database, records.clock).last_watching()
    if watching is not None and records.clock() - watching.seen < WATCHING_UNTIL:
        return
    seen = "has ever been seen" if watching is None else f"was seen since {watching.seen:%Y-%m-%d %H:%M} UTC"
    yield Warning(
        f'Spans are left for another process to send (delivery="external"), and none that does {seen}',
        hint="Run one and keep it running: python manage.py otel_storage_deliver --watch",
        id="otel_storage.W003",
    )


def _in_time(work: Callable[[], Sequence[CheckMessage]]) -> Sequence[CheckMessage]:
    """What the work comes to; a server that never answers is left alone after a while."""
    outcome: list[Sequence[CheckMessage] | Exception] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:  # noqa: BLE001 - raised again where it belongs
            outcome.append(error)

    thread = threading.Thread(target=run, name="otel-storage-check", daemon=True)
    thread.start()
    thread.join(DEADLINE)
    if not outcome:
        return [_unreachable(f"it gave no answer in {DEADLINE:.0f} seconds")]
    [result] = outcome
    if isinstance(result, Exception):
        raise result
    return result


def _file(database: Database) -> Path | None:
    """The database's file, where it is a SQLite file."""
    url = database.engine.url
    is_file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
    return Path(str(url.database)) if is_file and not url.query.get("uri") else None


def _words(error: BaseException) -> str:
    """What the error says, on one line and without secrets."""
    from otel_storage.cli.text import one_line
    from otel_storage.privacy.masking import scrub
    from otel_storage.results.exceptions import OtelStorageError

    words = str(error) if isinstance(error, OtelStorageError) else f"{type(error).__name__}: {error}"
    return one_line(scrub(words))
