"""``manage.py otel_storage_metrics``: ``otel-storage metrics``."""

from __future__ import annotations

from otel_storage.cli.metrics import metrics
from otel_storage.contrib.django.commands import CliCommand


class Command(CliCommand):
    """``otel-storage metrics``, for the project's storage."""

    command = metrics
    words = ("metrics",)
