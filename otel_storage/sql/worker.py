"""Which process this is: a process id alone is used again, so its start goes with it."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from functools import cache

from otel_storage.results.snapshots import Worker


def this_worker() -> Worker:
    """The process that calls, also in a forked child."""
    return _worker(os.getpid())


@cache
def _worker(pid: int) -> Worker:
    return Worker(host=socket.gethostname()[:255], pid=pid, started=process_start(pid))


def process_start(pid: int) -> datetime | None:
    """When the process was started, to the clock tick; None where the system does not tell (it is read from /proc)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            # The command, in parentheses, may hold anything; the start is field 22 (proc(5)), the 20th behind it.
            ticks = int(stat.read().rpartition(")")[2].split()[19])
        with open("/proc/stat", encoding="ascii") as stat:
            boot = next(int(line.split()[1]) for line in stat if line.startswith("btime "))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return datetime.fromtimestamp(boot + ticks / os.sysconf("SC_CLK_TCK"), UTC)
