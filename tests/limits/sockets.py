"""Servers below HTTP: one that never answers, one that answers nonsense, a door to a server."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class Listener:
    """Accepts connections on a port of this machine; what becomes of them is its subclasses' matter."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._socket.getsockname()[1]
        self.accepted = 0
        """How many connections were made."""
        self._open: list[socket.socket] = []
        self._closing = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """Its address, as an endpoint's."""
        return f"http://127.0.0.1:{self.port}"

    def serve(self, connection: socket.socket) -> None:
        """Keep it open and say nothing."""
        self._closing.wait()

    def __enter__(self) -> Self:
        """Listen; it does already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the port and every connection."""
        self._closing.set()
        for each in (self._socket, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.accepted += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            self.serve(connection)


class BlackHole(Listener):
    """Accepts, and never answers."""


class Garbage(Listener):
    """Answers what is no HTTP."""

    def serve(self, connection: socket.socket) -> None:
        """Read a little, and answer."""
        connection.recv(65_536)
        connection.sendall(b"\x00\xff SSH-2.0-nonsense\r\n\r\n" * 20)


class Door(Listener):
    """Leads to a server, and stops at a word of its clients' until it is opened.

    Args:
        host: The server's host.
        port: The server's port.
        word: What is not carried to the server before.
    """

    def __init__(self, host: str, port: int, word: bytes) -> None:
        self.is_open = threading.Event()
        self.heard = threading.Event()
        """Whether the word was said."""
        self._target = host, port
        self._word = word
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        """Carry bytes in both directions."""
        with socket.create_connection(self._target) as server:
            back = threading.Thread(target=self._carry, args=(server, connection), daemon=True)
            back.start()
            self._carry(connection, server)
            back.join()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if self._word in data:
                    self.heard.set()
                    self.is_open.wait()
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
