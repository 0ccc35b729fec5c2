"""The app."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks as registry


class OtelStorageConfig(AppConfig):
    """The app, with the label ``otel_storage``; it has no models."""

    name = "otel_storage.contrib.django"
    label = "otel_storage"
    verbose_name = "otel-storage"

    def ready(self) -> None:
        """Register the checks."""
        from otel_storage.contrib.django import checks

        registry.register(checks.check_setting, "otel_storage")
        registry.register(checks.check_database, registry.Tags.database)
