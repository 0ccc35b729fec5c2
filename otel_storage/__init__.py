"""A results storage for pipeline runs that makes every run a trace.

The public names are loaded on first use, so that ``import otel_storage`` imports neither Django, nor SQLAlchemy, nor
gRPC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_storage.composite import OtelPipelineStorage
    from otel_storage.results.base import (
        PipelineDigest,
        PipelineDigestItem,
        PipelineExecution,
        PipelineResult,
        PipelineStorage,
        PipelineStorageObject,
        StatusChange,
        TaskExecution,
        TaskResult,
    )
    from otel_storage.results.exceptions import OtelStorageError
    from otel_storage.results.status import PipelineTaskStatus
    from otel_storage.sql.storage import SqlPipelineStorage

__all__ = [
    "OtelPipelineStorage",
    "OtelStorageError",
    "PipelineDigest",
    "PipelineDigestItem",
    "PipelineExecution",
    "PipelineResult",
    "PipelineStorage",
    "PipelineStorageObject",
    "PipelineTaskStatus",
    "SqlPipelineStorage",
    "StatusChange",
    "TaskExecution",
    "TaskResult",
    "__version__",
]

_MODULES = {
    "OtelPipelineStorage": "otel_storage.composite",
    "OtelStorageError": "otel_storage.results.exceptions",
    "PipelineTaskStatus": "otel_storage.results.status",
    "SqlPipelineStorage": "otel_storage.sql.storage",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module, metadata

    value: object
    if name == "__version__":
        value = metadata.version("otel-storage")
    else:
        value = getattr(import_module(_MODULES.get(name, "otel_storage.results.base")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
