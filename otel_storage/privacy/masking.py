"""Masks secrets in a text before it leaves the process, and cuts texts to size.

Everything here takes time in proportion to the text, whatever the text.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate, zip_longest
from typing import Any

from otel_storage.privacy.withholding import withheld_on_error

MASK = "***"
VALUE_BYTES = 2000
"""Longest attribute value, in bytes of UTF-8: Grafana Tempo cuts at 2048."""

ELLIPSIS = "…"
_LEFT_OUT = "\n… cut …\n"
_SCRUBBED_WHOLE = 128_000
_SECRET_LENGTH = 8_000


def scrub(text: str) -> str:
    """Mask secrets in the text with ``***``.

    They are: credentials in URLs; the values of names that sound secret (password, token, api key, authorization ...),
    in ``key=value``, ``key: value``, JSON and Python source; Bearer and Basic tokens; JSON web tokens, AWS access key
    ids and tokens with a well-known prefix; PEM private keys; payment card numbers (13 to 19 digits that start with 3
    to 6 and pass the check of ISO/IEC 7812-1, also in groups). Masking may cover more than the secret; a secret that
    looks like ordinary words is not found.
    """
    for step in (_scrub_private_keys, _scrub_urls, _scrub_pairs, _scrub_tokens, _scrub_cards):
        text = step(text)
    return text


def scrub_and_cut(text: str, limit: int = VALUE_BYTES) -> str:
    """The start of the scrubbed text, at most ``limit`` bytes; of a huge text only the needed part is scrubbed."""
    return cut(scrub(text) if len(text) <= _SCRUBBED_WHOLE else _scrubbed_head(text, limit) + ELLIPSIS, limit)


def scrub_and_cut_middle(text: str, limit: int = VALUE_BYTES) -> str:
    """The start and the end of the scrubbed text, at most ``limit`` bytes in all."""
    if len(text) > _SCRUBBED_WHOLE:
        text = f"{_scrubbed_head(text, limit)}{_LEFT_OUT}{_scrubbed_tail(text, limit)}"
    else:
        text = scrub(text)
    return cut_middle(text, limit)


def _scrubbed_head(text: str, length: int) -> str:
    # Cutting may have removed the part by which a secret at the end is recognised: drop as much as a secret can be
    # long.
    return scrub(text[: length + _SECRET_LENGTH])[:-_SECRET_LENGTH]


def _scrubbed_tail(text: str, length: int) -> str:
    return scrub(text[-(length + _SECRET_LENGTH) :])[_SECRET_LENGTH:]


def cut(text: str, limit: int = VALUE_BYTES) -> str:
    """The text, or its start and an ellipsis, in at most ``limit`` bytes of UTF-8; no character is broken.

    Characters that UTF-8 cannot express (lone surrogates) become question marks.
    """
    if len(text) <= limit and text.isascii():
        return text
    data = text[: limit + 1].encode("utf-8", "replace")
    if len(data) <= limit and len(text) <= limit:
        return data.decode()
    return _head(data, limit, ELLIPSIS)


def cut_middle(text: str, limit: int) -> str:
    """The text, or a third of its start and two of its end around a mark, in at most ``limit`` bytes of UTF-8."""
    if len(text) <= limit:
        data = text.encode("utf-8", "replace")
        if len(data) <= limit:
            return data.decode()
    room = limit - len(_LEFT_OUT.encode())
    if room <= 0:
        return cut(text, limit)
    head = text[:room].encode("utf-8", "replace")[: room // 3].decode("utf-8", "ignore")
    tail = text[-room:].encode("utf-8", "replace")[-(room - room // 3) :].decode("utf-8", "ignore")
    return f"{head}{_LEFT_OUT}{tail}"


def _head(data: bytes, limit: int, mark: str) -> str:
    size = len(mark.encode())
    if limit < size:
        return data[:limit].decode("utf-8", "ignore")
    return data[: limit - size].decode("utf-8", "ignore") + mark


@withheld_on_error
def as_json(value: Any) -> str:
    """The value as JSON, with secrets masked in names, texts and numbers; keys are sorted."""
    try:
        return _encode(_redact(value))
    except (RecursionError, TypeError, ValueError):
        return "withheld: it cannot be written as JSON"


# Reuse one encoder: json.dumps() would make an encoder for each value.
_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, default=str).encode


def _redact(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            scrub(str(key)): MASK if item not in (None, "") and _SECRET_NAME.search(str(key)) else _redact(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redact(item) for item in value]
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, int) and value > 10**12:
        return value if scrub(str(value)) == str(value) else MASK
    return value


# --- private keys ---

_PEM_MARK = re.compile(r"-----(BEGIN|END) [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----")
_PEM_BODY = re.compile(r"(?:[\w+/=\s\\:,.|]|-(?!----))*+")
_PEM_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/= \t\r\n\\|")
_PEM_LENGTH = 20_000


def _scrub_private_keys(text: str) -> str:
    if "PRIVATE KEY" not in text:
        return text
    kept = []
    position = 0
    marks = list(_PEM_MARK.finditer(text))
    for mark, following in zip_longest(marks, marks[1:]):
        start, end = mark.end(), mark.end()
        if mark[1] == "BEGIN":
            end = _end(_PEM_BODY, text, start)
            if following and following[1] == "END" and following.start() - start < _PEM_LENGTH:
                end = following.start()
        elif position < mark.start():
            # cut off before the start of the key
            start = end = mark.start()
            while start > position and end - start < _PEM_LENGTH and text[start - 1] in _PEM_CHARACTERS:
                start -= 1
        if start < end:
            kept += [text[position:start], MASK]
            position = end
    kept.append(text[position:])
    return "".join(kept)


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return found.end() if found else position


# --- credentials in URLs ---

_RUN = re.compile(r"\S+")
_USER_AND_PASSWORD = re.compile(r"([^\s/?#@:\"'<>]{0,256}):(?!\d{1,5}(?:[/?#\"'<>,]|\Z))(.+)", re.DOTALL)
_LONE_TOKEN = re.compile(r"[^/?#@:\"'<>]{16,}")


def _scrub_urls(text: str) -> str:
    if "://" not in text or "@" not in text:
        return text
    return _RUN.sub(_scrub_url_run, text)


def _scrub_url_run(found: re.Match[str]) -> str:
    run = found[0]
    if "://" not in run or "@" not in run:
        return run
    scheme, *pieces = run.split("://")
    return "://".join([scheme, *map(_scrub_userinfo, pieces)])


def _scrub_userinfo(piece: str) -> str:
    # A password may hold any character, not only those that RFC 3986 allows: it ends at the last @ before a quote.
    unquoted = re.split(r"[\"'<>]", piece, maxsplit=1)[0]
    at = unquoted.rfind("@")
    if at < 0:
        at = piece.find("@")
    if at < 0:
        return piece
    userinfo = piece[:at]
    with_password = _USER_AND_PASSWORD.fullmatch(userinfo)
    if with_password:
        return f"{with_password[1]}:{MASK}{piece[at:]}"
    if _LONE_TOKEN.fullmatch(userinfo):
        return f"{MASK}{piece[at:]}"
    return piece


# --- values of names that sound secret ---

_NAME = r"""(?:
    passw(?:or)?d | passphrase | passcode | pwd | secret | token | api[ _-]?key | access[ _-]?key | private[ _-]?key
    | authori[sz]ation | credential | cookie | session[ _-]?id
    | (?<![a-z])(?:dsn|auth|pass|jwt|cvv|cvc|ssn)(?![a-z])
)"""
# Every such name contains one of these, and most texts contain none; a search for the names takes twenty times as long.
# None contains an i: re.IGNORECASE also matches special forms of i, which casefold() does not map to it.
_NAME_SIGNS = (
    *("pass", "pwd", "secret", "token", "key", "auth", "credent"),
    *("cook", "sess", "dsn", "jwt", "cvv", "cvc", "ssn"),
)
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE | re.VERBOSE)
_PAIR = re.compile(
    rf"""(?P<name>{_NAME}) [\w-]{{0,40}}+
    (?:
        \\*["'][ ]{{0,4}},[ ]{{0,4}}(?=\\*["'])                         # ("password", "...")
        | (?:\\*["'])?\]?[ \t]{{0,4}}(?:=>|:=|!?={{1,3}}|:)[ \t]{{0,4}}  # password=  "password":  ["password"] =
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_QUOTED = (
    re.compile(r'[bBrRfFuU]{0,2}(?:"{3}|\'{3})(.*?)(?="{3}|\'{3}|\Z)', re.DOTALL),
    re.compile(r'[bBrRfFuU]{0,2}"((?:[^"\\\n]|\\.)*+)', re.DOTALL),
    re.compile(r"[bBrRfFuU]{0,2}'((?:[^'\\\n]|\\.)*+)", re.DOTALL),
    re.compile(r"(?P<quote>\\+[\"'])(?P<value>.*?)(?=(?P=quote)|$)", re.MULTILINE),
)
_LINE = re.compile(r"[^\r\n\"']*+")
_WORD = re.compile(r"(?:[^\s\"']|[\"'](?![,:;}\])\s]|\Z))*+")
_AFTER_WORD = ",;)]}>\"'"
_SCHEME = re.compile(r"(?:bearer|basic|digest|negotiate|token|apikey)[ \t]{1,4}(?=\S)", re.IGNORECASE)
_ASSIGNED = re.compile(r"[ \t]{0,4}=[ \t]{0,4}")
_BRACKETED = re.compile(r"\"(?:[^\"\\]|\\.)*+\"?|'(?:[^'\\]|\\.)*+'?|[\[({]|[\])}]|[^\[({\])}\"']+", re.DOTALL)
_BRACKETED_LENGTH = 4_000

# After a name in a reduced validation error comes the kind of the error, not a value.
_ERROR_KIND = re.compile(
    r"missing|enum|extra_forbidden|too_(?:short|long)|(?:greater|less)_than(?:_equal)?|multiple_of"
    r"|(?:value|type|assertion|literal)_error(?:\.[a-z_.]{1,60})?"
    r"|(?:string|bytes|bool|int|float|decimal|date|datetime|time|uuid|url|list|dict|set|tuple|model)"
    r"_(?:type|parsing|too_short|too_long|pattern_mismatch|from_float)"
)


def _has(signs: tuple[str, ...], text: str) -> bool:
    return any(map(text.__contains__, signs))


def _scrub_pairs(text: str) -> str:
    if not _has(_NAME_SIGNS, text.casefold()):
        return text
    kept = []
    position = 0
    while found := _PAIR.search(text, position):
        start, end = _secret(text, found.end(), found["name"].lower())
        kept.append(text[position:start])
        if end > start and not (found[0].rstrip().endswith(":") and _ERROR_KIND.fullmatch(text, start, end)):
            kept.append(MASK)
        else:
            kept.append(text[start:end])
        position = end
    kept.append(text[position:])
    return "".join(kept)


def _secret(text: str, position: int, name: str) -> tuple[int, int]:
    """The position of the secret in the value that begins at ``position``."""
    for pattern in _QUOTED:
        if quoted := pattern.match(text, position):
            return quoted.span(quoted.lastindex or 0)
    if text[position : position + 1] in ("{", "[", "("):
        return position, _closing_bracket(text, position)
    if name.startswith(("authori", "cookie")):
        return position, _trimmed(text, position, _end(_LINE, text, position))
    word = _end(_SCHEME, text, position)
    end = _trimmed(text, word, _end(_WORD, text, word))
    # "token: str = ..." in a line of source: the value is still to come.
    if name and (assigned := _ASSIGNED.match(text, end)):
        end = _secret(text, assigned.end(), "")[1]
    return position, end


def _trimmed(text: str, start: int, end: int) -> int:
    return start + len(text[start:end].rstrip(_AFTER_WORD))


def _closing_bracket(text: str, position: int) -> int:
    depth = 0
    for part in _BRACKETED.finditer(text, position, position + _BRACKETED_LENGTH):
        depth += (part[0] in ("{", "[", "(")) - (part[0] in ("}", "]", ")"))
        if depth == 0:
            return part.end()
    line_end = text.find("\n", position)
    return len(text) if line_end < 0 else max(line_end, position + 1)


# --- tokens that are known by their looks ---

_BEARER = re.compile(r"\b(bearer[ \t]{1,4})[\w.~+/=-]{6,}+", re.IGNORECASE)
_BASIC = re.compile(r"\b((?:[Bb]asic|BASIC)[ \t]{1,4})(?=[a-z]{0,200}[A-Z0-9+/=])[\w+/=-]{6,}+")
_AWS_KEYS = ("AKIA", "ASIA", "AGPA", "AIDA", "AROA", "ABIA", "ACCA", "ANPA", "ANVA", "AIPA")
_KNOWN = re.compile(
    r"eyJ[\w-]{17,}+(?:\.[\w-]*+)*+"  # base64url of '{"': a JSON web token
    r"|(?<![A-Z0-9])(?:" + "|".join(_AWS_KEYS) + r")[A-Z0-9]{16}(?![A-Z0-9])"
    r"|(?<![A-Za-z0-9])(?:gh[oprsu]_|github_pat_|glpat-|xox[abeoprs]-|[rs]k_(?:live|test)_|AIza)[\w-]{16,}+"
)
# As for names: every such token contains one of these.
_KNOWN_SIGNS = (
    *("eyJ", *_AWS_KEYS, "gho_", "ghp_", "ghr_", "ghs_", "ghu_", "github_pat_", "glpat-"),
    *("xox", "k_live_", "k_test_", "AIza"),
)


def _scrub_tokens(text: str) -> str:
    if "bearer" in text.casefold():
        text = _BEARER.sub(rf"\1{MASK}", text)
    if "asic" in text or "ASIC" in text:
        text = _BASIC.sub(rf"\1{MASK}", text)
    return _KNOWN.sub(MASK, text) if _has(_KNOWN_SIGNS, text) else text


# --- payment cards ---

_DIGITS = re.compile(r"[0-9](?:[ -]?[0-9]){12,}+")
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def _scrub_cards(text: str) -> str:
    return _DIGITS.sub(_scrub_digits, text)


def _scrub_digits(found: re.Match[str]) -> str:
    run = found[0]
    places = [place for place, character in enumerate(run) if character in "0123456789"]
    digits = [int(run[place]) for place in places]
    # The sum for each digit, with digits at even or odd positions doubled for Luhn's check.
    sums = [
        [0, *accumulate(_DOUBLED[digit] if index % 2 == odd else digit for index, digit in enumerate(digits))]
        for odd in (0, 1)
    ]
    kept = []
    position = index = 0
    while index <= len(digits) - 13:
        length = _card_length(places, digits, sums, index)
        if length:
            kept += [run[position : places[index]], MASK]
            position = places[index + length - 1] + 1
        index += length or 1
    kept.append(run[position:])
    return "".join(kept)


def _card_length(places: list[int], digits: list[int], sums: list[list[int]], start: int) -> int:
    if not 3 <= digits[start] <= 6 or (start and places[start] == places[start - 1] + 1):
        return 0
    for length in range(min(19, len(digits) - start), 12, -1):
        end = start + length
        if end < len(digits) and places[end] == places[end - 1] + 1:
            continue
        luhn = sums[end % 2]
        if (luhn[end] - luhn[start]) % 10 == 0:
            return length
    return 0
