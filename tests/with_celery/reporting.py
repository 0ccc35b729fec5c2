"""A reporter whose reports survive the process that made them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.reporters.base import PipelineReporter


class Reported(NamedTuple):
    """A report of one process."""

    kind: str
    id: int
    status: str
    message: str
    pid: int


class FileReporter(PipelineReporter):
    """Appends each report to the file that ``TEST_REPORTS`` names: a line, in one write."""

    def report(self, context_object: Any, status: Any, message: str) -> None:
        """Append the report."""
        line = json.dumps(
            [context_object.content_type_name, context_object.get_id(), status.value, message, os.getpid()]
        )
        file = os.open(os.environ["TEST_REPORTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, f"{line}\n".encode())
        finally:
            os.close(file)


def read_reports(path: Path) -> list[Reported]:
    """All reports of all processes, as they were written."""
    if not path.exists():
        return []
    return [Reported(*json.loads(line)) for line in path.read_text().splitlines()]
