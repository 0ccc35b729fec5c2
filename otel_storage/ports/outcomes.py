"""What a final status means in the terms of OpenTelemetry's conventions: success, failure, timeout or cancellation."""

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
"""What each final status means, whatever its message; TIMEOUT is told by that alone."""

MESSAGE_LENGTH = 240
"""So many characters of a message tell whether it is a timeout's."""

# How billiard, whose exceptions Celery raises, prints them; the parents of a task result have the message alone.
_TIMED_OUT = re.compile(r"(?:Soft)?TimeLimitExceeded\(.{0,200}\)", re.DOTALL)


def outcome(status: PipelineTaskStatus, message: str) -> str:
    """What the final status means, with its message: a failure for Celery's time limits is a timeout."""
    if status is PipelineTaskStatus.RUNTIME_ERROR and _TIMED_OUT.fullmatch(message):
        return TIMEOUT
    return OUTCOMES[status]
