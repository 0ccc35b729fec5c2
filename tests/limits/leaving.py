"""A process that has much to send, and leaves: ``python -m tests.limits.leaving WAY URL RUNS``.

It prints the time at which it leaves, as seconds since the epoch. WAY is one of those in :data:`WAYS`. The variable
``TESTS_LIMITS_EXPORTER`` may name an exporter.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from otel_storage.composite import OtelPipelineStorage
from tests.limits import runs


def _return() -> None:
    """Come to the end of the program."""


def _exit() -> None:
    sys.exit(0)


def _exception() -> None:
    raise LookupError("nobody handles this")


def _os_exit() -> None:
    os._exit(0)


def _sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def _sigkill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _child() -> None:
    """Leave by the exit of a forked child's interpreter, which has a run of its own."""
    pid = os.fork()
    if pid == 0:
        runs.run(storage)
        sys.exit(0)
    os.waitpid(pid, 0)
    os._exit(0)


WAYS = {
    "return": _return,
    "sys.exit": _exit,
    "exception": _exception,
    "os._exit": _os_exit,
    "SIGTERM": _sigterm,
    "SIGKILL": _sigkill,
    "child": _child,
}

if __name__ == "__main__":
    way, url, number = sys.argv[1:]
    # Make all spans due at once, instead of some with each run.
    first = OtelPipelineStorage(url=url, delivery="external")
    for _ in range(int(number)):
        runs.run(first, objects=range(20))
    storage = OtelPipelineStorage(url=url, exporter=os.environ.get("TESTS_LIMITS_EXPORTER"))
    runs.run(storage)
    # The sender is in the middle of its work.
    time.sleep(1)
    sys.stdout.write(f"{time.time()}\n")
    sys.stdout.flush()
    WAYS[way]()
