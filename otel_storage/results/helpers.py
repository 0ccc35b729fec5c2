"""The functions that callers use, so that no caller holds a storage: one per method of the storage.

Where django-pipelines is installed and Django is configured they are the host's, so that a process has one storage.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from otel_storage.results import config, host
from otel_storage.runtime.forking import no_fork

if TYPE_CHECKING:
    from otel_storage.results.base import (
        PipelineDigest,
        PipelineExecution,
        PipelineResult,
        PipelineStorage,
        RecordSequence,
        TaskExecution,
        TaskResult,
    )
    from otel_storage.results.protocols import PipelineLike, Reporter

_storage: PipelineStorage | None = None
_lock = threading.Lock()


def _after_fork_in_child() -> None:
    """Make a new lock: another thread of the parent may have held the old one."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def get_pipeline_results_storage() -> PipelineStorage:
    """The configured storage, made once per process.

    Raises:
        ConfigurationError: the setting ``PIPELINES_PIPELINES_RESULTS_STORAGE`` cannot be used.
    """
    global _storage
    if _host_decides():
        try:
            storage: PipelineStorage = host.load("results.helpers").get_pipeline_results_storage()
        except (ImportError, TypeError, ValueError):
            # The host's own errors do not name the setting.
            config.check_setting()
            raise
        return storage
    with no_fork(), _lock:
        if _storage is None:
            cls, kwargs = config.configured_storage()
            path = f"{cls.__module__}.{cls.__qualname__}"
            _storage = config.instantiate(cls, kwargs, config.SETTING, path)
        return _storage


def reset_storage_object() -> None:
    """Forget the storage without closing it, so that the next call makes a new one from the settings."""
    global _storage
    if _host_decides():
        host.load("results.helpers").reset_storage_object()
    with _lock:
        _storage = None


def build_pipeline_execution(
    pipeline: PipelineLike,
    run_id: str,
    runner: object,
    reporter: Reporter,
    input_data: Any,
    build_all: bool | None = True,
) -> PipelineExecution:
    """See :meth:`PipelineStorage.build_pipeline_execution`."""
    storage = get_pipeline_results_storage()
    return storage.build_pipeline_execution(pipeline, run_id, runner, reporter, input_data, build_all=build_all)


def get_pipeline_digest() -> PipelineDigest:
    """See :meth:`PipelineStorage.get_pipeline_digest`."""
    return get_pipeline_results_storage().get_pipeline_digest()


def get_pipeline_executions(pipeline_id: str | None = None) -> RecordSequence[PipelineExecution]:
    """See :meth:`PipelineStorage.get_pipeline_executions`."""
    return get_pipeline_results_storage().get_pipeline_executions(pipeline_id=pipeline_id)


def get_pipeline_execution(run_id: Any) -> PipelineExecution | None:
    """See :meth:`PipelineStorage.get_pipeline_execution`."""
    return get_pipeline_results_storage().get_pipeline_execution(run_id)


def get_pipeline_results(run_id: str | None = None) -> RecordSequence[PipelineResult]:
    """See :meth:`PipelineStorage.get_pipeline_results`."""
    return get_pipeline_results_storage().get_pipeline_results(run_id=run_id)


def get_pipeline_result(_id: Any) -> PipelineResult | None:
    """See :meth:`PipelineStorage.get_pipeline_result`."""
    return get_pipeline_results_storage().get_pipeline_result(_id)


def get_task_executions(run_id: str | None = None, pipeline_result_id: Any = None) -> RecordSequence[TaskExecution]:
    """See :meth:`PipelineStorage.get_task_executions`."""
    storage = get_pipeline_results_storage()
    return storage.get_task_executions(run_id=run_id, pipeline_result_id=pipeline_result_id)


def get_task_execution(_id: Any) -> TaskExecution | None:
    """See :meth:`PipelineStorage.get_task_execution`."""
    return get_pipeline_results_storage().get_task_execution(_id)


def get_task_results(
    run_id: str | None = None, pipeline_result_id: Any = None, task_execution_id: Any = None
) -> RecordSequence[TaskResult]:
    """See :meth:`PipelineStorage.get_task_results`."""
    storage = get_pipeline_results_storage()
    return storage.get_task_results(
        run_id=run_id, pipeline_result_id=pipeline_result_id, task_execution_id=task_execution_id
    )


def get_task_result(_id: Any) -> TaskResult | None:
    """See :meth:`PipelineStorage.get_task_result`."""
    return get_pipeline_results_storage().get_task_result(_id)


def cleanup_task_results(before: datetime | None = None) -> Sequence[str]:
    """See :meth:`PipelineStorage.cleanup`."""
    return get_pipeline_results_storage().cleanup(before=before)


def _host_decides() -> bool:
    return host.is_installed() and host.django_is_configured()
