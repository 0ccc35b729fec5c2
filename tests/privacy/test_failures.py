"""The exception behind a failure is captured as it is, without input, and within bounds."""

from __future__ import annotations

import json
import re
import traceback

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_storage.ports.snapshots import Failure
from otel_storage.privacy.failures import capture_failure

CARD = "4111-1111-1111-1111"


class Order(pydantic.BaseModel):
    """Refuses text."""

    card: int


def captured(error: BaseException, message: str | None = None) -> Failure | None:
    """What is captured while the error is handled; ``message`` is its text if not given."""
    try:
        raise error
    except BaseException as raised:  # noqa: BLE001 - whatever a task raises
        return capture_failure(str(raised) if message is None else message)


def failure(error: BaseException) -> Failure:
    """The same where something must have been captured."""
    found = captured(error)
    assert found is not None
    return found


def test_nothing_is_captured_where_nothing_is_handled() -> None:
    """A failure may be reported outside of any except clause."""
    assert capture_failure("") is None


def test_another_message_than_the_exceptions_is_not_captured() -> None:
    """The exception that happens to be handled is not the cause of what is reported."""
    assert captured(ValueError("boom"), "There was an error running a different task") is None


def test_type_message_and_stack() -> None:
    """A builtin goes by its name, any other class by its module's too; the stack is the traceback module's."""
    found = failure(ValueError("boom"))
    assert (found.type, found.message) == ("ValueError", "boom")
    assert found.stacktrace.startswith("Traceback (most recent call last):\n  File ")
    assert found.stacktrace.endswith("ValueError: boom\n")
    assert failure(json.JSONDecodeError("bad", "{", 0)).type == "json.decoder.JSONDecodeError"


def test_the_whole_chain_is_in_the_stack() -> None:
    """Causes, contexts, notes and groups are printed as Python prints them."""
    inner = ValueError("inner")
    inner.add_note("noted")
    group = ExceptionGroup("both", [inner, KeyError("second")])
    try:
        raise RuntimeError("outer") from group
    except RuntimeError as error:
        found = failure(error)
    for part in ("RuntimeError: outer", "direct cause", "| ValueError: inner", "| noted", "KeyError: 'second'"):
        assert part in found.stacktrace


def test_validation_errors_in_the_chain_are_reduced() -> None:
    """Neither the error itself, nor a text or note made of it, takes the input into the stack."""

    def refuse() -> None:
        Order(card=CARD)  # type: ignore[arg-type]

    with pytest.raises(pydantic.ValidationError) as refused:
        refuse()
    text, as_json = str(refused.value), refused.value.json()
    error = RuntimeError(as_json)
    error.add_note(text)
    error.__cause__ = ExceptionGroup("several", [refused.value, KeyError(text)])
    found = failure(error)
    assert found.message == as_json
    source = "        Order(card=CARD)"
    assert CARD not in found.stacktrace.replace(source, "")
    assert found.stacktrace.count("card: ") == 4


def test_text_in_a_message_does_not_end_a_validation_error() -> None:
    """A message that looks like the rest of a stack trace is no such thing."""
    forged = (
        f"1 validation error for M\nx\n  Value error, a\nTraceback (most recent call last):\n{CARD} [type=value_error]"
    )
    assert CARD not in failure(RuntimeError(forged)).stacktrace.replace(f'{CARD} [type=value_error]")', "")


def test_a_broken_str_is_no_failure() -> None:
    """An exception whose ``str()`` fails is not captured, and raises nothing."""

    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert captured(Broken(), "anything") is None

    class Half(Exception):
        def __str__(self) -> str:
            return "half"

        __notes__ = property(lambda self: 1 / 0)

    captured(Half())


def test_a_broken_cause_is_named() -> None:
    """The chain of exceptions is printed even if ``str()`` fails for one of them."""

    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    error = ValueError("outer")
    error.__cause__ = Broken()
    assert "exception str() failed" in failure(error).stacktrace


def test_deep_recursion_is_bounded() -> None:
    """Of a thousand frames the innermost are kept, and the end of the stack says what happened."""

    def down(depth: int) -> None:
        if depth % 2:
            down(depth + 1)
        else:
            up(depth + 1)

    def up(depth: int) -> None:
        down(depth)

    with pytest.raises(RecursionError) as caught:
        down(0)
    stack = failure(caught.value).stacktrace
    assert len(stack.encode()) <= 64_000
    assert "RecursionError: maximum recursion depth exceeded" in stack.splitlines()[-1]


