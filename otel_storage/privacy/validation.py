"""Reduces pydantic's validation errors to their places and kinds.

The texts of pydantic 1 and 2 contain the refused input, and validators' messages about it. Only ``loc`` and ``type`` of
each error are kept, however the errors were turned into text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from otel_storage.privacy.lines import cut_between_words

WITHHELD = "details withheld"
"""Replaces errors that were recognised but could not be parsed."""

_READ = 64_000
"""Characters of a text that are read: of a longer one the start, and the end where no validation error can be in it."""

_FIRST_WINDOW = 2_000
"""Characters that the first attempt to read a JSON value is given; each later one is given eight times as many."""

_ELEMENT_LENGTH = 100
_ELEMENTS = 20
_ERRORS = 100
_BLOCK_SIGNS = ("loc", "validation error", "[type=")
# One of them is in every validation error. Substrings are found some fifty times as fast as by the patterns below.
_ERROR_SIGNS = ("validation error", "[type=", "(type=", '"loc"', "'loc'", '"loc\\', "'loc\\")

_HEADING = re.compile(r"(?<![0-9])[0-9]{1,7} validation errors? for ")
_LINE_END = re.compile(r"\n|\\+n")
_GROUP_MARGIN = re.compile(r"\n?([ ]{0,100}\| )[^\n]*\Z")
_TITLE = re.compile(r"[\w.\[\], ]{1,100}")
_TYPE_V2 = re.compile(r"\[type=([A-Za-z][\w.-]{0,99})(?:, input_value=|(?=\]\s*$))")
_TYPE_V1 = re.compile(r"\(type=([A-Za-z][\w.-]{0,99})[;)]")
_INPUT = re.compile(r"(\[type=[A-Za-z][\w.-]{0,99}), input_value=[^\n]*")
_ENTRY_END = re.compile(r"(?:, input_type=[^\]]{1,300}|\[type=[A-Za-z][\w.-]{0,99})\]\s*\Z|\)\s*\Z")
_LOC_PART = re.compile(r"`[^`]*+`|[^.]+")
_URL_LINE = "For further information visit "

_OBJECTS = re.compile(r"(?:\[\s*)?\{\s*\\*[\"']")
_ERROR_KEY = re.compile(r"(?:\[\s*)?\{\s*\\*([\"'])(?:type|loc|msg|ctx|input|url)\\*\1\s*:")
_LOC_KEY = re.compile(r"[\"']loc\\*[\"']")

_TRACE_GOES_ON = re.compile(
    r"""^[ ]*(?:\|[ ]*)?(?:
        Traceback[ ]\(most[ ]recent[ ]call[ ]last\):
        | The[ ]above[ ]exception[ ]was[ ]the[ ]direct[ ]cause
        | During[ ]handling[ ]of[ ]the[ ]above[ ]exception
        | \+[ ]Exception[ ]Group[ ]Traceback
        | \+-
    )""",
    re.MULTILINE | re.VERBOSE,
)

_decoder = json.JSONDecoder()
_CUT_OFF = "Unterminated string starting at"
"""What the decoder says of a string whose end it was not given; its place is the string's start."""

_LONGEST_TOKEN = 20
"""Characters at the end of what the decoder was given in which a failure may come of the cut."""


class _Block(NamedTuple):
    start: int
    end: int
    heading: str
    """The text before the errors that may stay, ``2 validation errors for Order``; empty for JSON."""
    details: str


class _Next:
    """Finds the next match at or after a position that only grows, so that a text is searched once."""

    def __init__(self, pattern: re.Pattern[str], text: str) -> None:
        self._pattern, self._text = pattern, text
        self._found = pattern.search(text)

    def __call__(self, position: int) -> re.Match[str] | None:
        if self._found is not None and self._found.start() < position:
            self._found = self._pattern.search(self._text, position)
        return self._found

    def start(self, position: int) -> int:
        """Where the next match starts; the end of the text if there is none."""
        found = self(position)
        return len(self._text) if found is None else found.start()


