"""The broker that Celery's messages are in."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

QUEUE = "chaos"

_REST = 2.0
"""Seconds without a change in which nobody works: a worker that was killed leaves messages that nobody has."""


@dataclass(frozen=True)
class Broker:
    """A Redis, and what our keys in it begin with."""

    url: str
    prefix: str

    def waiting(self) -> int:
        """How many messages wait for a worker."""
        return self._state()[0]

    def wait_for_rest(self, patience: float) -> bool:
        """Wait until no worker does anything any more; whether that was within the seconds."""
        deadline = time.monotonic() + patience
        before, since = self._state(), time.monotonic()
        while time.monotonic() < deadline:
            time.sleep(0.1)
            state = self._state()
            if state != before:
                before, since = state, time.monotonic()
            elif state[0] == 0 and time.monotonic() > since + _REST:
                return True
        return False

    def forget(self) -> None:
        """Remove our keys."""
        with closing(self._open()) as server:
            for key in server.scan_iter(f"{self.prefix}*"):
                server.delete(key)

    def _state(self) -> tuple[int, frozenset[bytes]]:
        """How many messages wait, and which ones a worker has."""
        with closing(self._open()) as server:
            return server.llen(f"{self.prefix}{QUEUE}"), frozenset(server.hkeys(f"{self.prefix}unacked"))

    def _open(self) -> Any:
        from redis import Redis

        return Redis.from_url(self.url)
