"""A reporter whose reports survive the process that made them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pipelines.reporters.base import PipelineReporter

from tests.chaos.journal import Journal
from tests.chaos.roles import REPORTS


class JournalReporter(PipelineReporter):
    """Writes down every report of a change of state."""

    def __init__(self) -> None:
        self._journal = Journal(Path(os.environ["CHAOS_FOLDER"]), REPORTS)

    def report_context_object(self, context_object: Any, status: Any, message: str) -> None:
        """Write it down; that a record waits for its start is none."""
        if status.value != "PENDING":
            record = (context_object.content_type_name, context_object.get_id())
            self._journal.write([*record, status.value, message, os.getpid()])
