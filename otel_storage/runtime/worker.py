"""Which process this is: a process id alone is used again, so its start goes with it."""

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
    """When the process started, where the operating system tells: a process id is used again."""


def this_worker() -> Worker:
    """The process that calls, also in a forked child."""
    return _worker(os.getpid())


@cache
def _worker(pid: int) -> Worker:
    return Worker(host=socket.gethostname()[:255], pid=pid, started=process_start(pid))


def process_start(pid: int) -> datetime | None:
    """When the process was started, to the clock tick; None where the system does not tell (it is read from /proc)."""
    process = _process(pid)
    return None if process is None else process[1]


def is_gone(worker: Worker, lived_at: datetime) -> bool:
    """Whether a process, which lived at a time, is known to be gone: one of this host, as it is named here.

    It is not known where the system does not show the process that has the id now.
    """
    if worker.host != this_worker().host or worker.pid <= 0:
        return False
    try:
        os.kill(worker.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        # Another user's process: it is there.
        pass
    process = _process(worker.pid)
    if process is None:
        return False
    state, start = process
    if state in _ENDED:
        return True
    if worker.started is not None and abs(start - worker.started) <= _BOOT_PRECISION:
        return False
    # What began after it is another one. That the starts differ is not enough: all of them move with a clock that is
    # set, as the system counts from its boot.
    return start > lived_at


_ENDED = frozenset("ZXx")
"""Of a process that has ended: a zombie, whose parent has not asked how, keeps its id."""

_BOOT_PRECISION = timedelta(seconds=1)
"""The system tells its boot in whole seconds."""


def _process(pid: int) -> tuple[str, datetime] | None:
    """The state of the process and its start."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            # The command, in parentheses, may hold anything; behind it are the fields 3 and up (proc(5)).
            fields = stat.read().rpartition(")")[2].split()
        state, ticks = fields[0], int(fields[19])
        with open("/proc/stat", encoding="ascii") as stat:
            boot = next(int(line.split()[1]) for line in stat if line.startswith("btime "))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return state, datetime.fromtimestamp(boot + ticks / os.sysconf("SC_CLK_TCK"), UTC)
