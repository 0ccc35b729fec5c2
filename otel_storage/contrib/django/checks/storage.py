"""The configured storage: its class, its arguments, and an instance to inspect."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from otel_storage.results import config, host

if TYPE_CHECKING:
    from otel_storage.results.base import PipelineStorage
    from otel_storage.sql.storage import SqlPipelineStorage


@dataclass(frozen=True, slots=True)
class Setting:
    """A configured storage of this package."""

    cls: type[PipelineStorage]
    kwargs: dict[str, Any]

    @property
    def path(self) -> str:
        """The dotted path of the class."""
        return f"{self.cls.__module__}.{self.cls.__qualname__}"

    @property
    def makes_spans(self) -> bool:
        """Whether the storage sends traces."""
        from otel_storage.composite import OtelPipelineStorage

        return issubclass(self.cls, OtelPipelineStorage)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments, including defaults.

        Raises:
            TypeError: the class does not take these arguments.
        """
        bound = inspect.signature(self.cls).bind(**self.kwargs)
        bound.apply_defaults()
        return bound.arguments


def configured() -> Setting | None:
    """The configured storage; None if its class is from another package.

    Raises:
        Exception: the class cannot be loaded.
    """
    cls, kwargs = config.configured_storage()
    from otel_storage.composite import OtelPipelineStorage
    from otel_storage.sql.storage import SqlPipelineStorage

    return Setting(cls, kwargs) if issubclass(cls, (OtelPipelineStorage, SqlPipelineStorage)) else None


@contextmanager
def opened(setting: Setting) -> Iterator[PipelineStorage | None]:
    """This process's storage, otherwise a temporary one that sends nothing; None if neither is possible.

    Raises:
        ConfigurationError: the storage refuses its arguments.
    """
    used = host.storage_in_use()
    if used is not None:
        yield used if type(used) is setting.cls else None
        return
    kwargs = setting.kwargs
    if setting.makes_spans:
        is_safe = "delivery" in inspect.signature(setting.cls).parameters
        # An instance belongs to the project: do not close it, and do not use it before the project's storage does.
        if not is_safe or not (kwargs.get("storage") is None or is_spec(kwargs["storage"])):
            yield None
            return
        # Leave an invalid ``delivery`` for the storage to refuse.
        if setting.arguments["delivery"] == "thread":
            kwargs = {**kwargs, "delivery": "external"}
    storage = config.instantiate(setting.cls, kwargs, config.SETTING, setting.path)
    try:
        yield storage
    finally:
        storage.close()


def records_of(storage: PipelineStorage) -> SqlPipelineStorage:
    """The storage whose tables hold the records: :func:`configured` gives no storages but our two."""
    records: Any = getattr(storage, "records", storage)
    return cast("SqlPipelineStorage", records)


def is_spec(value: object) -> bool:
    """Whether the value names a storage instead of being one."""
    return isinstance(value, (str, tuple, list))


def words_of(error: BaseException) -> str:
    """The error's text, on one line and without secrets."""
    from otel_storage.privacy.lines import one_line
    from otel_storage.privacy.masking import scrub
    from otel_storage.results.exceptions import OtelStorageError

    words = str(error) if isinstance(error, OtelStorageError) else f"{type(error).__name__}: {error}"
    return one_line(scrub(words))
