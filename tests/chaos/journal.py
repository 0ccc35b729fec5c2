"""What a process wrote down before it was killed: lines of JSON, each on its way to the disk before the next step."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """Appends to a file of this process's own, and a forked child's of its own; what was written survives SIGKILL.

    Args:
        folder: Where the files are.
        name: What is written down; the file's name begins with it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / name
        self._owner = 0
        self._file = -1

    def write(self, *entries: Any) -> None:
        """Append the entries, in one call of the system."""
        if self._owner != os.getpid():
            self._owner = os.getpid()
            path = f"{self._path}.{self._owner}.{time.monotonic_ns()}"
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        data = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
        # A killed process leaves a part of it, whose last line is cut: nobody else may go on in that file.
        while data:
            data = data[os.write(self._file, data) :]


def read(folder: Path, name: str) -> Iterator[Any]:
    """All entries of that name: a process's in the order they were written, those of the first process first."""
    for path in sorted(folder.glob(f"{name}.*"), key=lambda path: int(path.suffix[1:])):
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)
