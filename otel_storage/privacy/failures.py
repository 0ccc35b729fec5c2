"""Captures the exception behind a failure, while the exception is being handled."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable
from traceback import TracebackException
from typing import Any

from otel_storage.ports.snapshots import Failure
from otel_storage.privacy.lines import cut_between_words
from otel_storage.privacy.validation import reduce_validation

_TEXT_LENGTH = 64_000
_STACK_BYTES = 64_000
_CHAINED_TEXT_LENGTH = 16_000
_FRAMES = 100
_CHAINED_EXCEPTIONS = 30
_GROUPED_EXCEPTIONS = 200
_PRINTED_OF_GROUP = 15
_NOTES = 10
_NO_TEXT = "<note>"
"""Replaces a note that is not a string."""


def capture_failure(message: str) -> Failure | None:
    """The exception that is being handled, if ``message`` is its text.

    Validation errors in the stack trace are reduced to their ``loc`` and ``type``; so are those in the messages of the
    exceptions it is chained to. The innermost 100 frames of each exception are kept, and 64 kB each of the stack trace
    and the message: a longer text is cut in the middle.

    Args:
        message: The message of the final status.

    Returns:
        None if no exception is being handled, if its text is not the message, or if it cannot be formatted. Never
        raises: a failure is recorded with or without its exception.
    """
    exception = sys.exception()
    if exception is None:
        return None
    try:
        if str(exception) != message:
            return None
        return Failure(
            type=_qualified_name(type(exception)),
            message=cut_between_words(message, _TEXT_LENGTH),
            stacktrace=_format(exception),
        )
    except Exception:  # noqa: BLE001 - any code may run in a user's __str__, and the failure must still be recorded
        return None


def _qualified_name(cls: type) -> str:
    name = str(cls.__qualname__)
    return name if cls.__module__ == "builtins" else f"{cls.__module__}.{name}"


def _format(exception: BaseException) -> str:
    trace = TracebackException(
        type(exception),
        exception,
        exception.__traceback__,
        limit=-_FRAMES,
        lookup_lines=False,
        compact=True,
        max_group_width=_PRINTED_OF_GROUP,
    )
    _bound(trace)
    return _cut_bytes("".join(trace.format()), _STACK_BYTES)


class _Reduced(TracebackException):
    """Reduces the message and the notes separately, so that no text in them is taken for the rest of the stack trace.

    The constructor of :class:`TracebackException` makes plain instances of causes, contexts and members of groups, so
    :func:`_bound` gives each of them this class.
    """

    def format_exception_only(self, **options: Any) -> Generator[str, None, None]:
        """The lines of this exception alone; Python 3.13 and later pass ``options``."""
        python_lines: Callable[..., Iterable[str]] = super().format_exception_only
        notes, self.__notes__ = self.__notes__, None
        try:
            # Without notes the message comes last; a SyntaxError has lines of source before it.
            *source, message = python_lines(**options)
        finally:
            self.__notes__ = notes
        yield from source
        yield _reduced(message.removesuffix("\n")) + "\n"
        for note in _notes(notes):
            yield _reduced(note) + "\n"


def _notes(notes: Any) -> Iterable[str]:
    """The first notes; code may have set ``__notes__`` to any object."""
    if notes is None:
        return ()
    if not isinstance(notes, list | tuple):
        return (_NO_TEXT,)
    return (note if isinstance(note, str) else _NO_TEXT for note in notes[:_NOTES])


def _bound(trace: TracebackException) -> None:
    """Cut the tree of exceptions to a useful size, and make the rest reduce its messages."""
    waiting: list[TracebackException] = [trace]
    done = 0
    while waiting:
        current = waiting.pop(0)
        done += 1
        current.__class__ = _Reduced
        if current.exceptions:
            printed = current.exceptions[:_PRINTED_OF_GROUP]
            if done + len(waiting) + len(printed) <= _GROUPED_EXCEPTIONS:
                waiting += printed
            else:
                current.exceptions = None
        for chained in (current.__cause__, current.__context__):
            if chained is not None and done + len(waiting) < _CHAINED_EXCEPTIONS:
                waiting.append(chained)
            elif chained is not None:
                current.__cause__ = current.__context__ = None


def _reduced(text: str) -> str:
    return cut_between_words(reduce_validation(text, in_trace=False), _CHAINED_TEXT_LENGTH)


def _cut_bytes(text: str, limit: int) -> str:
    while (size := len(text.encode("utf-8", "replace"))) > limit:
        text = cut_between_words(text, max(0, int(len(text) * limit / size) - 100))
    return text
