"""``manage.py otel_storage_migrate``: ``otel-storage db upgrade``."""

from __future__ import annotations

from otel_storage.cli.db import upgrade
from otel_storage.contrib.django.commands import CliCommand


class Command(CliCommand):
    """``otel-storage db upgrade``, for the project's storage."""

    command = upgrade
    words = ("db", "upgrade")
