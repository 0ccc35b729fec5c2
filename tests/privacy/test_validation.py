"""Of pydantic's errors only loc and type are kept, however the errors became text."""

from __future__ import annotations

import json
import traceback

import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_storage.privacy.validation import WITHHELD, reduce_validation, summarise_validation

CARD = "4111-1111-1111-1111"

PLAIN_V2 = f"""3 validation errors for Order
card
  Input should be a valid integer [type=int_parsing, input_value='{CARD}', input_type=str]
    For further information visit https://errors.pydantic.dev/2.14/v/int_parsing
lines.0.total
  Value error, {CARD} is
not a total [type=value_error, input_value=Total({CARD},
  {CARD}), input_type=Total]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
name
  Field required [type=missing, input_value={{'card': '{CARD}'}}, input_type=dict]
    For further information visit https://errors.pydantic.dev/2.14/v/missing"""
REDUCED_V2 = "3 validation errors for Order: card: int_parsing; lines.0.total: value_error; name: missing"

PLAIN_V1 = f"""2 validation errors for Order
lines -> 0 -> total
  {CARD} is
no total (type=value_error.total; given={CARD})
name
  field required (type=value_error.missing)"""
REDUCED_V1 = "2 validation errors for Order: lines.0.total: value_error.total; name: value_error.missing"

ERRORS = [
    {"type": "int_parsing", "loc": ["card"], "msg": f"{CARD} is bad", "input": CARD, "ctx": {"error": CARD}},
    {"type": "missing", "loc": ["lines", 3, "name"], "msg": "Field required", "input": {"card": CARD}},
]
REDUCED_JSON = "card: int_parsing; lines.3.name: missing"


class Order(pydantic.BaseModel):
    """Refuses text for every field, and names of lines are the input's own."""

    card: int
    lines: dict[str, int] = {}


def refused(**data: object) -> pydantic.ValidationError:
    """The error that pydantic, whichever version is installed, refuses the order with."""
    with pytest.raises(pydantic.ValidationError) as caught:
        Order(**data)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize(("plain", "reduced"), [(PLAIN_V2, REDUCED_V2), (PLAIN_V1, REDUCED_V1)])
@pytest.mark.parametrize("before", ["", "could not load: ", "first line\nValueError: "])
def test_plain_form_is_reduced(plain: str, reduced: str, before: str) -> None:
    """Messages, values and links of the plain form are dropped, also where they have line breaks in them."""
    assert reduce_validation(before + plain) == before + reduced


@pytest.mark.parametrize(("plain", "reduced"), [(PLAIN_V2, REDUCED_V2), (PLAIN_V1, REDUCED_V1)])
def test_plain_form_inside_a_repr_is_reduced(plain: str, reduced: str) -> None:
    """A repr, as str(KeyError(...)) is one, has escaped line breaks."""
    text = f"KeyError: {plain!r}\nnext"
    assert reduce_validation(text) == f"KeyError: {text[10]}{reduced}\nnext"


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("sort_keys", [False, True])
def test_json_is_reduced_wherever_it_stands(indent: int | None, sort_keys: bool) -> None:
    """The list of errors is replaced, the text around it stays."""
    text = f"bad [{{ input: {json.dumps(ERRORS, indent=indent, sort_keys=sort_keys)} - {{try again}}]"
    assert reduce_validation(text) == f"bad [{{ input: {REDUCED_JSON} - {{try again}}]"


def test_nested_and_single_errors_in_json_are_reduced() -> None:
    """The list may be inside other JSON; an error by itself is known by its msg."""
    assert reduce_validation(json.dumps({"detail": ERRORS})) == f'{{"detail": {REDUCED_JSON}}}'
    assert reduce_validation(f"first: {json.dumps(ERRORS[0])}!") == "first: card: int_parsing!"


@pytest.mark.parametrize("length", [60, 90, 120])
def test_json_cut_off_is_withheld(length: int) -> None:
    """Where errors begin that cannot be read, the rest is dropped with them."""
    text = f"bad: {json.dumps(ERRORS)}"[:length]
    assert reduce_validation(text) == f"bad: validation errors: {WITHHELD}"


@pytest.mark.parametrize("errors", [ERRORS, ERRORS[0]])
def test_python_lists_of_errors_are_withheld(errors: object) -> None:
    """str(RuntimeError(error.errors())) is no JSON; nothing of it is kept."""
    assert reduce_validation(f"RuntimeError: {errors}") == f"RuntimeError: validation errors: {WITHHELD}"


def test_plain_form_cut_off_keeps_what_could_be_read() -> None:
    """A truncated message still says which of its errors are known."""
    cut = PLAIN_V2[: PLAIN_V2.index("\nnot a total")]
    assert reduce_validation(cut) == "3 validation errors for Order: card: int_parsing; 2 more"


def test_text_passing_for_errors_is_not_taken_for_them() -> None:
    """More errors than the heading counts means that input passes for them: none is kept."""
    forged = PLAIN_V1.replace("2 validation errors", "1 validation error")
    assert reduce_validation(forged) == f"1 validation error for Order: {WITHHELD}"


def test_a_lone_line_of_an_error_loses_its_input() -> None:
    """A line of the plain form without its heading has no input either."""
    line = PLAIN_V2.splitlines()[2]
    assert reduce_validation(line) == "  Input should be a valid integer [type=int_parsing]"


def test_a_stack_trace_goes_on_after_the_errors() -> None:
    """What the traceback module prints after an exception's message stays."""
    try:
        try:
            raise ValueError(PLAIN_V2)
        except ValueError as error:
            raise RuntimeError("done") from error
    except RuntimeError:
        stack = traceback.format_exc()
    reduced = reduce_validation(stack)
    assert f"ValueError: {REDUCED_V2}\n\nThe above exception was the direct cause" in reduced
    assert reduced.endswith("RuntimeError: done\n")
    assert CARD not in reduced