def test_long_chains_are_bounded() -> None:
    """Of very many chained exceptions, and of a huge group, the last ones are kept."""
    error: Exception = ValueError("first")
    for number in range(5000):
        following = ValueError(f"number {number}")
        following.__context__ = error
        error = following
    stack = failure(error).stacktrace
    assert stack.endswith("ValueError: number 4999\n")
    assert "number 4980\n" in stack
    assert "first" not in stack
    nested = ExceptionGroup("all", [ExceptionGroup("some", [ValueError(CARD)] * 40)] * 40)
    assert len(failure(nested).stacktrace) < 64_000


@pytest.mark.parametrize("text", ["x" * 10_000_000, "line of text\n" * 800_000, "é" * 5_000_000])
def test_huge_messages_are_bounded(text: str) -> None:
    """Ten megabytes are cut in the middle; start and end stay."""
    found = failure(ValueError(text + " the end"))
    assert len(found.message) <= 64_100
    assert len(found.stacktrace.encode()) <= 64_000
    for part in (found.message, found.stacktrace.rstrip()):
        assert part.endswith(" the end")
        assert "characters left out" in part
    assert "ValueError: " in found.stacktrace


def test_no_half_of_a_secret_is_left_at_a_seam() -> None:
    """A text is cut at a line break, or far from the cut: the part by which a secret is known stays with it."""
    secret = "password=" + "s3cr3t" * 20
    for filler in (" ", "\n"):
        for shift in range(0, 130, 7):
            text = "a" * shift + (secret + filler) * 2000
            message = failure(ValueError(text)).message
            assert message.count("s3cr3t" * 20) == message.count("password=") == message.count("s3cr3t") / 20


def test_lone_surrogates_do_not_break_it() -> None:
    """Paths that are no UTF-8 become surrogates in messages."""
    assert failure(ValueError("file \udcff" * 100_000)).stacktrace.endswith("\n")


def trees(depth: int = 2) -> st.SearchStrategy[BaseException]:
    """Exceptions with notes, groups of them and SyntaxErrors, caused by such."""
    text = st.text(max_size=20)
    alone: st.SearchStrategy[BaseException] = st.one_of(
        st.builds(ValueError, text),
        st.builds(KeyError, text),
        st.builds(SyntaxError, text, st.just(("orders.py", 3, 2, "  a = = b\n"))),
    )
    if depth:
        alone |= st.builds(BaseExceptionGroup, text, st.lists(trees(depth - 1), min_size=1, max_size=3))
    causes = st.none() | trees(depth - 1) if depth else st.none()
    return st.builds(_caused, alone, st.lists(text, max_size=2), causes, st.booleans())


def _caused(error: BaseException, notes: list[str], cause: BaseException | None, is_explicit: bool) -> BaseException:
    for note in notes:
        error.add_note(note)
    if is_explicit:
        error.__cause__ = cause
    else:
        error.__context__ = cause
    return error


@given(trees())
def test_with_nothing_to_reduce_the_stack_is_pythons(error: BaseException) -> None:
    """Of texts without validation errors not a character changes, wherever in a chain or group they are."""
    try:
        raise error
    except BaseException as raised:  # noqa: BLE001 - whatever a task raises
        found = capture_failure(str(raised))
        expected = "".join(traceback.format_exception(raised))

    assert found is not None
    assert found.stacktrace == expected


def test_a_syntax_errors_own_message_is_reduced() -> None:
    """Python prints the ``msg`` of a SyntaxError, not its text, below the line of source."""
    with pytest.raises(pydantic.ValidationError) as refused:
        Order(card=CARD)  # type: ignore[arg-type]
    error = SyntaxError(str(refused.value), ("orders.py", 3, 2, "a = = b"))
    error.add_note("noted")

    stack = failure(ExceptionGroup("several", [error])).stacktrace

    assert CARD not in stack
    assert '    |   File "orders.py", line 3\n    |     a = = b\n' in stack
    # Versions of pydantic have names of their own for the kind of error.
    assert re.search(r"SyntaxError: 1 validation error for Order: card: [\w.]+\n    \| noted\n", stack)


def test_notes_that_are_none_are_not_printed() -> None:
    """Code may set anything as notes; what is no text may hold input, so that only its place is kept."""
    error = ValueError("boom")
    error.__notes__ = {"card": CARD}  # type: ignore[assignment]  # what the test is about

    assert failure(error).stacktrace.endswith("ValueError: boom\n<note>\n")
