"""Lets a fork happen only while no thread that sends is in the middle of something.

What another thread has locked at that moment stays locked in the child for ever: a driver, a pool of connections, or a
module that it imports - the child hangs when it imports that too. A process that makes its storage and forks workers a
moment later, as Celery's and gunicorn's main processes may, would meet the first import of what exports.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 2.0
"""Seconds that a fork waits at most: a database that does not answer must not hold it up."""


class _Gate:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = 0
        self._forks = 0

    def enter(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._forks)
            self._busy += 1

    def leave(self) -> None:
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()

    def before_fork(self) -> None:
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: not self._busy, PATIENCE)

    def after_fork(self) -> None:
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()


_gate = _Gate()


@contextmanager
def held_off() -> Iterator[None]:
    """Hold forks off, in this thread, which may be in the middle of anything; but see :func:`allowed`."""
    gate = _gate
    gate.enter()
    _thread.gate = gate
    try:
        yield
    finally:
        _thread.gate = None
        gate.leave()


@contextmanager
def allowed() -> Iterator[None]:
    """Let forks happen within :func:`held_off`: this thread only waits for an answer. Outside of it, change nothing."""
    gate: _Gate | None = getattr(_thread, "gate", None)
    if gate is None:
        yield
        return
    gate.leave()
    try:
        yield
    finally:
        gate.enter()


_thread = threading.local()


def _before_fork() -> None:
    _gate.before_fork()


def _after_fork_in_parent() -> None:
    _gate.after_fork()


def _after_fork_in_child() -> None:
    global _gate  # noqa: PLW0603 - whoever held it is not here
    _gate = _Gate()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
