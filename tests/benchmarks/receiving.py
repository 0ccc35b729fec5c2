"""An OTLP/HTTP receiver that costs next to nothing: it reads each request whole, and answers that all is accepted.

``python -m tests.benchmarks.receiving`` prints its address and serves until its input ends. It decodes nothing: what is
measured is the sender, and beside it on a small machine even a parser would count.
"""

from __future__ import annotations

import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# An empty body is the protobuf of a response that has nothing to say: every span is accepted.
_ACCEPTED = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


class _Connection(socketserver.StreamRequestHandler):
    """Answers one request after the other until the client closes the connection."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        while head := self._head():
            found = _LENGTH.search(head)
            assert found is not None, "a request without a Content-Length"
            self.rfile.read(int(found[1]))
            self.wfile.write(_ACCEPTED)

    def _head(self) -> bytes:
        lines = b""
        while line := self.rfile.readline():
            lines += line
            if line == b"\r\n":
                break
        return lines


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


@contextmanager
def receiver() -> Iterator[str]:
    """The endpoint of a receiver in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.receiving"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def main() -> None:
    """Serve on the loopback until the input ends."""
    with _Server(("127.0.0.1", 0), _Connection) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"http://127.0.0.1:{server.server_address[1]}/v1/traces", flush=True)
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main()
