"""What status messages and stack traces may contain when they leave the process."""

from __future__ import annotations

import re
from collections.abc import Iterator

from otel_storage.ports.snapshots import Failure
from otel_storage.privacy.masking import scrub_and_cut, scrub_and_cut_middle
from otel_storage.privacy.validation import reduce_validation, summarise_validation
from otel_storage.privacy.withholding import withheld_on_error
from otel_storage.results.status import PipelineTaskStatus

WITHHELD = "message withheld; capture 'messages' to send it"

_ABOUT_INPUT = frozenset({PipelineTaskStatus.VALIDATION_ERROR, PipelineTaskStatus.CONFIG_ERROR})

# Messages of django-pipelines itself, word for word; they contain no input.
_CONSTANTS = frozenset(
    {
        "Input data was provided when no input type was specified",
        "One or more of the parent ids are not in the pipeline",
        "Pipeline Error - remaining tasks cancelled",
        "Pipeline cancelled due to an error in the pipeline config",
        "Pipeline is badly configured",
        "Task Error",
        "Tasks cancelled due to an error in the pipeline config",
        "There was an error running a different task",
    }
)


@withheld_on_error
def public_message(status: PipelineTaskStatus | None, message: str, shows_messages: bool, limit: int) -> str:
    """The message of a status, without secrets, and with only ``loc`` and ``type`` of validation errors.

    The message of a validation or configuration error may quote input: one that cannot be parsed as pydantic's is left
    out completely.

    Args:
        status: The status that the message was reported with.
        message: What was reported.
        shows_messages: Whether ``messages`` are captured; secrets are masked in any case.
        limit: The longest result in bytes.
    """
    if not message:
        return ""
    if not shows_messages and message not in _CONSTANTS:
        if status in _ABOUT_INPUT:
            message = summarise_validation(message) or WITHHELD
        else:
            message = reduce_validation(message, in_trace=False)
    return scrub_and_cut(message, limit)


@withheld_on_error
def public_stacktrace(status: PipelineTaskStatus, failure: Failure, shows_messages: bool, limit: int) -> str:
    """The stack trace by the rules of :func:`public_message`, cut in the middle.

    A validation or configuration error keeps its frames, and of the exceptions' messages only the public part of the
    reported one.
    """
    stack = failure.stacktrace
    if not shows_messages and status in _ABOUT_INPUT:
        message = public_message(status, failure.message, shows_messages, limit)
        stack = "\n".join(_without_messages(stack, failure.type, message))
    elif not shows_messages:
        stack = reduce_validation(stack)
    return scrub_and_cut_middle(stack, limit)


_MARGIN = re.compile(r"[ ]*\| |[ ]{2,}\+ |")
_STRUCTURE = re.compile(
    r"""(?:Exception[ ]Group[ ])?Traceback[ ]\(most[ ]recent[ ]call[ ]last\):
    | The[ ]above[ ]exception[ ]was[ ]the[ ]direct[ ]cause[ ]of[ ]the[ ]following[ ]exception:
    | During[ ]handling[ ]of[ ]the[ ]above[ ]exception,[ ]another[ ]exception[ ]occurred:
    | [ ]{2}\[Previous[ ]line[ ]repeated[ ][0-9]+[ ]more[ ]times?\]
    | \.\.\.[ ][0-9]+[ ]characters[ ]left[ ]out[ ]\.\.\.
    | [ ]*(?:\+-)?\+-+(?:[ ][0-9]+[ ]-+)?
    | """,
    re.VERBOSE,
)
_FRAME = re.compile(r'  File "[^"\n]*", line [0-9]+, in \S+')
_EXCEPTION = re.compile(r"[^\W\d][\w.<>]*(?=: |\Z)")


def _without_messages(stack: str, failed_with: str, message: str) -> Iterator[str]:
    """The lines of the stack trace that the traceback module wrote itself: frames and types of exceptions."""
    in_frame = in_stack = False
    reported = {failed_with, failed_with.removeprefix("__main__.")}
    for line in stack.split("\n"):
        text = line[_margin(line) :]
        if _FRAME.fullmatch(text):
            in_frame = in_stack = True
            yield line
        elif in_frame and text.startswith("    "):
            yield line
        elif _STRUCTURE.fullmatch(text):
            in_frame = False
            yield line
        elif in_stack and (kind := _EXCEPTION.match(text)):
            in_frame = in_stack = False
            yield line[: _margin(line)] + f"{kind[0]}: {message if kind[0] in reported else WITHHELD}"


def _margin(line: str) -> int:
    found = _MARGIN.match(line)
    return found.end() if found else 0
