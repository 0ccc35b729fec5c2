"""A port for a server that is taken away and comes back."""

from __future__ import annotations

import contextlib
import random
import socket
import time


def free_port() -> int:
    """A port that nobody is given while its server is away: below those that the system gives to clients."""
    dice = random.Random(time.monotonic_ns())
    while True:
        port = dice.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
