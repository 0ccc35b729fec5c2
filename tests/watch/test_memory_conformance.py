"""The conformance suite over a storage that is not ours, by itself and wrapped: telemetry changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results.base import PipelineStorage
from otel_storage.testing.clock import ManualClock
from otel_storage.testing.conformance import StorageConformance
from tests.watch.memory import MemoryStorage

pytestmark = pytest.mark.conformance


class TestByItself(StorageConformance):
    """The storage alone."""

    @pytest.fixture
    def clock(self) -> ManualClock | None:
        """The real time: the interface's own method goes by it."""
        return None

    @pytest.fixture
    def storage(self) -> PipelineStorage:
        """A new storage."""
        return MemoryStorage()


class TestWrapped(StorageConformance):
    """The storage with telemetry on top."""

    @pytest.fixture
    def clock(self) -> ManualClock | None:
        """The real time."""
        return None

    @pytest.fixture
    def storage(self, sqlite_url: str) -> Iterator[PipelineStorage]:
        """A new storage, wrapped, its copies in a file."""
        with closing(
            OtelPipelineStorage(
                MemoryStorage(), outbox_url=sqlite_url, exporter=InMemorySpanExporter(), delivery="external"
            )
        ) as storage:
            yield storage
