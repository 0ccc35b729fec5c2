"""The conformance suite over SqlPipelineStorage, on each engine."""

from __future__ import annotations

import pytest

from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.clock import ManualClock
from otel_storage.testing.conformance import StrictStorageConformance
from tests import conformance

pytestmark = pytest.mark.conformance


class _Sql(conformance.OnSql):
    def open_storage(self, url: str, clock: ManualClock) -> SqlPipelineStorage:
        """A storage without telemetry."""
        return SqlPipelineStorage(url, clock=clock)


class TestSqliteFile(_Sql, conformance.OnSqliteFile, StrictStorageConformance):
    """On a SQLite file."""


class TestSqliteMemory(_Sql, conformance.OnSqliteMemory, StrictStorageConformance):
    """On SQLite in memory."""


class TestPostgresql(_Sql, conformance.OnPostgresql, StrictStorageConformance):
    """On PostgreSQL."""


class TestMariadb(_Sql, conformance.OnMariadb, StrictStorageConformance):
    """On MariaDB."""


def test_no_rule_hides_another() -> None:
    """Rules come from many classes: two of one name would silently be one."""
    rules = [name for cls in StrictStorageConformance.__mro__ for name in vars(cls) if name.startswith("test_")]

    assert len(rules) > 100
    assert sorted(rules) == sorted(set(rules))
