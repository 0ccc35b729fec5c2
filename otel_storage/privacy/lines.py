"""Puts foreign text on one line of a log, an error or a terminal."""

from __future__ import annotations

LONGEST = 2000
"""How many characters of a text are read for one line: some messages have megabytes."""


def as_text(message: object) -> str:
    """The text of a message that may be any object; never raises."""
    if isinstance(message, str):
        return message
    try:
        return str(message)
    except Exception as error:  # noqa: BLE001 - any code may run in a user's __str__
        return f"a {type(message).__name__} without a text: its __str__ raises {type(error).__name__}"


def in_utf8(text: str) -> str:
    """The text with a question mark for each character that UTF-8 cannot express.

    Such characters are halves of surrogate pairs. Python reads a byte of an environment variable as one if the byte is
    not part of UTF-8.
    """
    return text.encode("utf-8", "replace").decode()


def one_line(text: object, longest: int | None = LONGEST, instead: str = "\N{REPLACEMENT CHARACTER}") -> str:
    """The text on one line, without characters that control a terminal: escapes, bells, right-to-left marks.

    Args:
        text: A text, or an object that is converted to one.
        longest: How many characters are read; None for all.
        instead: Replaces a character that cannot be printed.
    """
    line = str(text)[:longest]
    if not line.isprintable():
        line = "".join(char if char.isprintable() or char.isspace() else instead for char in line)
    return " ".join(line.split())


def cut_between_words(text: str, limit: int) -> str:
    """Cut to about ``limit`` characters, between lines or words, so that no part of a secret remains."""
    if len(text) <= limit:
        return text
    seam = limit // 8
    head, tail = text[: limit // 3], text[len(text) - (limit - limit // 3) :]
    for gap in ("\n", " "):
        if (end := head.rfind(gap, max(0, len(head) - seam))) >= 0:
            head = head[: end + 1]
            break
    for gap in ("\n", " "):
        if (start := tail.find(gap, 0, seam)) >= 0:
            tail = tail[start + 1 :]
            break
    return f"{head}... {len(text) - len(head) - len(tail)} characters left out ...\n{tail}"
