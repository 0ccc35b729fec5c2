"""What the commands share: ``--url``, ``--json``, and the storage that these lead to."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from otel_storage.results import clock, config
from otel_storage.results.exceptions import ConfigurationError, DatabaseUnavailable

if TYPE_CHECKING:
    from otel_storage.composite import OtelPipelineStorage
    from otel_storage.results.base import PipelineStorage
    from otel_storage.sql.storage import SqlPipelineStorage

Command = TypeVar("Command", bound=Callable[..., Any])

_AGE_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def url_option(command: Command) -> Command:
    """``--url``: another database than the configured one."""
    return click.option(
        "--url",
        metavar="URL",
        help="The database, as a SQLAlchemy URL. Default: that of the configured storage "
        f"({config.SETTING}), else of $OTEL_STORAGE_URL, else sqlite:///otel_storage.db.",
    )(command)


def json_option(command: Command) -> Command:
    """``--json``: data for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(command)


def parse_age(value: str) -> timedelta | None:
    """The time that ``90s``, ``30m``, ``12h``, ``7d`` or ``2w`` means; None for anything else."""
    age = re.fullmatch(r"(\d{1,6})([smhdw])", value)
    return timedelta(**{_AGE_UNITS[age[2]]: int(age[1])}) if age else None


def parse_moment(_context: click.Context, _option: click.Parameter, value: str | None) -> datetime | None:
    """The moment, in UTC, that an age or a date means; a date or time without a zone is local."""
    if value is None:
        return None
    try:
        age = parse_age(value)
        if age is not None:
            return clock.now() - age
        return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is neither an age such as 30m, 12h or 7d nor a date such as 2026-01-31"
        ) from None


def given_options(context: click.Context, without: Collection[str] = ()) -> list[str]:
    """The options of this call, for another of the same command that is suggested, but for those named."""
    given: list[str] = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.name in without or value is None or value in ((), parameter.get_default(context)):
            continue
        if parameter.name == "url":
            given += url_arguments(str(value))
        elif value is True:
            given.append(parameter.opts[0])
        elif isinstance(value, datetime):
            # An age would mean a later moment by then.
            given += [parameter.opts[0], value.isoformat()]
        elif isinstance(value, (tuple, list)):
            given += [word for each in value for word in (parameter.opts[0], str(each))]
        else:
            given += [parameter.opts[0], str(value)]
    return given


def url_arguments(url: str | None) -> list[str]:
    """What a command that is suggested needs to find the same database; a password is not repeated."""
    if url is None:
        return []
    from sqlalchemy import make_url

    from otel_storage.sql.database.urls import display_url

    return ["--url", display_url(make_url(url))]


@contextmanager
def open_records(url: str | None, *, may_create: bool = False) -> Iterator[SqlPipelineStorage]:
    """The records in the database that ``--url`` or the setting names.

    Raises:
        ConfigurationError: the configured storage does not keep its records in our tables.
        DatabaseUnavailable: it is a SQLite file that does not exist; ``may_create`` allows that.
    """
    with open_storage(url, may_create=may_create) as (_storage, records):
        yield records


@contextmanager
def open_storage(url: str | None, *, may_create: bool = False) -> Iterator[tuple[PipelineStorage, SqlPipelineStorage]]:
    """The storage that ``--url`` or the setting names, and the records that it has in our tables.

    Raises:
        ConfigurationError: it has none.
        DatabaseUnavailable: they are in a SQLite file that does not exist; ``may_create`` allows that.
    """
    from otel_storage.sql.storage import SqlPipelineStorage

    storage = _open(url)
    try:
        records = getattr(storage, "records", storage)
        if not isinstance(records, SqlPipelineStorage):
            raise ConfigurationError(
                f"the configured storage is a {type(records).__name__}, whose records this command cannot read; "
                "name a database of ours with --url"
            )
        if not may_create:
            _refuse_missing_file(records)
        yield storage, records
    finally:
        _close(storage)


@contextmanager
def open_telemetry(url: str | None) -> Iterator[OtelPipelineStorage]:
    """The storage with what delivers its spans; no thread of it does so by itself.

    Raises:
        ConfigurationError: the configured storage makes no spans.
        DatabaseUnavailable: it is a SQLite file that does not exist.
    """
    from otel_storage.composite import OtelPipelineStorage

    storage = _open(url)
    try:
        if not isinstance(storage, OtelPipelineStorage):
            raise ConfigurationError(
                f"the configured storage is a {type(storage).__name__}, which makes no spans; "
                f"configure {config.DEFAULT}, or name a database with --url"
            )
        _refuse_missing_file(storage.records)
        yield storage
    finally:
        _close(storage)


def _open(url: str | None) -> PipelineStorage:
    from otel_storage.composite import OtelPipelineStorage

    quiet_logs()
    if url is not None:
        return OtelPipelineStorage(url=url, delivery="external")
    _set_up_django()
    cls, kwargs = config.configured_storage()
    if issubclass(cls, OtelPipelineStorage):
        kwargs = {**kwargs, "delivery": "external"}
    storage: PipelineStorage = config.instantiate(cls, kwargs, config.SETTING, f"{cls.__module__}.{cls.__qualname__}")
    return storage


def _set_up_django() -> None:
    module = os.environ.get("DJANGO_SETTINGS_MODULE")
    registry = sys.modules.get("django.apps")
    if not module or (registry is not None and registry.apps.ready):
        return
    # A project's settings lie beside its manage.py; an entry point does not have that folder on its path.
    sys.path.insert(0, str(Path.cwd()))
    try:
        import django

        django.setup()
    except Exception as error:
        raise ConfigurationError(
            f"Django cannot be set up with DJANGO_SETTINGS_MODULE={module}: {type(error).__name__}: {error}"
        ) from error


def quiet_logs() -> None:
    """What goes wrong is told by the commands themselves, once."""
    logging.getLogger("otel_storage").addHandler(logging.NullHandler())


def _refuse_missing_file(records: SqlPipelineStorage) -> None:
    """Looking for runs must not leave an empty database behind."""
    file = records.database.file
    if file is not None and not file.exists():
        raise DatabaseUnavailable(
            f"there is no database at {file}; it is made with the first run (otel-storage demo makes three), "
            "or name another one with --url"
        )


def _close(storage: PipelineStorage) -> None:
    close = getattr(storage, "close", None)
    if close is not None:
        close()
