"""Hooks the record classes of other storages.

Records remain the wrapped storage's own objects. ``report_status_change`` and ``save`` of their classes are wrapped, as
OpenTelemetry's instrumentations do: once for all watchers, until the last watcher stops. Changes that bypass these two
methods, such as a query that updates rows, are not seen.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Protocol

from otel_storage.ports.snapshots import Failure
from otel_storage.privacy.failures import capture_failure
from otel_storage.privacy.lines import as_text
from otel_storage.results import base
from otel_storage.results.kinds import KINDS, TASK_RESULT
from otel_storage.results.status import FAILED, FINAL, PipelineTaskStatus, as_status
from otel_storage.runtime.guard import Guard


@dataclass(frozen=True, slots=True)
class Noted:
    """A record that was seen to reach a status."""

    record: Any
    status: PipelineTaskStatus
    message: str
    failure: Failure | None = None


class Watcher(Protocol):
    """Receives the changes of every hooked record of any storage; no method may raise."""

    def changed(self, record: Any, noted: Sequence[Noted]) -> None:
        """One report on the record, or one save, has brought these records to another status."""

    def running(self, task_result: Any) -> None:
        """RUNNING was reported for the task result, whether or not it advanced."""

    def finished(self, task_result: Any) -> None:
        """A final status was reported for the task result, whether or not it advanced or could be stored."""

    def trace_id(self, record: Any) -> str | None:
        """The id of the record's trace; None if this watcher knows of none."""

    def trace_url(self, record: Any) -> str | None:
        """The address of the record's trace; None as for :meth:`trace_id`."""


def watch(watcher: Watcher, ours: type) -> None:
    """Tell the watcher of the changes of all records but ours, until :func:`unwatch`; holds it weakly."""
    with _lock:
        _watchers.add(watcher)
        hook_known_classes(ours)


def unwatch(watcher: Watcher) -> None:
    """Stop telling the watcher; the last one restores the classes."""
    with _lock:
        _watchers.discard(watcher)
        if not _watchers:
            for cls in list(_hooked):
                _unhook(cls)


def hook_known_classes(ours: type) -> None:
    """Hook the record classes that exist now and are not hooked yet."""
    with _lock:
        # Base classes first: a subclass that inherits a hooked method needs no hook of its own.
        for cls in sorted(_record_classes(), key=_depth):
            if cls not in _hooked and not issubclass(cls, ours):
                _hook(cls)


def is_hooked(cls: type) -> bool:
    """Whether records of the class tell of their transitions."""
    return any(base in _hooked for base in cls.__mro__)


@dataclass(slots=True)
class _Report:
    """A call of ``report_status_change`` that has not returned."""

    record: Any
    status: PipelineTaskStatus
    message: str
    before: PipelineTaskStatus
    failure: Failure | None
    parents: list[tuple[Any, PipelineTaskStatus]] = field(default_factory=list)
    """Parents, with their status before: a class with its own way to propagate may advance them past our hooks."""


class _Thread(threading.local):
    """The reports and changes under way in this thread."""

    def __init__(self) -> None:
        self.reports: list[_Report] = []
        self.noted: list[Noted] = []


_lock = threading.RLock()

# Hold the lock during a fork: a child would wait for ever for a lock that another thread of its parent held.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_thread = _Thread()
_watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()
_hooked: dict[type, dict[str, Any]] = {}
"""The original attributes of each hooked class, under the names that hooks replace."""
_guarded = Guard()
_ABSENT = object()


def _record_classes() -> Iterator[type]:
    """The record classes, without the abstract classes of the contracts."""
    contracts = {base.__name__, base.HostRecord.__module__}
    waiting: list[type[Any]] = [base.HostRecord]
    seen: set[type] = set()
    while waiting:
        subclasses: list[type[Any]] = waiting.pop().__subclasses__()
        for cls in subclasses:
            if cls in seen:
                continue
            seen.add(cls)
            waiting.append(cls)
            if cls.__module__ not in contracts and getattr(cls, "content_type_name", None) in KINDS:
                yield cls


def _depth(cls: type) -> int:
    return len(cls.__mro__)


