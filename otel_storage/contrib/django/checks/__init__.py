"""System checks: what is wrong with the configured storage, and what mends it.

The checks raise nothing, start no sender, write to no database and create no SQLite file. They skip storages of other
packages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from django.core.checks import CheckMessage, Error, Warning

from otel_storage.contrib.django.checks.database import database_messages, in_time
from otel_storage.contrib.django.checks.setting import (
    argument_errors,
    has_error,
    opening_errors,
    order_warning,
    switched_off,
)
from otel_storage.contrib.django.checks.storage import configured, opened, records_of, words_of
from otel_storage.results import config
from otel_storage.results.exceptions import ConfigurationError

Check = Callable[..., Sequence[CheckMessage]]


def _guarded(check: Check) -> Check:
    """Turn an exception of a check into a message."""

    @wraps(check)
    def run(app_configs: Any = None, **kwargs: Any) -> Sequence[CheckMessage]:
        if app_configs is not None and all(app.label != "otel_storage" for app in app_configs):
            return []
        try:
            return check(**kwargs)
        except Exception as error:  # noqa: BLE001 - a check never fails the command that runs it
            return [
                Warning(
                    f"The configured storage could not be checked: {words_of(error)}",
                    hint="Run otel-storage status, or start a shell and call "
                    "otel_storage.results.helpers.get_pipeline_results_storage().",
                    id="otel_storage.W004",
                )
            ]

    return run


@_guarded
def check_setting(**_kwargs: Any) -> Sequence[CheckMessage]:
    """Check the setting, without asking a database."""
    try:
        setting = configured()
    except Exception as error:  # noqa: BLE001 - importing the storage runs any code
        return [
            Error(
                words_of(error) if isinstance(error, ConfigurationError) else f"{config.SETTING}: {words_of(error)}",
                hint=f'Set it to "{config.DEFAULT}", or to a pair of that path and a dict of its arguments.',
                id="otel_storage.E001",
            )
        ]
    if setting is None:
        return []
    messages = [*argument_errors(setting)]
    if not has_error(messages):
        messages += opening_errors(setting)
    return [*messages, *order_warning(setting), *switched_off(setting)]


@_guarded
def check_database(databases: Any = None, **_kwargs: Any) -> Sequence[CheckMessage]:
    """Check the storage's database; Django calls this when it checks its own databases too.

    All messages are warnings: an error would stop ``manage.py migrate`` for Django's own databases.
    """
    if not databases:
        return []
    try:
        setting = configured()
        if setting is None or has_error([*argument_errors(setting)]) or has_error([*opening_errors(setting)]):
            return []
    except Exception:  # noqa: BLE001 - check_setting reports it
        return []
    with opened(setting) as storage:
        return [] if storage is None else in_time(lambda: database_messages(records_of(storage), setting))
