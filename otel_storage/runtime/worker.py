"""Identifies processes: by host, id and start time, because systems reuse process ids."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """The process that reported RUNNING."""

    host: str
    pid: int
    started: datetime | None
    """When the process started, because process ids are reused; None if the system does not tell."""


def this_worker() -> Worker:
    """The calling process, also in a forked child."""
    return _worker(os.getpid())


@cache
def _worker(pid: int) -> Worker:
    return Worker(host=socket.gethostname()[:255], pid=pid, started=process_start(pid))


def process_start(pid: int) -> datetime | None:
    """When the process started, to the clock tick; None if the system has no /proc."""
    process = _process(pid)
    return None if process is None else process[1]


def is_gone(worker: Worker, lived_at: datetime) -> bool:
    """Whether a process that was alive at a given time is known to be gone; only known for processes of this host.

    It is unknown if the system does not show the process that has the id now.
    """
    if worker.host != this_worker().host or worker.pid <= 0:
        return False
    try:
        os.kill(worker.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        # The process exists, but belongs to another user.
        pass
    process = _process(worker.pid)
    if process is None:
        return False
    state, start = process
    if state in _ENDED:
        return True
    if worker.started is not None and abs(start - worker.started) <= _BOOT_PRECISION:
        return False
    # A process that started later is another one. Different starts alone prove nothing: the system counts from its
    # boot, so setting the clock moves them.
    return start > lived_at


_ENDED = frozenset("ZXx")
"""A process that has ended: a zombie keeps its id until its parent waits for it."""

_BOOT_PRECISION = timedelta(seconds=1)
"""The system states its boot time in whole seconds."""


def _process(pid: int) -> tuple[str, datetime] | None:
    """The state of the process and its start."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            # The command, in parentheses, may contain anything; the fields from 3 on follow it (proc(5)).
            fields = stat.read().rpartition(")")[2].split()
        state, ticks = fields[0], int(fields[19])
        with open("/proc/stat", encoding="ascii") as stat:
            boot = next(int(line.split()[1]) for line in stat if line.startswith("btime "))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return state, datetime.fromtimestamp(boot + ticks / os.sysconf("SC_CLK_TCK"), UTC)
