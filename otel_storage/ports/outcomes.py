"""Final statuses in the terms of OpenTelemetry's conventions: success, failure, timeout or cancellation."""

from __future__ import annotations

import re

from otel_storage.results.status import PipelineTaskStatus

SUCCESS = "success"
FAILURE = "failure"
TIMEOUT = "timeout"
CANCELLATION = "cancellation"

OUTCOMES = {
    PipelineTaskStatus.DONE: SUCCESS,
    PipelineTaskStatus.RUNTIME_ERROR: FAILURE,
    PipelineTaskStatus.VALIDATION_ERROR: FAILURE,
    PipelineTaskStatus.CONFIG_ERROR: FAILURE,
    PipelineTaskStatus.CANCELLED: CANCELLATION,
}
"""The outcome of each final status by itself; only a message makes an outcome TIMEOUT."""

MESSAGE_LENGTH = 240
"""How many characters of a message are enough to recognise a timeout."""

# The texts of billiard's exceptions, which Celery raises; the parents of a task result have only the message.
_TIMED_OUT = re.compile(r"(?:Soft)?TimeLimitExceeded\(.{0,200}\)", re.DOTALL)


def outcome(status: PipelineTaskStatus, message: str) -> str:
    """The outcome of a final status with its message: a failure because of Celery's time limits is a timeout."""
    if status is PipelineTaskStatus.RUNTIME_ERROR and _TIMED_OUT.fullmatch(message):
        return TIMEOUT
    return OUTCOMES[status]