def _hook(cls: type) -> None:
    own = vars(cls)
    inherits_hooks = is_hooked(cls)
    replaced: dict[str, Any] = {}
    for name, wrap in (("report_status_change", _reporting), ("save", _saving)):
        original = getattr(cls, name, None)
        if original is not None and (name in own or not inherits_hooks):
            replaced[name] = own.get(name, _ABSENT)
            setattr(cls, name, wrap(original))
    for name, getter in (("get_trace_id", _get_trace_id), ("get_trace_url", _get_trace_url)):
        # The contract's own method returns None: there is no trace.
        if getattr(cls, name, None) in (None, getattr(base.PipelineStorageObject, name)):
            replaced[name] = own.get(name, _ABSENT)
            setattr(cls, name, getter)
    _hooked[cls] = replaced


def _unhook(cls: type) -> None:
    for name, original in _hooked.pop(cls).items():
        if original is _ABSENT:
            delattr(cls, name)
        else:
            setattr(cls, name, original)


def _reporting(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def report_status_change(
        self: Any, reporter: Any, status: Any, message: Any = "", propagate: bool = True, **others: Any
    ) -> Any:
        def call() -> Any:
            return original(self, reporter, status, message=message, propagate=propagate, **others)

        if not _watchers:
            return call()
        report = _guarded(_begin, original, self, status, message, propagate)
        return call() if report is None else _observe(call, report)

    return report_status_change


def _observe(call: Callable[[], Any], report: _Report) -> Any:
    record, status = report.record, report.status
    is_task_result = getattr(record, "content_type_name", None) == TASK_RESULT
    _thread.reports.append(report)
    try:
        result = call()
        # Not after an exception: the object may have a status that was never stored. Saves are noted already.
        _guarded(_note_report, report)
    finally:
        _thread.reports.pop()
        if not _thread.reports:
            _tell(record)
        if is_task_result and status in FINAL:
            for watcher in tuple(_watchers):
                watcher.finished(record)
    if is_task_result and status is PipelineTaskStatus.RUNNING:
        for watcher in tuple(_watchers):
            watcher.running(record)
    return result


def _saving(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def save(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        fields = kwargs.get("update_fields")
        if _watchers and (fields is None or "status" in fields):
            _guarded(_note_save, self)
            if not _thread.reports and _thread.noted:
                _tell(self)
        return result

    return save


def _begin(original: Callable[..., Any], record: Any, status: Any, message: Any, propagate: bool) -> _Report:
    status = as_status(status)
    text = "" if message is None else as_text(message)
    is_failure = status in FAILED and record.content_type_name == TASK_RESULT
    report = _Report(
        record=record,
        status=status,
        message=text,
        before=as_status(record.get_status()),
        # Capture now: after the call, another exception may be the one being handled.
        failure=capture_failure(text) if is_failure else None,
    )
    if propagate and original not in _STANDARD:
        parent = record._get_propagate_parent()
        while parent is not None:
            report.parents.append((parent, as_status(parent.get_status())))
            parent = parent._get_propagate_parent()
    return report


_STANDARD = (
    base.PipelineStorageObject.report_status_change,
    getattr(base.HostRecord, "report_status_change", None),
)
"""The implementations that propagate by the parents' own ``report_status_change``, which is hooked."""


def _note_report(report: _Report) -> None:
    status = report.status
    for parent, before in reversed(report.parents):
        if before.has_advanced(status) and as_status(parent.get_status()) is status:
            _note(Noted(parent, status, report.message))
    if report.before.has_advanced(status) and as_status(report.record.get_status()) is status:
        _note(Noted(report.record, status, report.message, report.failure))


def _note_save(record: Any) -> None:
    status = as_status(record.get_status())
    if status is PipelineTaskStatus.PENDING:
        return
    report = _thread.reports[-1] if _thread.reports else None
    if report is None or report.status is not status:
        _note(Noted(record, status, ""))
    else:
        _note(Noted(record, status, report.message, report.failure if report.record is record else None))


def _note(noted: Noted) -> None:
    if not any(known.record is noted.record and known.status is noted.status for known in _thread.noted):
        _thread.noted.append(noted)


def _tell(record: Any) -> None:
    noted, _thread.noted = _thread.noted, []
    if noted:
        for watcher in tuple(_watchers):
            watcher.changed(record, noted)


def _get_trace_id(self: Any) -> str | None:
    """The id of the run's trace, 32 hexadecimal digits; None if no trace is recorded for the run."""
    return next(filter(None, (watcher.trace_id(self) for watcher in tuple(_watchers))), None)


def _get_trace_url(self: Any) -> str | None:
    """The address of the run's trace; None without a trace, or if no ``trace_url`` is configured."""
    return next(filter(None, (watcher.trace_url(self) for watcher in tuple(_watchers))), None)
