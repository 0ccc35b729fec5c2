"""``manage.py otel_storage_deliver``: ``otel-storage deliver``."""

from __future__ import annotations

from otel_storage.cli.deliver import deliver
from otel_storage.contrib.django.commands import CliCommand


class Command(CliCommand):
    """``otel-storage deliver``, for the project's storage."""

    command = deliver
    words = ("deliver",)
