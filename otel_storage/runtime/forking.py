"""What must not be under way in another thread while the process forks.

A forked child has the thread that forked and no other; what the others were in the middle of stays so in the child for
ever: a module half imported, an open file with its locks.
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
"""Seconds that a fork waits, at most, for what other threads are in the middle of."""


class _ThisThread(threading.local):
    """Each thread's own turn: a fork takes the turns of all other threads, so it waits for who holds one."""

    turn: threading.RLock
    """Held while no other thread may fork. Every transaction on a SQLite file takes it, so it is a lock of C's."""

    def __init__(self) -> None:
        self.turn = threading.RLock()
        _forks.add(self.turn)


def no_fork() -> AbstractContextManager[object]:
    """What is done inside is over before another thread of this process forks."""
    return this_thread.turn


@contextmanager
def forks_allowed() -> Iterator[None]:
    """Within :func:`no_fork`: this thread only waits, for an answer say, and a fork need not wait for it."""
    turn = this_thread.turn
    depth = 0
    try:
        while True:
            turn.release()
            depth += 1
    except RuntimeError:
        # The thread does not hold it any more, however often it had taken it.
        pass
    try:
        yield
    finally:
        for _ in range(depth):
            turn.acquire()


def before_fork(work: Callable[[], object]) -> None:
    """Have the work done before every fork of this process, while nothing is done inside :func:`no_fork`."""
    _forks.works.append(work)


class _Forks:
    """What happens around a fork; forks are one at a time."""

    def __init__(self) -> None:
        self.works: list[Callable[[], object]] = []
        self._begin_anew([])

    def add(self, turn: threading.RLock) -> None:
        """Know the turn of a new thread, which waits for a fork that is under way."""
        with self._lock:
            self._turns.add(turn)

    def before(self) -> None:
        """Take the turns of all other threads: until the fork is over, none of them is inside."""
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
        # Not held, where Ctrl-C ended the wait for it.
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
"""Whose ``turn`` is what :func:`no_fork` gives."""

os.register_at_fork(before=_forks.before, after_in_parent=_forks.after_in_parent, after_in_child=_forks.after_in_child)
