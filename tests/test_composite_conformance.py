"""The conformance suite over OtelPipelineStorage on each engine: telemetry changes nothing."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_storage.composite import OtelPipelineStorage
from otel_storage.testing.clock import ManualClock
from tests import conformance

pytestmark = [pytest.mark.conformance, pytest.mark.composite]


class _Composite(conformance.OnSql):
    def open_storage(self, url: str, clock: ManualClock) -> OtelPipelineStorage:
        """A storage with telemetry, which sends nothing by itself."""
        return OtelPipelineStorage(url=url, clock=clock, exporter=InMemorySpanExporter(), delivery="external")


class TestSqliteFile(_Composite, conformance.OnSqliteFile):
    """On a SQLite file."""


class TestSqliteMemory(_Composite, conformance.OnSqliteMemory):
    """On SQLite in memory."""


class TestPostgresql(_Composite, conformance.OnPostgresql):
    """On PostgreSQL."""


class TestMariadb(_Composite, conformance.OnMariadb):
    """On MariaDB."""
