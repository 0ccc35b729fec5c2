"""Where the database is: URLs, and what they say of it before anything is connected to."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from otel_storage.results import host
from otel_storage.results.exceptions import ConfigurationError

logger = logging.getLogger("otel_storage")

URL_VARIABLE = "OTEL_STORAGE_URL"
DEFAULT_URL = "sqlite:///otel_storage.db"

_DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mariadb+pymysql",
    "mariadb": "mariadb+pymysql",
    "mysql+pymysql": "mariadb+pymysql",
}
_EXAMPLES = (
    "sqlite:///runs.db, postgresql+psycopg://user:password@host/name or mariadb+pymysql://user:password@host/name"
)
_SECRET_PARAMETERS = ("password", "passwd", "pwd", "secret", "token", "sslpassword", "ssl_key_password")


def resolve(url: str | URL | None) -> URL:
    """The URL to use: that given, else the variable's, else the default; a relative SQLite file is made absolute.

    Raises:
        ConfigurationError: the text is no URL.
    """
    source = "url"
    if url is None:
        url = os.environ.get(URL_VARIABLE) or None
        source = f"the environment variable {URL_VARIABLE}"
    parsed = _parse(url or DEFAULT_URL, source)
    file = file_of(parsed)
    if file is None or file.is_absolute():
        return parsed
    absolute = _base_folder() / file
    logger.info("the records of pipeline runs are stored in %s", absolute)
    return parsed.set(database=str(absolute))


def display_url(url: URL) -> str:
    """The URL without its password, wherever in it that stands."""
    hidden = {key: "***" if key.lower() in _SECRET_PARAMETERS else value for key, value in url.query.items()}
    return url.set(query=hidden).render_as_string(hide_password=True).replace("%2A%2A%2A", "***")


def file_of(url: URL) -> Path | None:
    """The file of a SQLite database; None of one in memory, of a SQLite URI, and of a server."""
    if not _is_sqlite(url) or is_memory(url) or url.query.get("uri"):
        return None
    return Path(url.database or "")


def is_memory(url: URL) -> bool:
    """Whether the database lives in its one connection."""
    return _is_sqlite(url) and url.database in (None, "", ":memory:")


def is_on_disk(url: URL) -> bool:
    """Whether the database is a file of SQLite's, named by a path or a URI; one in memory goes with its connections."""
    in_memory = ":memory:" in (url.database or ":memory:") or url.query.get("mode") == "memory"
    return _is_sqlite(url) and not in_memory


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _parse(url: str | URL, source: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError, TypeError):
        # The original error may print the URL, and so its password.
        raise ConfigurationError(f"{source} is not a database URL; use e.g. {_EXAMPLES}") from None
    if "@" in (parsed.host or ""):
        # Everything after the first @ would be taken for the host, so the rest of a password would be shown.
        raise ConfigurationError(f"{source} has more than one @; in a user name or password write it as %40")
    return parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))


def _base_folder() -> Path:
    """Celery and the web server often start in different folders; under Django both know BASE_DIR."""
    if host.django_is_configured():
        base = getattr(host.django_settings(), "BASE_DIR", None)
        if base:
            return Path(base)
    return Path.cwd()
