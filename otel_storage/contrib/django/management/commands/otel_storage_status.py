"""``manage.py otel_storage_status``: ``otel-storage status``."""

from __future__ import annotations

from otel_storage.cli.status import status
from otel_storage.contrib.django.commands import CliCommand


class Command(CliCommand):
    """``otel-storage status``, for the project's storage."""

    command = status
    words = ("status",)
