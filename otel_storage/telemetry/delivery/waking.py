"""Between a delivery and its thread: when a round begins, who waits for it, and when the thread ends."""

from __future__ import annotations

import threading
import time

POLL_INTERVAL = 5.0
"""Seconds between two looks for what other processes left."""

GATHER_INTERVAL = 0.5
"""Seconds from a change of state to its sending, in which others gather."""

BUSY = 256
"""So many changes in that time keep the process busy: what is sent beside them takes its time from them."""

LONGEST_GATHERING = 3.0
"""Seconds from a change to its sending in a process that is busy, unless a flush asks."""

EXIT_TIMEOUT = 5.0
"""Seconds that the exit of a process, also that of a child of Celery's pool, waits for what is due."""


class Signal:
    """Between a delivery and its thread, which does not keep the delivery alive."""

    def __init__(self) -> None:
        self.requested = 0
        """The last round that was asked for by a flush."""
        self.completed = 0
        """The last round asked for after which nothing was due."""
        self.is_closed = False
        self.is_drained = False
        self._closed_at = 0.0
        self._changes = 0
        self._is_awake = threading.Event()
        self._is_urgent = threading.Event()
        self._completion = threading.Condition()

    @property
    def is_late(self) -> bool:
        """Whether the process has waited long enough for its exit."""
        return self.is_closed and time.monotonic() > self._closed_at + EXIT_TIMEOUT

    def wake(self) -> None:
        """Say that there is something to send; takes no time."""
        # Threads may do it side by side: that one is missed does not matter.
        self._changes += 1
        self._is_awake.set()

    def wait(self, pause: float) -> None:
        """Wait for the next round: for the pause, or until there is something to send and others had time to gather.

        What is urgent ends either.
        """
        if pause:
            self._is_urgent.wait(pause)
        elif self._is_awake.wait(POLL_INTERVAL):
            self._gather()
        self._is_awake.clear()
        self._is_urgent.clear()

    def _gather(self) -> None:
        """Wait while there are many changes, but not for long: one interpreter does both them and the sending."""
        deadline = time.monotonic() + LONGEST_GATHERING
        while True:
            before = self._changes
            is_urgent = self._is_urgent.wait(GATHER_INTERVAL)
            if is_urgent or self._changes - before < BUSY or time.monotonic() >= deadline:
                return

    def close(self) -> None:
        """Say that the thread is to end, after one more round that begins at once."""
        self._closed_at = time.monotonic()
        self.is_drained = False
        self.is_closed = True
        self._hurry()

    def request_round(self, deadline: float) -> bool:
        """Ask for a round and wait until one that began after this has ended with nothing due."""
        with self._completion:
            self.requested += 1
            mine = self.requested
            self._hurry()
            while self.completed < mine:
                if not self._completion.wait(max(deadline - time.monotonic(), 0)):
                    self.completed = max(self.completed, mine)  # nobody waits for it any more
                    return False
            return self.is_drained

    def complete(self, requested: int, *, is_drained: bool) -> None:
        """Say that a round has ended with nothing due, to those who asked for it or for an earlier one."""
        with self._completion:
            self.completed = max(self.completed, requested)
            self.is_drained = is_drained
            self._completion.notify_all()

    def _hurry(self) -> None:
        self._is_urgent.set()
        self._is_awake.set()
