"""Every error that the package raises on purpose; each message says what is wrong and how to fix it."""

from __future__ import annotations


class OtelStorageError(Exception):
    """Something is wrong with the storage; the message says what, and what to do.

    Raised without arguments, an error's docstring is its message.
    """

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join((type(self).__doc__ or type(self).__name__).split()))


class ConfigurationError(OtelStorageError):
    """A setting or an argument cannot be used; the message names it and a value that can."""


class InvalidInput(OtelStorageError, ValueError):
    """A value given for a record cannot be stored; nothing was written."""


class RunExists(OtelStorageError):
    """There is a run with this id already; give every run an id of its own, e.g. ``str(uuid.uuid4())``."""


class StatusConflict(OtelStorageError):
    """The status set on the record does not advance the stored one; nothing was written."""


class RecordIsFinal(OtelStorageError):
    """The record is final, and its span may have been sent: the fields a span is made of no longer change."""


class RecordDeleted(OtelStorageError):
    """The record is no longer in the storage; nothing was written."""


class DatabaseUnavailable(OtelStorageError):
    """The database cannot be reached; check that it runs and that the URL is right."""


class SchemaMismatch(OtelStorageError):
    """The database's schema is not this version's; run ``otel-storage db upgrade``."""
