"""Forked children of a test's own process, which are told when to go on, and are killed if they hang."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

PATIENCE = 20.0
"""Seconds after which a child hangs; what it does takes one or two."""


class Child:
    """A fork of this process that does the work and leaves by ``os._exit``, as Celery's children do.

    Args:
        work: Is called in the child, with a function that waits there until :meth:`go_on` is called here.
    """

    def __init__(self, work: Callable[[Callable[[], None]], Any]) -> None:
        told, tell = os.pipe()
        heard, hear = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(tell)
            os.close(heard)
            _work(work, told, hear)
        os.close(told)
        os.close(hear)
        self._tell, self._heard = tell, heard
        self._is_gone = False

    def wait_until_it_waits(self) -> None:
        """Wait until the child waits to be told to go on."""
        assert self._read() == "waiting"

    def go_on(self) -> None:
        """Let the child go on."""
        os.write(self._tell, b".")

    def result(self) -> Any:
        """What the work returned; JSON must be able to hold it."""
        answer = self._read()
        self.join()
        return json.loads(answer)

    def join(self) -> int:
        """Wait until the child is gone; its exit code, negative for a signal."""
        assert not self._is_gone
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._is_gone = True
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        raise AssertionError("the child hangs")

    def __enter__(self) -> Self:
        """Take care that it ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill it if it is still there."""
        if not self._is_gone:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._tell)
        os.close(self._heard)

    def _read(self) -> str:
        if not select.select([self._heard], [], [], PATIENCE)[0]:
            raise AssertionError("the child hangs")
        return os.read(self._heard, 65_536).decode()


def _work(work: Callable[[Callable[[], None]], Any], told: int, hear: int) -> None:
    code = 1
    try:

        def wait() -> None:
            os.write(hear, b"waiting")
            os.read(told, 1)

        os.write(hear, json.dumps(work(wait)).encode())
        code = 0
    except BaseException:  # noqa: BLE001 - nothing of the child may go on in the test's code
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)
