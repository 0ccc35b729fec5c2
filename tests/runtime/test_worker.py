"""Whether a process is gone: ids are used again, clocks are set, and zombies keep their ids."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from otel_storage.runtime.worker import Worker, is_gone, process_start, this_worker

HOUR = timedelta(hours=1)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the test's own, which does nothing."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def worker(pid: int, started: datetime | None) -> Worker:
    """A process of this host."""
    return Worker(host=this_worker().host, pid=pid, started=started)


def start_of(pid: int) -> datetime:
    """When the process was started; the tests run where the system tells."""
    start = process_start(pid)
    assert start is not None
    return start


def test_living_process() -> None:
    """This process is not gone, nor one of another user's that no signal can be sent to."""
    assert not is_gone(this_worker(), datetime.now(UTC))
    assert not is_gone(worker(1, start_of(1)), datetime.now(UTC))


def test_killed_process(child: subprocess.Popen[bytes]) -> None:
    """A process that was killed is gone while its parent has not asked how it ended, and after that."""
    known = worker(child.pid, start_of(child.pid))
    now = datetime.now(UTC)
    assert not is_gone(known, now)

    os.kill(child.pid, 9)
    while True:
        with open(f"/proc/{child.pid}/stat") as stat:
            if ") Z " in stat.read():
                break
        time.sleep(0.01)
    assert is_gone(known, now)
    child.wait()
    assert is_gone(known, now)


def test_id_that_is_used_again(child: subprocess.Popen[bytes]) -> None:
    """The process that has the id now began after the one that is looked for had reported: that one is gone."""
    start = start_of(child.pid)

    assert is_gone(worker(child.pid, start - HOUR), start - HOUR / 2)
    assert is_gone(worker(child.pid, None), start - HOUR)


def test_clock_that_was_set(child: subprocess.Popen[bytes]) -> None:
    """Starts are told by the clock of now, less the time since the boot: when it is set, a process seems another."""
    start = start_of(child.pid)

    for moved in (-HOUR, timedelta(seconds=-1), timedelta(seconds=1), HOUR):
        # The process had been running for two hours when it reported.
        assert not is_gone(worker(child.pid, start - moved), start - moved + 2 * HOUR)


def test_process_that_cannot_be_known() -> None:
    """Of another host's process, and of ids that no process has, nothing is known."""
    now = datetime.now(UTC)

    assert not is_gone(Worker(host="another", pid=2**22 + 1, started=now), now)
    assert not is_gone(worker(0, now), now)
    assert not is_gone(worker(-1, now), now)