def reduce_validation(text: str, *, in_trace: bool = True) -> str:
    """Replace every validation error in the text by its ``loc`` and ``type``: ``card: int_parsing; lines.3: missing``.

    This recognises the JSON of pydantic's ``errors()``, anywhere in the text, and the plain form ("2 validation errors
    for Order" and the lines after it), of pydantic 1 and 2. Everything else in them is dropped: messages, input,
    context. If errors cannot be parsed to their end, the rest of the text is dropped with them.

    At most 64 000 characters are read. Of a longer text the middle is left out, and the end with it where a validation
    error may have begun before that end: its input could not be told from other text there.

    Args:
        text: Any text; without validation errors it is returned as it is.
        in_trace: Whether the text may be a stack trace, which goes on after the errors. Pass False for the message of
            one exception, so that no text in it is taken for such a continuation.
    """
    if not any(sign in text for sign in _BLOCK_SIGNS):
        return text
    text = _bounded(text)
    kept = []
    position = 0
    for block in _blocks(text, in_trace):
        kept += [text[position : block.start], _join(block.heading, block.details)]
        position = block.end
    kept.append(text[position:])
    return _INPUT.sub(r"\1]", "".join(kept))


def summarise_validation(text: str) -> str | None:
    """The ``loc`` and ``type`` of the validation errors in the text and nothing else of it; None if there are none."""
    blocks = list(_blocks(text[:_READ], in_trace=False)) if any(sign in text for sign in _BLOCK_SIGNS) else []
    if not blocks:
        return None
    return "; ".join(_join(_plain_heading(block.heading), block.details) for block in blocks)


def _bounded(text: str) -> str:
    if len(text) <= _READ:
        return text
    return text[:_READ] if any(sign in text for sign in _ERROR_SIGNS) else cut_between_words(text, _READ)


def _plain_heading(heading: str) -> str:
    title = heading.partition(" for ")[2]
    return heading if _TITLE.fullmatch(title) else ""


def _join(heading: str, details: str) -> str:
    if heading:
        return f"{heading}: {details}"
    return details if details != WITHHELD else f"validation errors: {details}"


def _blocks(text: str, in_trace: bool) -> Iterator[_Block]:
    next_plain = _Next(_HEADING, text)
    next_json = _Next(_OBJECTS, text)
    read_plain = _PlainReader(text, in_trace)
    read_json = _JsonReader(text, in_trace)
    position = 0
    while position < len(text):
        plain, objects = next_plain(position), next_json(position)
        if objects is not None and (plain is None or objects.start() < plain.start()):
            block, position = read_json(objects)
        elif plain is not None:
            block, position = read_plain(plain)
        else:
            return
        if block is not None:
            yield block


class _JsonReader:
    """Reads a list of errors, or a single one, as JSON."""

    def __init__(self, text: str, in_trace: bool) -> None:
        self._text = text
        self._next_loc = _Next(_LOC_KEY, text)
        self._next_boundary = _Next(_TRACE_GOES_ON, text) if in_trace else None
        # Each attempt may read far ahead in vain, so the total reading is limited.
        self._budget = 4 * len(text) + 1_000_000

    def __call__(self, found: re.Match[str]) -> tuple[_Block | None, int]:
        start = found.start()
        value, end = self._decode(start)
        errors = _errors(value)
        if errors is not None:
            return _Block(start, end, "", _details(errors)), end
        if end == start and self._looks_cut_off(start):
            end = self._next_boundary.start(start) if self._next_boundary else len(self._text)
            end = start + len(self._text[start:end].rstrip(" |\n"))
            return _Block(start, end, "", WITHHELD), end
        return None, start + 1

    def _decode(self, start: int) -> tuple[Any, int]:
        """The JSON value at ``start`` and its end; the end is ``start`` if it cannot be read.

        A failure of the decoder takes time in proportion to all that it was given, so that it is given little at first.
        """
        size = _FIRST_WINDOW
        while self._budget >= 0:
            window = self._text[start : start + size]
            try:
                value, end = _decoder.raw_decode(window)
            except json.JSONDecodeError as error:
                self._budget -= error.pos
                is_cut = len(window) == size and (error.msg == _CUT_OFF or error.pos > size - _LONGEST_TOKEN)
                if not is_cut:
                    break
                size *= 8
            except (RecursionError, ValueError):  # ValueError: an integer of too many digits
                self._budget -= 100_000
                break
            else:
                self._budget -= end
                return value, start + end
        return None, start

    def _looks_cut_off(self, start: int) -> bool:
        if self._budget >= 0 and not _ERROR_KEY.match(self._text, start):
            return False
        boundary = self._next_boundary.start(start) if self._next_boundary else len(self._text)
        return self._next_loc.start(start) < boundary


def _errors(value: Any) -> list[dict[str, Any]] | None:
    if isinstance(value, dict) and {"loc", "type", "msg"} <= value.keys():
        return [value]
    if isinstance(value, list) and value and all(isinstance(e, dict) and {"loc", "type"} <= e.keys() for e in value):
        return value
    return None


