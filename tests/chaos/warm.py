"""What every process of the storm has loaded before it begins; imported by the server that they are forked from alone.

The variables are those of the settings, and ``CHAOS_MUTATION``: the name of the mechanism that is broken, if any.
"""

from __future__ import annotations

import importlib
import os

import django

from tests.chaos import mutations

django.setup()

# Loaded once, and not by each process: what is first needed when a run begins or a span is sent.
for _module in (
    "alembic.runtime.migration",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "otel_storage.cli.deliver",
    "otel_storage.composite",
    "otel_storage.telemetry.delivery.rounds",
    "otel_storage.telemetry.otlp.exporter",
    "otel_storage.telemetry.otlp.opening",
    "otel_storage.telemetry.otlp.session",
    "otel_storage.telemetry.recording",
    "otel_storage.telemetry.delivery.sending",
    "pipelines.runners.celery.runner",
    "psycopg",
    "pymysql",
    "sqlalchemy.dialects.mysql.pymysql",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
    "tests.chaos.celery_app",
    "tests.chaos.endpoint",
    "tests.chaos.pipelines",
    "tests.chaos.reporting",
    "tests.chaos.roles",
):
    importlib.import_module(_module)

mutations.apply(os.environ.get("CHAOS_MUTATION", ""))
