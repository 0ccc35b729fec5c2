"""Synchronises a delivery with its thread: when a round begins, who waits for it, and when the thread ends."""

from __future__ import annotations

import threading
import time

POLL_INTERVAL = 5.0
"""Seconds between two checks for references that other processes left behind."""

GATHER_INTERVAL = 0.5
"""Seconds from a change of state to its sending, so that further changes share the request."""

BUSY = 256
"""With this many changes in that time the process is busy: sending would slow its work down."""

LONGEST_GATHERING = 3.0
"""The longest such delay in seconds in a busy process, unless a flush asks for a round."""

EXIT_TIMEOUT = 5.0
"""Seconds that the exit of a process, or of a child of Celery's pool, waits for due references to be sent."""


class Signal:
    """What a delivery and its thread share, so that the thread does not keep the delivery alive."""

    def __init__(self) -> None:
        self.requested = 0
        """The number of the last round that a flush asked for."""
        self.completed = 0
        """The number of the last such round that is completed."""
        self.is_closed = False
        self.is_drained = False
        self._closed_at = 0.0
        self._changes = 0
        self._is_awake = threading.Event()
        self._is_urgent = threading.Event()
        self._completion = threading.Condition()

    @property
    def is_late(self) -> bool:
        """Whether the process has waited long enough at its exit."""
        return self.is_closed and time.monotonic() > self._closed_at + EXIT_TIMEOUT

    def wake(self) -> None:
        """Wake the thread because there is something to send; never blocks."""
        # Without a lock: a lost increment does not matter.
        self._changes += 1
        self._is_awake.set()

    def wait(self, pause: float) -> None:
        """Wait for the next round: for the pause, or until there is something to send and changes had time to gather.

        A flush, or closing, ends the wait at once.
        """
        if pause:
            self._is_urgent.wait(pause)
        elif self._is_awake.wait(POLL_INTERVAL):
            self._gather()
        self._is_awake.clear()
        self._is_urgent.clear()

    def _gather(self) -> None:
        """Wait while there are many changes, for a limited time: sending competes with them for the interpreter."""
        deadline = time.monotonic() + LONGEST_GATHERING
        while True:
            before = self._changes
            is_urgent = self._is_urgent.wait(GATHER_INTERVAL)
            if is_urgent or self._changes - before < BUSY or time.monotonic() >= deadline:
                return

    def close(self) -> None:
        """Ask the thread to end after one more round, which begins at once."""
        self._closed_at = time.monotonic()
        self.is_drained = False
        self.is_closed = True
        self._hurry()

    def request_round(self, deadline: float) -> bool:
        """Ask for a round, and wait until one that began after this call has ended with nothing due."""
        with self._completion:
            self.requested += 1
            mine = self.requested
            self._hurry()
            while self.completed < mine:
                if not self._completion.wait(max(deadline - time.monotonic(), 0)):
                    self.completed = max(self.completed, mine)  # no caller waits for it any more
                    return False
            return self.is_drained

    def complete(self, requested: int, *, is_drained: bool) -> None:
        """Tell those who asked for this round, or an earlier one, that it has ended."""
        with self._completion:
            self.completed = max(self.completed, requested)
            self.is_drained = is_drained
            self._completion.notify_all()

    def _hurry(self) -> None:
        self._is_urgent.set()
        self._is_awake.set()
