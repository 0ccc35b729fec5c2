"""The four kinds of record, as ``content_type_name`` has them."""

from __future__ import annotations

from typing import Final

PIPELINE_EXECUTION: Final = "PipelineExecution"
PIPELINE_RESULT: Final = "PipelineResult"
TASK_EXECUTION: Final = "TaskExecution"
TASK_RESULT: Final = "TaskResult"

KINDS: Final = (PIPELINE_EXECUTION, PIPELINE_RESULT, TASK_EXECUTION, TASK_RESULT)
"""From the top down."""