def _details(errors: list[dict[str, Any]]) -> str:
    pairs = []
    for error in errors[:_ERRORS]:
        loc = error["loc"]
        pairs.append((loc if isinstance(loc, list) else [loc], str(error["type"])))
    return _listing(pairs, len(errors))


def _listing(pairs: Iterable[tuple[list[Any], str]], total: int) -> str:
    entries = [f"{_path(loc)}: {_element(kind)}" for loc, kind in pairs][:_ERRORS]
    if total > len(entries):
        entries.append(f"{total - len(entries)} more")
    return "; ".join(entries)


def _path(loc: list[Any]) -> str:
    return ".".join(_element(part) for part in loc[:_ELEMENTS]) or "__root__"


def _element(part: Any) -> str:
    # A key of the input can be an element.
    return " ".join(str(part)[: 2 * _ELEMENT_LENGTH].split())[:_ELEMENT_LENGTH]


class _PlainReader:
    """Reads a heading and the lines after it, as ``str(error)`` has them.

    Pydantic 2 prints a line of ``loc`` (none for the root), then ``  message [type=..., input_value=..., ...]``, then
    an indented link; pydantic 1 a line of ``loc``, then ``  message (type=...; ...)``. Keys, messages and input may all
    have line breaks in them. Inside the repr of a string all line breaks are escaped.
    """

    def __init__(self, text: str, in_trace: bool) -> None:
        self._text = text
        self._next_line_end = _Next(_LINE_END, text)
        self._next_real_line_end = _Next(re.compile("\n"), text)
        self._next_heading = _Next(_HEADING, text)
        self._next_boundary = _Next(_TRACE_GOES_ON, text) if in_trace else None
        self._rejected = -1

    def __call__(self, found: re.Match[str]) -> tuple[_Block | None, int]:
        text, start = self._text, found.start()
        line_end = self._next_line_end(found.end())
        if line_end is None or line_end.start() == self._rejected:
            return None, found.end()
        body, end = line_end.end(), self._body_end(line_end)
        lines = _split_lines(text[body:end], line_end[0])
        if self._next_boundary and (margin := _GROUP_MARGIN.search(text, max(0, start - 300), start)):
            lines = [line.removeprefix(margin[1]) for line in lines]
        if not _is_body(lines):
            self._rejected = line_end.start()
            return None, found.end()
        end = body + len(text[body:end].rstrip(" |\n"))
        title = text[found.end() : line_end.start()]
        total = int(found[0].split()[0])
        return _Block(start, end, found[0] + title[:200], _read_lines(lines, total)), end

    def _body_end(self, line_end: re.Match[str]) -> int:
        if line_end[0] != "\n":
            end = self._next_real_line_end.start(line_end.end())
        elif self._next_boundary:
            end = self._next_boundary.start(line_end.end())
        else:
            end = len(self._text)
        return min(end, self._next_heading.start(line_end.end()))


def _is_body(lines: list[str]) -> bool:
    return any(line.startswith("  ") for line in lines[:50]) or any(_type_of(line) for line in lines)


def _type_of(line: str) -> str | None:
    found = _TYPE_V2.search(line)
    if found is not None:
        return found[1]
    # A message is before the bracket, so the bracket is the last one.
    in_parentheses = _TYPE_V1.findall(line)
    return in_parentheses[-1] if in_parentheses else None


def _read_lines(lines: list[str], total: int) -> str:
    pairs: list[tuple[list[Any], str]] = []
    loc: list[str] = []
    place = "loc"
    for line in lines:
        if place == "loc" and not line.startswith("  "):
            loc.append(line)
            continue
        if place == "loc" and line.lstrip().startswith(_URL_LINE):
            continue
        if place != "input":
            place = "message"
            kind = _type_of(line)
            if kind is None:
                continue
            pairs.append((_split_loc(" ".join(loc)), kind))
            loc, place = [], "input"
        if _ENTRY_END.search(line):
            place = "loc"
    # More errors than the heading says: an input looks like an error, and it is unclear which.
    if not pairs or len(pairs) > total:
        return WITHHELD
    return _listing(pairs, total)


def _split_lines(body: str, line_end: str) -> list[str]:
    if line_end == "\n":
        return body.split("\n")
    return re.split(rf"(?<!\\){re.escape(line_end)}", body)


def _split_loc(loc: str) -> list[Any]:
    # Pydantic 2 puts a name that contains a dot between backticks.
    return [part.strip("`") for item in loc.strip().split(" -> ") for part in _LOC_PART.findall(item)]
