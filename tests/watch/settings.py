"""A Django project with the host's ORM storage wrapped; variables say where its databases are."""

from __future__ import annotations

import os

SECRET_KEY = "tests"
INSTALLED_APPS = ["django.contrib.contenttypes", "pipelines"]
DATABASES = {
    alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("TESTS_DJANGO_FILE", ":memory:") + suffix}
    for alias, suffix in (("default", ""), ("other", ".other"))
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = os.environ.get("TESTS_USE_TZ", "1") == "1"
TIME_ZONE = "Pacific/Auckland"
PIPELINES_PIPELINE_REPORTER = os.environ.get("TESTS_REPORTER", "pipelines.reporters.logging.LoggingReporter")
PIPELINES_PIPELINES_RESULTS_STORAGE = (
    "otel_storage.OtelPipelineStorage",
    {
        "storage": "pipelines.results.orm.OrmPipelineResultsStorage",
        "outbox_url": os.environ.get("TESTS_OUTBOX_URL", "sqlite://"),
        "exporter": "opentelemetry.sdk.trace.export.in_memory_span_exporter.InMemorySpanExporter",
        "delivery": "external",
        "settle_quiet": 0,
    },
)
