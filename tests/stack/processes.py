"""A real program as a process of a test's own, on the loopback."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["PATIENCE", "Program", "fetch", "free_port", "wait_until"]

PATIENCE = 60.0
"""Seconds after which what does not come is given up."""


_GIVEN: set[int] = set()


def free_port() -> int:
    """A port for a program of this process' tests alone, which it may leave and come back to.

    Below those that the system gives to clients, and never the same twice: a program takes several, and starts later.
    """
    worker = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0)
    first = 10_000 + worker % 4 * 2_500
    dice = random.Random(time.monotonic_ns())  # noqa: S311 - no secret
    while True:
        port = dice.randrange(first, first + 2_500)
        if port in _GIVEN:
            continue
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            _GIVEN.add(port)
            return port


def wait_until(condition: Callable[[], object], what: str, patience: float = PATIENCE, pause: float = 0.1) -> float:
    """Wait until the condition holds, so many seconds at most; the seconds that it took.

    Raises:
        AssertionError: It never did.
    """
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + patience, f"not in {patience:.0f} s: {what}"
        time.sleep(pause)
    return time.monotonic() - began


def fetch(url: str, json: bytes | None = None) -> tuple[int, bytes]:
    """The status and the body of the answer, to a POST where there is something to send; 0 and nothing if none came."""
    # The addresses are those that the tests made.
    request = urllib.request.Request(url, json, {"Content-Type": "application/json"} if json else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


class Program:
    """A program that is started, stopped and killed by its process id; as a context, it is ended at the end.

    Args:
        command: The program and its arguments.
        folder: Where it runs, and where its log is.
        ready: Answers 200 once the program serves.
        environment: Variables beside those of the test.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, ready: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.command = list(command)
        self.folder = folder
        self.environment = dict(environment or {})
        self._ready = ready
        self._log = folder / f"{Path(command[0]).name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start it, and wait until it serves."""
        assert self._process is None, "it runs already"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._serves, f"{self.command[0]} serves\n{self.log}")

    def stop(self) -> None:
        """Ask it to end, in order, and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)

    @property
    def log(self) -> str:
        """The end of what it wrote."""
        return self._log.read_text(errors="replace")[-20_000:] if self._log.exists() else ""

    def __enter__(self) -> Program:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.kill()
        if error is not None:
            error.add_note(f"--- {self.command[0]}\n{self.log}")

    def _serves(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        return fetch(self._ready)[0] == 200

    def _end(self, number: int) -> None:
        assert self._process is not None, "it does not run"
        self._process.send_signal(number)
        self._process.wait(PATIENCE)
        self._process = None
