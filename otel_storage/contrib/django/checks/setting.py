"""Checks the setting, without asking a database."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.core.checks import ERROR, CheckMessage, Error, Info, Warning

from otel_storage.contrib.django.checks.storage import Setting, is_spec, opened, words_of
from otel_storage.results import config
from otel_storage.results.exceptions import ConfigurationError

if TYPE_CHECKING:
    from otel_storage.sql.database.engine import Database

_HOST_APP = "pipelines"


def has_error(messages: Sequence[CheckMessage]) -> bool:
    """Whether one of the messages stops Django."""
    return any(message.level >= ERROR for message in messages)


def argument_errors(setting: Setting) -> Iterator[CheckMessage]:
    """Check the arguments without making the storage."""
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
                    words_of(error),
                    hint="Install it where Django runs, or name a driver in the URL that is installed.",
                    id="otel_storage.E004",
                )
            else:
                yield Error(
                    words_of(error),
                    hint=f"Correct the URL in {config.SETTING} or in the environment variable OTEL_STORAGE_URL.",
                    id="otel_storage.E003",
                )
        else:
            yield from _sharing_warning(database)


def _urls(arguments: dict[str, Any]) -> list[Any]:
    """The URL that the storage will use, if any; None means the default."""
    storage = arguments.get("storage")
    if storage is None:
        return [] if arguments.get("engine") is not None else [arguments.get("url")]
    if not is_spec(storage):
        return []
    from otel_storage.sql.storage import SqlPipelineStorage

    try:
        cls, kwargs = config.storage_class(storage, "storage")
    except Exception:  # noqa: BLE001 - reported when the storage is opened
        return []
    return _urls(kwargs) if issubclass(cls, SqlPipelineStorage) else [arguments.get("outbox_url")]


def _sharing_warning(database: Database) -> Iterator[CheckMessage]:
    file = database.file
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
                f"{config.SETTING}: {words_of(error)}", hint=f"Use an address such as {example}", id="otel_storage.E005"
            )


def _endpoint_errors(arguments: dict[str, Any]) -> Iterator[CheckMessage]:
    """Check that OpenTelemetry's variables allow spans to be sent."""
    from otel_storage.telemetry.otlp.exporter import problem_of
    from otel_storage.telemetry.spans.run_trace import is_disabled

    problem = None if is_disabled() else problem_of(arguments.get("exporter"))
    if problem is not None:
        yield Error(
            words_of(problem),
            hint="Set it where Django runs, and where spans are sent; they are kept until it is right.",
            id="otel_storage.E006",
        )


def opening_errors(setting: Setting) -> Iterator[CheckMessage]:
    """Let the storage itself check its arguments."""
    try:
        with opened(setting):
            pass
    except Exception as error:  # noqa: BLE001 - arguments can be any objects
        yield _refused(f"{config.SETTING}: {words_of(error)}")


def order_warning(setting: Setting) -> Iterator[CheckMessage]:
    """Check that the host's template does not hide ours, which has the link to the trace."""
    names = [app.name for app in apps.get_app_configs()]
    ours = apps.get_app_config("otel_storage").name
    if setting.kwargs.get("trace_url") and _HOST_APP in names[: names.index(ours)]:
        yield Warning(
            f"{ours} comes after {_HOST_APP} in INSTALLED_APPS: the results page of a run has no link to its trace",
            hint=f'Put "{ours}" before "{_HOST_APP}": of two templates of one name, that of the first app is used.',
            id="otel_storage.W002",
        )


def switched_off(setting: Setting) -> Iterator[CheckMessage]:
    """The environment variable that disables telemetry, if any."""
    from otel_storage.telemetry.spans.run_trace import is_disabled

    if setting.makes_spans and is_disabled():
        given = [f"{name}={os.environ[name]}" for name in _SWITCHES if os.environ.get(name)]
        yield Info(
            f"Telemetry is switched off by {' and '.join(given)}: runs are stored, and make no traces",
            hint='Unset it, or silence this: SILENCED_SYSTEM_CHECKS = ["otel_storage.I001"].',
            id="otel_storage.I001",
        )


_SWITCHES = ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER")
