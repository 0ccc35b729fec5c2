"""Tells whether django-pipelines (the host) is installed, Django is configured, and Celery is in use.

The host is found by its distribution, because many projects have their own module ``pipelines``. Django is imported
only in this module, and only if it is configured; Celery is never imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import datetime
from functools import cache
from importlib import import_module, metadata
from typing import Any

DISTRIBUTION = "django-pipelines"


@cache
def is_installed() -> bool:
    """Whether the host's distribution is installed in this environment."""
    try:
        metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return False
    return True


def load(module: str) -> Any:
    """Import ``pipelines.<module>`` of the host; call it only where :func:`is_installed`."""
    return import_module(f"pipelines.{module}")


def django_is_configured() -> bool:
    """Whether DJANGO_SETTINGS_MODULE is set or Django's settings were configured by code."""
    conf = sys.modules.get("django.conf")
    # Another thread may be importing django.conf just now.
    settings = getattr(conf, "settings", None)
    # In this order, because reading the environment is slower.
    return bool((settings is not None and settings.configured) or os.environ.get("DJANGO_SETTINGS_MODULE"))


def django_settings() -> Any:
    """Django's settings; call it only where :func:`django_is_configured`."""
    return import_module("django.conf").settings


def after_commit(records: object, work: Callable[[], object]) -> None:
    """Do the work once the changes of the records are committed; never, if they are rolled back.

    The work runs at once unless ``records`` is a Django model object or query set whose database is in a transaction
    (``atomic()``). This executes no query.
    """
    models = sys.modules.get("django.db.models")
    if models is not None and isinstance(records, models.Model):
        database = records._state.db
    elif models is not None and isinstance(records, models.QuerySet):
        database = records.db
    else:
        work()
        return
    import_module("django.db.transaction").on_commit(work, using=database)


def model(app_label: str, model_name: str) -> Any:
    """Django's model class of that name; None if the project has none."""
    try:
        return import_module("django.apps").apps.get_model(app_label, model_name)
    except LookupError:
        return None


def registered_pipelines() -> dict[str, list[str]]:
    """The names of the tasks of each pipeline that the project has registered, by the pipeline's id.

    Empty without the host, or where Django is not set up.
    """
    apps = sys.modules.get("django.apps")
    if not is_installed() or apps is None or not apps.apps.ready:
        return {}
    pipelines = load("registry").pipeline_registry.get_all_items()
    return {str(pipeline.get_id()): [str(name) for name in pipeline.tasks] for pipeline in pipelines}


def no_such_object() -> type[Exception]:
    """Django's error for an object that is gone, which templates show as nothing."""
    error: type[Exception] = import_module("django.core.exceptions").ObjectDoesNotExist
    return error


def present(moment: datetime | None) -> datetime | None:
    """The moment as getters return it: aware UTC, or naive in Django's zone under ``USE_TZ=False``.

    Under ``USE_TZ=False`` the host's pages subtract such times from a naive current time.
    """
    return moment if moment is None or uses_time_zones() else without_zone(moment)


def without_zone(moment: datetime) -> datetime:
    """The moment, naive in Django's zone."""
    timezone = import_module("django.utils.timezone")
    naive: datetime = moment.astimezone(timezone.get_default_timezone()).replace(tzinfo=None)
    return naive


def uses_time_zones() -> bool:
    """Whether Django's ``USE_TZ`` is set, or Django is not in use."""
    conf = sys.modules.get("django.conf")
    if conf is None:
        return True
    settings = getattr(conf, "settings", None)
    if settings is not None and settings.configured:
        return bool(settings.USE_TZ)
    return not django_is_configured() or bool(django_settings().USE_TZ)


def storage_in_use() -> Any:
    """The storage that the host's helpers have made in this process; None if they have made none.

    The host has only a private name for this: its public ``get_pipeline_results_storage()`` would make the storage. A
    registry of our own would not help, because only the host knows which of several storages it uses.
    """
    helpers = sys.modules.get("pipelines.results.helpers") if is_installed() else None
    return getattr(helpers, "_storage", None)


def at_celery_child_exit(callback: Callable[..., object]) -> None:
    """Call ``callback`` when a child of Celery's process pool ends, because such a child does not run ``atexit``.

    This does not import Celery: a process that has not imported it is no such child. Repeated calls have no further
    effect, and children forked later have the callback too.
    """
    shutdown = getattr(sys.modules.get("celery.signals"), "worker_process_shutdown", None)
    if shutdown is not None:
        shutdown.connect(callback, weak=False)
