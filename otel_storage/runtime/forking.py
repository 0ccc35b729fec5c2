"""Keeps the process from forking while another thread does work that must not be interrupted.

A forked child has only the thread that forked. Work of other threads stays unfinished in the child for ever: a
half-imported module, an open file with its locks.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

logger = logging.getLogger("otel_storage")

PATIENCE = 2.0
"""The most seconds that a fork waits for the work of other threads."""


class _ThisThread(threading.local):
    """Each thread's turn, a lock.

    A fork takes the turns of all other threads, and so waits for threads that hold theirs.
    """

    turn: threading.RLock
    """This thread's turn: held while no other thread may fork. Implemented in C, as every transaction on a SQLite file
    takes it."""

    def __init__(self) -> None:
        self.turn = threading.RLock()
        _forks.add(self.turn)


def no_fork() -> AbstractContextManager[object]:
    """While the block runs, other threads of this process wait with a fork."""
    return this_thread.turn


@contextmanager
def forks_allowed() -> Iterator[None]:
    """Inside :func:`no_fork`: lets other threads fork while this thread only waits, for example for an answer."""
    turn = this_thread.turn
    depth = 0
    try:
        while True:
            turn.release()
            depth += 1
    except RuntimeError:
        # Release the lock completely, however often this thread has taken it.
        pass
    try:
        yield
    finally:
        for _ in range(depth):
            turn.acquire()


def before_fork(work: Callable[[], object]) -> None:
    """Register work to do before every fork of this process, while no thread is inside :func:`no_fork`."""
    _forks.works.append(work)


class _Forks:
    """The work around a fork; one fork at a time."""

    def __init__(self) -> None:
        self.works: list[Callable[[], object]] = []
        self._begin_anew([])

    def add(self, turn: threading.RLock) -> None:
        """Register the turn of a new thread; waits for a fork that is under way."""
        with self._lock:
            self._turns.add(turn)

    def before(self) -> None:
        """Take the turns of all other threads, so that none is inside :func:`no_fork` until the fork is over."""
        own = this_thread.turn
        self._lock.acquire()
        deadline = time.monotonic() + PATIENCE
        is_clear = True
        for turn in [turn for turn in self._turns if turn is not own]:
            if turn.acquire(timeout=max(deadline - time.monotonic(), 0)):
                self._taken.append(turn)
            else:
                is_clear = False
        if not is_clear:
            logger.warning("this process forks while another thread of it uses the storage: the child may hang")
        for work in self.works:
            work()

    def after_in_parent(self) -> None:
        """Give the turns back."""
        while self._taken:
            self._taken.pop().release()
        # not held if Ctrl-C ended the wait for it
        with suppress(RuntimeError):
            self._lock.release()

    def after_in_child(self) -> None:
        """Forget the other threads: they stayed with the parent."""
        self._begin_anew([this_thread.turn])

    def _begin_anew(self, turns: Iterable[threading.RLock]) -> None:
        self._taken: list[threading.RLock] = []
        self._lock = threading.RLock()
        self._turns = weakref.WeakSet(turns)


_forks = _Forks()
this_thread = _ThisThread()
"""``this_thread.turn`` is the lock of :func:`no_fork`."""

os.register_at_fork(before=_forks.before, after_in_parent=_forks.after_in_parent, after_in_child=_forks.after_in_child)
