"""The rules of what is written over OtelPipelineStorage on each engine: telemetry changes nothing.

It adds to what is written and gives out the records and sequences of its SQL storage, whose own rules are tried there.
"""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results.base import PipelineStorage
from otel_storage.testing.clock import ManualClock
from otel_storage.testing.conformance.building import BuildingRules, StrictBuildingRules
from otel_storage.testing.conformance.changes import StrictChangeRules
from otel_storage.testing.conformance.cleanup import CleanupRules, StrictCleanupRules
from otel_storage.testing.conformance.fixtures import Builder
from otel_storage.testing.conformance.saving import SavingRules, StrictSavingRules
from otel_storage.testing.conformance.transitions import StrictTransitionRules, TransitionRules
from tests import conformance

pytestmark = [pytest.mark.conformance, pytest.mark.composite]


class WritingRules(
    BuildingRules,
    TransitionRules,
    SavingRules,
    CleanupRules,
    StrictBuildingRules,
    StrictTransitionRules,
    StrictSavingRules,
    StrictCleanupRules,
    StrictChangeRules,
):
    """Of building, reporting, saving and removing, and of changes in any order, after each of which all is read."""

    def test_what_is_read_is_the_sql_storages(self, storage: Any, build: Builder) -> None:
        """Whatever is read comes from the storage below: so that its rules of reading are these too."""
        made = build.line()
        ids = dict(zip(("get_pipeline_result", "get_task_execution", "get_task_result"), made[1:], strict=True))
        readers = [name for name in vars(PipelineStorage) if name.startswith("get_")]
        assert len(readers) == 9
        for name in readers:
            arguments = [ids[name].get_id() if name in ids else made[0].get_run_id()] * (name != "get_pipeline_digest")
            found, below = (getattr(each, name)(*arguments) for each in (storage, storage.records))
            assert found is not None
            assert type(found) is type(below)


class _Composite(conformance.OnSql):
    def open_storage(self, url: str, clock: ManualClock) -> OtelPipelineStorage:
        """A storage with telemetry, which sends nothing by itself."""
        return OtelPipelineStorage(url=url, clock=clock, exporter=InMemorySpanExporter(), delivery="external")


class TestSqliteFile(_Composite, conformance.OnSqliteFile, WritingRules):
    """On a SQLite file."""


@pytest.mark.long
class TestSqliteMemory(_Composite, conformance.OnSqliteMemory, WritingRules):
    """On SQLite in memory."""


class TestPostgresql(_Composite, conformance.OnPostgresql, WritingRules):
    """On PostgreSQL."""


@pytest.mark.long
class TestMariadb(_Composite, conformance.OnMariadb, WritingRules):
    """On MariaDB."""
