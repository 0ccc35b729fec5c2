"""What must not be under way in another thread while the process forks.

A forked child has the thread that forked and no other; what the others were in the middle of stays so in the child for
ever: a module half imported, an open file with its locks.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

logger = logging.getLogger("otel_storage")

PATIENCE = 2.0
"""Seconds that a fork waits, at most, for what other threads are in the middle of."""


@contextmanager
def forks_allowed() -> Iterator[None]:
    """Within :func:`no_fork`: this thread only waits, for an answer say, and a fork need not wait for it."""
    depth = _gate.step_out()
    try:
        yield
    finally:
        _gate.step_in(depth)


def no_fork() -> AbstractContextManager[None]:
    """What is done inside is over before another thread of this process forks."""
    return _gate


def before_fork(work: Callable[[], object]) -> None:
    """Have the work done before every fork of this process, while nothing is done inside :func:`no_fork`."""
    _gate.works.append(work)


class _Gate:
    """Many threads may be inside, until one of them forks: that waits for the others, and lets no more in.

    Every transaction goes through it, so that it is entered and left without more than that takes.
    """

    def __init__(self) -> None:
        self.works: list[Callable[[], object]] = []
        self._inside: dict[int, int] = {}
        """How often each thread has entered that is inside."""
        self._forking: set[int] = set()
        self._make_lock()

    def __enter__(self) -> None:
        thread = threading.get_ident()
        with self._lock:
            # Who is inside already goes on: the fork waits for it.
            while self._forking and not self._is_inside(thread):
                self._condition.wait()
            self._inside[thread] = self._inside.get(thread, 0) + 1

    def __exit__(self, *_: object) -> None:
        thread = threading.get_ident()
        with self._lock:
            depth = self._inside[thread] - 1
            if depth:
                self._inside[thread] = depth
                return
            del self._inside[thread]
            # None but a fork waits for this.
            if self._forking:
                self._condition.notify_all()

    def step_out(self) -> int:
        """Leave, however often this thread has entered; returns how often that was."""
        with self._condition:
            depth = self._inside.pop(threading.get_ident(), 0)
            self._condition.notify_all()
            return depth

    def step_in(self, depth: int) -> None:
        """Enter again, as often."""
        if depth:
            self.__enter__()
            self._inside[threading.get_ident()] = depth

    def close(self) -> None:
        """Before a fork: until it is done this thread alone may enter."""
        self._forking.add(threading.get_ident())
        self._condition.acquire()
        if not self._condition.wait_for(self._is_clear, PATIENCE):
            logger.warning("this process forks while another thread of it uses the storage: the child may hang")
        for work in self.works:
            work()

    def open(self) -> None:
        """After it, in the parent."""
        self._forking.discard(threading.get_ident())
        # Not held, where Ctrl-C ended the wait for it.
        with suppress(RuntimeError):
            self._condition.notify_all()
            self._condition.release()

    def renew(self) -> None:
        """After it, in the child: there is nobody else."""
        thread = threading.get_ident()
        self._inside = {thread: self._inside[thread]} if thread in self._inside else {}
        self._forking = set()
        self._make_lock()

    def _make_lock(self) -> None:
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)

    def _is_inside(self, thread: int) -> bool:
        return thread in self._inside or thread in self._forking

    def _is_clear(self) -> bool:
        return not self._inside.keys() - {threading.get_ident()}


_gate = _Gate()

os.register_at_fork(before=_gate.close, after_in_parent=_gate.open, after_in_child=_gate.renew)
