"""Which storage a process uses: from a setting to an object.

A setting is a dotted path, a pair of a dotted path and keyword arguments, or the object itself. Errors say which part
is wrong: path, module, attribute, type or arguments.
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from otel_storage.results import host
from otel_storage.results.base import PipelineStorage
from otel_storage.results.exceptions import ConfigurationError

SETTING = "PIPELINES_PIPELINES_RESULTS_STORAGE"
"""The name of the Django setting, and of the environment variable where Django is not configured."""

DEFAULT = "otel_storage.OtelPipelineStorage"
"""The storage if nothing is set and Django is not configured."""

Spec = Any
"""A dotted path, (dotted path, keyword arguments), or an object."""


def configured_storage() -> tuple[type[PipelineStorage], dict[str, Any]]:
    """The class of the configured storage, and its keyword arguments.

    Read from Django's settings where Django is configured (the host's default there is its ORM storage), else from the
    environment variable of the setting's name: a dotted path or a JSON pair, else :data:`DEFAULT`.

    Raises:
        ConfigurationError: the setting cannot be used.
    """
    return storage_class(_setting())


def check_setting() -> None:
    """Validate the setting without making the storage.

    Raises:
        ConfigurationError: the message says which part of the setting is wrong.
    """
    cls, kwargs = configured_storage()
    try:
        inspect.signature(cls).bind(**kwargs)
    except TypeError as error:
        raise ConfigurationError(_refused(SETTING, f"{cls.__module__}.{cls.__qualname__}", error)) from error


def storage_class(spec: Spec, what: str = SETTING) -> tuple[type[PipelineStorage], dict[str, Any]]:
    """The storage class and keyword arguments that a path or pair names.

    Raises:
        ConfigurationError: the path, the module, the attribute or the class is wrong.
    """
    path, kwargs = split(spec, what)
    cls = import_path(path, what)
    expected = expected_class()
    if not (isinstance(cls, type) and issubclass(cls, expected)):
        raise ConfigurationError(f"{what}: {path} is not a storage class; it must extend {expected.__name__}")
    return cls, kwargs


def expected_class() -> type[PipelineStorage]:
    """The base class of a storage: the host's class where the host is installed."""
    if not host.is_installed():
        return PipelineStorage
    expected: type[PipelineStorage] = host.load("results.base").PipelineResultsStorage
    return expected


def load_object(spec: Spec, *, expected: type | None, what: str) -> Any:
    """The object that a path, a pair or the object itself means.

    Args:
        spec: A dotted path of a class or factory, (path, keyword arguments), or an object that is returned as it is.
        expected: What the object must be an instance of; None for anything.
        what: The name of the setting or argument, for the error.

    Raises:
        ConfigurationError: the message has ``what``, and says which part of ``spec`` is wrong.
    """
    if not isinstance(spec, (str, tuple, list)):
        result = spec
    else:
        path, kwargs = split(spec, what)
        factory = import_path(path, what)
        if not callable(factory):
            raise ConfigurationError(f"{what}: {path} is neither a class nor a function")
        result = instantiate(factory, kwargs, what, path)
    if expected is not None and not isinstance(result, expected):
        raise ConfigurationError(f"{what}: {type(result).__qualname__} is not a {expected.__qualname__}")
    return result


def instantiate(factory: Any, kwargs: Mapping[str, Any], what: str, path: str) -> Any:
    """Call the factory; a refused argument becomes an error that names it."""
    try:
        return factory(**kwargs)
    except TypeError as error:
        # Only a mismatch of this call is the setting's fault; a TypeError from deeper is a bug in the factory.
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:
            raise ConfigurationError(_refused(what, path, error)) from error
        raise


def split(spec: Spec, what: str) -> tuple[str, dict[str, Any]]:
    """The dotted path and the keyword arguments of a spec."""
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, (tuple, list)) and len(spec) == 2:
        path, kwargs = spec
        if isinstance(path, str) and isinstance(kwargs, Mapping):
            return path, dict(kwargs)
    raise ConfigurationError(
        f"{what} must be a dotted path or a pair of a dotted path and a dict of keyword arguments, "
        f'e.g. ("{DEFAULT}", {{"url": "sqlite:///runs.db"}}), not a {type(spec).__name__}'
    )


def import_path(path: str, what: str) -> Any:
    """The object that the dotted path names."""
    module_name, _, attribute = path.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in path.split(".")):
        # A value that is no path may be a URL or a pair as text, with a password in it.
        shown = repr(path) if re.fullmatch(r"[\w.\- ]{0,200}", path) else "the value"
        raise ConfigurationError(f"{what}: {shown} is not a dotted path such as {DEFAULT!r}")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        # A missing module inside the named module is a bug there, and needs its own traceback.
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ConfigurationError(f"{what}: there is no module {error.name!r} (in {path!r})") from error
        raise
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        # An AttributeError from deeper is a bug in the code that the module runs for this attribute.
        if error.obj is not module:
            raise
        raise ConfigurationError(f"{what}: module {module_name!r} has no attribute {attribute!r}") from error


def _refused(what: str, path: str, error: TypeError) -> str:
    return f"{what}: {path} does not take these arguments: {error}"


def _setting() -> Spec:
    if host.django_is_configured():
        default = "pipelines.results.orm.OrmPipelineResultsStorage" if host.is_installed() else DEFAULT
        return getattr(host.django_settings(), SETTING, default)
    value = os.environ.get(SETTING, "").strip()
    if not value.startswith("["):
        return value or DEFAULT
    try:
        return json.loads(value)
    except ValueError as error:
        raise ConfigurationError(
            f'the environment variable {SETTING} is neither a dotted path nor a JSON pair ["path", {{...}}]: {error}'
        ) from error