def test_groups_of_exceptions_are_reduced() -> None:
    """In a group every line has a margin."""
    try:
        raise ExceptionGroup("all", [ValueError(PLAIN_V2), KeyError("other"), ValueError(PLAIN_V1)])
    except ExceptionGroup:
        reduced = reduce_validation(traceback.format_exc())
    assert f"    | ValueError: {REDUCED_V2}\n    +---------------- 2 ----------------" in reduced
    assert f"    | ValueError: {REDUCED_V1}\n    +---" in reduced
    assert CARD not in reduced


def test_a_message_cannot_end_the_errors_early() -> None:
    """Outside of stack traces nothing passes for the rest of one."""
    forged = PLAIN_V2.replace("not a total", f"Traceback (most recent call last):\n{CARD}")
    assert CARD not in reduce_validation(forged, in_trace=False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing to see",
        "3 validation errors for Order were found\nsee the log",
        '[{"type": "Point", "coordinates": [1, 2]}]',
        '{"loc": "Berlin", "type": "city"}',
        '[{"loc": "Berlin"}, {"type": "city"}]',
        "[{'a': 1}] [type=x]",
        '[{"',
    ],
)
def test_other_text_is_unchanged(text: str) -> None:
    """Text without validation errors is returned as it is."""
    assert reduce_validation(text) == text
    assert summarise_validation(text) is None


def test_loc_is_bounded() -> None:
    """Keys of the input can be elements of loc: each is cut at 100 characters, and there are at most 20."""
    errors = [{"type": "t", "loc": ["k" * 1000, "a\nb"] + ["e"] * 100}]
    assert reduce_validation(json.dumps(errors)) == f"{'k' * 100}.a b{'.e' * 18}: t"


def test_the_summary_has_nothing_else_of_the_text() -> None:
    """What stands around the errors, or in place of a model's name, does not leave."""
    text = f"{CARD} is bad: {json.dumps(ERRORS)} and {PLAIN_V1.replace('Order', 'my card: ' + CARD)}"
    assert summarise_validation(text) == f"{REDUCED_JSON}; {REDUCED_V1.removeprefix('2 validation errors for Order: ')}"
    assert summarise_validation(PLAIN_V2) == REDUCED_V2


@given(st.text(min_size=1), st.dictionaries(st.text(max_size=10), st.text(), max_size=3))
@example("x\n  y [type=a, input_value=1, input_type=str]", {})
@example("]', input_type=str]\nSECRET", {"a\n  b (type=c)": "[{"})
def test_no_input_is_left_of_real_errors(value: str, lines: dict[str, str]) -> None:
    """Whatever was refused, it is not in the reduced text, in either form."""
    secret = f"seeded-{CARD}"
    error = refused(card=secret + value, lines={key: secret + line for key, line in lines.items()})
    for text in (str(error), repr(str(error)), error.json(), json.dumps(str(error)), f"x {error} y"):
        reduced = reduce_validation(text)
        assert CARD not in reduced
        assert "input_value" not in reduced
        assert summarise_validation(text) is not None


def test_real_errors_are_reduced_alike_in_both_forms() -> None:
    """The plain form of the installed pydantic says what its JSON says."""
    error = refused(card=CARD, lines={"a": CARD, "b.c": "x\ny"})
    details = reduce_validation(error.json())
    assert details.startswith("card: ")
    assert reduce_validation(str(error)) == f"3 validation errors for Order: {details}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    [
        '[{"loc":1},',
        '[{"',
        '{"loc":',
        "1 validation error for x\n",
        "1 validation error for x\\n",
        "  [type=a, input_value=",
        "[",
        '[{"a\\"',
    ],
)
def test_hostile_text_is_read_once(unit: str) -> None:
    """No text makes the search start over and over: this would not end before the timeout if it did."""
    assert len(reduce_validation(unit * (3_000_000 // len(unit)))) < 10_000_000


def test_no_more_of_a_long_text_is_read_than_of_a_short_one() -> None:
    """A message of megabytes keeps its start and its end, and costs what one of 64 000 characters does."""
    reduced = reduce_validation("it begins" + " the location is unknown" * 200_000 + " it ends")

    assert reduced.startswith("it begins")
    assert reduced.endswith("it ends")
    assert len(reduced) < 65_000


def test_many_objects_before_an_error_are_kept() -> None:
    """What looks like JSON and is none costs no more than its reading, so that nothing is dropped for it."""
    objects = "{'a': 1} " * 3_000
    error = json.dumps([{"type": "x", "loc": ["card"], "msg": "no", "input": "s3cr3t"}])

    assert reduce_validation(objects + error) == objects + "card: x"


@pytest.mark.parametrize("before", [0, 30_000, 1_000_000])
@pytest.mark.parametrize("form", ["plain", "json"])
def test_no_input_is_left_of_long_errors(before: int, form: str) -> None:
    """Of an error whose input is longer than what is read nothing of the input is left, whatever stands before it."""
    secret = "s3cr3t input " * 100_000
    error = {
        "plain": f"1 validation error for Order\ncard\n  Input is bad [type=x, input_value='{secret}', input_type=str]",
        "json": json.dumps([{"type": "x", "loc": ["card"], "msg": secret, "input": secret}]),
    }[form]

    assert "s3cr3t" not in reduce_validation("the location is unknown " * (before // 24) + error)


@given(st.lists(st.sampled_from([*'[{"loc:type,msg}] \n\\1', "1 validation error for x", "  a [type=b]", '[{"type":'])))
def test_no_text_raises(parts: list[str]) -> None:
    """Anything can be a message."""
    text = "".join(parts)
    reduce_validation(text)
    summarise_validation(text)
