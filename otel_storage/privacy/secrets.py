"""Turns foreign text, such as an answer or an error, into one line without credentials, to log, store or show."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from otel_storage.privacy.lines import one_line

LONGEST_TEXT = 300
"""How many characters of a foreign text, such as a server's message, go into a reason."""

HIDDEN = "***"

_LONGEST_SCRUBBED = 4_096

_SHORTEST_SECRET = 4  # hiding shorter values would riddle every text with stars
_HARMLESS_HEADERS = frozenset(
    {"accept", "accept-encoding", "connection", "content-encoding", "content-type", "user-agent"}
)

_USERINFO = re.compile(r"//[^/\s?#'\"]+@")
_PASSWORD = re.compile(r"[^\s/:@'\"]+:[^\s/@'\"]+@")
_QUERY = re.compile(r"((?:https?://|url: /)[^\s?#'\"<>]*)\?[^\s'\"<>)]*")
_AUTHORIZATION = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{16,}", re.IGNORECASE)
_ADDRESS = re.compile(r"\s+(?:object )?at 0x[0-9a-fA-F]+")


def without_secrets(text: str, secrets: Iterable[str] = ()) -> str:
    """A text as one short printable line, without credentials.

    Hides the given secrets, the userinfo and query of URLs, and tokens. Leaves out the addresses of objects, which
    would make one cause look like many.

    Args:
        text: Anything, a server's answer or an exception's text.
        secrets: Further texts to hide, see :func:`secrets_in`.
    """
    text = one_line(text, longest=None, instead=" ")
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    # Some patterns take quadratic time, and a server may answer with any text.
    text = text[:_LONGEST_SCRUBBED]
    text = _USERINFO.sub(f"//{HIDDEN}@", text)
    text = _PASSWORD.sub(f"{HIDDEN}@", text)
    text = _QUERY.sub(rf"\1?{HIDDEN}", text)
    text = _AUTHORIZATION.sub(rf"\1 {HIDDEN}", text)
    text = _ADDRESS.sub("", text)
    # Cut after hiding: half a secret would not be recognised.
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def explain(error: BaseException, secrets: Iterable[str] = (), text: str | None = None) -> str:
    """An exception as one line: its class, and its text or the given one."""
    text = without_secrets(str(error) if text is None else text, secrets)
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def without_credentials(url: str) -> str:
    """A URL without secrets: hides userinfo and query, and leaves the fragment out."""
    try:
        parts = urlsplit(url)
    except ValueError:  # not a URL; the code that uses it reports that
        return without_secrets(url)
    userinfo, at, host = parts.netloc.rpartition("@")
    netloc = f"{HIDDEN}@{host}" if at and userinfo else host
    return without_secrets(urlunsplit((parts.scheme, netloc, parts.path, HIDDEN if parts.query else "", "")))


def secrets_in(url: str = "", headers: Mapping[str, object] | None = None) -> frozenset[str]:
    """The texts that contain the credentials of a URL or a header, in every form in which they may be echoed."""
    found: set[str] = set()
    for name, value in (headers or {}).items():
        if name.lower() not in _HARMLESS_HEADERS:
            text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
            found.add(text)
            # A server may echo "Bearer abc" as "token abc is unknown".
            found.update(part for part in text.split() if len(part) >= 2 * _SHORTEST_SECRET)
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    userinfo = parts.netloc.rpartition("@")[0]
    if userinfo:
        user, _, password = userinfo.partition(":")
        found |= {userinfo, password or user}
        # the form that requests sends
        found.add(base64.b64encode(unquote(userinfo).encode("utf-8", "replace")).decode())
        found.add(base64.b64encode(unquote(userinfo).encode("latin-1", "replace")).decode())
    if parts.query:
        found.add(parts.query)
        found.update(value for _, value in parse_qsl(parts.query))
    found |= {form for secret in found for form in (unquote(secret), quote(secret, safe=""))}
    return frozenset(secret for secret in found if len(secret) >= _SHORTEST_SECRET)


def secrets_in_pairs(pairs: str) -> frozenset[str]:
    """Like :func:`secrets_in`, for headers written as ``name=value,name=value`` in OTLP's environment variables."""
    split = (pair.partition("=") for pair in pairs.split(","))
    return secrets_in(headers={name.strip(): unquote(value.strip()) for name, _, value in split})
