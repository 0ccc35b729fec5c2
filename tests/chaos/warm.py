"""What every process of the storm has loaded before it begins; imported by the server that they are forked from alone.

The variable ``CHAOS_STORAGE`` has the arguments of the storage as JSON, ``CHAOS_MUTATION`` the name of a mutation.
"""

from __future__ import annotations

import importlib
import json
import os

import django
from django.conf import settings

from tests.chaos import mutations

settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "pipelines"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
    PIPELINES_PIPELINES_RESULTS_STORAGE=(
        "otel_storage.OtelPipelineStorage",
        json.loads(os.environ["CHAOS_STORAGE"]),
    ),
)
django.setup()

# Loaded once, and not by each process: what is first needed when a run begins or a span is sent.
for _module in (
    "alembic.runtime.migration",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "otel_storage.cli.deliver",
    "otel_storage.composite",
    "otel_storage.telemetry.delivery",
    "otel_storage.telemetry.exporting",
    "otel_storage.telemetry.otlp_http",
    "otel_storage.telemetry.recording",
    "otel_storage.telemetry.sending",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
    "tests.chaos.endpoint",
    "tests.chaos.pipelines",
    "tests.chaos.roles",
):
    importlib.import_module(_module)

mutations.apply(os.environ.get("CHAOS_MUTATION", ""))
