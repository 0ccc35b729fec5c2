"""Rules of removing runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest

from otel_storage.results import host
from otel_storage.results.base import PipelineStorage
from otel_storage.testing.conformance.fixtures import (
    ALL,
    RUNNING,
    Builder,
    StorageFixtures,
    Times,
    fresh,
    look_up,
    records,
    wide_pipeline,
)
from otel_storage.testing.pipelines import Pipeline, RecordingReporter


class CleanupRules(StorageFixtures):
    """The removed runs, and the returned ids."""

    def test_everything(self, storage: PipelineStorage, build: Builder) -> None:
        """Without a time all runs are removed, with all their records, and their ids returned."""
        build(wide_pipeline(), run_id="first")
        build(wide_pipeline(), run_id="second")
        gone = [*records(storage, "first"), *records(storage, "second")]

        removed = storage.cleanup()

        assert sorted(removed) == ["first", "second"]
        assert len(storage.get_pipeline_executions()) == 0
        assert len(storage.get_pipeline_results()) == 0
        assert len(storage.get_task_executions()) == 0
        assert len(storage.get_task_results()) == 0
        assert storage.get_pipeline_execution("first") is None
        for record in gone:
            if record.content_type_name != "PipelineExecution":
                assert look_up(storage, record.content_type_name)(record.get_id()) is None
        assert storage.get_pipeline_digest() == {}

    def test_cleaning_an_empty_storage(self, storage: PipelineStorage) -> None:
        """Where there is nothing, nothing is removed."""
        assert list(storage.cleanup()) == []

    def test_twice(self, storage: PipelineStorage, build: Builder) -> None:
        """A second cleanup finds nothing."""
        build()

        assert len(storage.cleanup()) == 1
        assert len(storage.cleanup()) == 0

    def test_a_run_id_is_free_again(self, storage: PipelineStorage, build: Builder) -> None:
        """The id of a removed run can be used for a new one."""
        build(run_id="run", input_data={"n": 1})
        storage.cleanup()

        assert build(run_id="run", input_data={"n": 2}).get_input_data() == {"n": 2}
        assert fresh(storage, storage.get_pipeline_results("run")[0]).get_input_data() == {"n": 2}


class StrictCleanupRules(StorageFixtures):
    """The runs that a time selects."""

    @pytest.fixture
    def boundary(self, build: Builder, times: Times) -> datetime:
        """A moment, aware and in UTC, between the building of the runs "old" and "new"."""
        build(wide_pipeline(), run_id="old")
        times.advance(3600)
        moment = times.utc()
        times.advance(3600)
        build(wide_pipeline(), run_id="new")
        return moment

    @pytest.fixture
    def far_zone(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Puts the process in a zone that is far from UTC; under Django it stays in that of the settings."""
        if host.django_is_configured() or not hasattr(time, "tzset"):
            yield
            return
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "FAR-13")
            time.tzset()
            yield
        time.tzset()

    def test_before_an_aware_time(self, storage: PipelineStorage, boundary: datetime) -> None:
        """Runs built before the time are removed, later ones are untouched; the zone it is given in does not matter."""
        assert list(storage.cleanup(boundary.astimezone(timezone(timedelta(hours=11))))) == ["old"]

        assert storage.get_pipeline_execution("old") is None
        assert len(storage.get_task_results()) == 6
        assert len(records(storage, "new")) == 13

    @pytest.mark.usefixtures("far_zone")
    def test_before_a_naive_time(self, storage: PipelineStorage, boundary: datetime) -> None:
        """A naive time is read in the zone of the process, under Django in that of its settings."""
        zone = None
        if host.django_is_configured():
            from django.utils.timezone import get_default_timezone

            zone = get_default_timezone()

        assert list(storage.cleanup(before=boundary.astimezone(zone).replace(tzinfo=None))) == ["old"]
        assert len(records(storage, "new")) == 13

    def test_the_moment_itself(self, storage: PipelineStorage, build: Builder) -> None:
        """A run built at the time is not built before it."""
        created = build(run_id="run").get_created()
        assert created is not None

        assert list(storage.cleanup(created)) == []
        assert list(storage.cleanup(created + timedelta(microseconds=1))) == ["run"]

    def test_every_status(self, storage: PipelineStorage, build: Builder, times: Times) -> None:
        """Runs are removed in whatever state they are, started or not; ``before`` looks at when they were built."""
        for status in ALL:
            build(run_id=status.value).report_status_change(RecordingReporter(), status)
        build(run_id="bad config", build_all=False)
        times.advance(1)
        moment = times.utc()
        times.advance(1)
        late = build(run_id="late")
        old = storage.get_pipeline_execution("PENDING")
        assert old is not None
        old.report_status_change(RecordingReporter(), RUNNING)

        assert sorted(storage.cleanup(moment)) == sorted([*(status.value for status in ALL), "bad config"])
        assert list(storage.get_pipeline_executions()) == [late]

    def test_nothing_before(self, storage: PipelineStorage, boundary: datetime) -> None:
        """A time before the first run removes nothing."""
        assert list(storage.cleanup(boundary - timedelta(days=365))) == []
        assert len(storage.get_pipeline_executions()) == 2

    def test_the_digest_afterwards(self, storage: PipelineStorage, build: Builder, times: Times) -> None:
        """The digest counts what is left."""
        build(Pipeline(id="shop.Orders"))
        build(Pipeline(id="shop.Stock"))
        times.advance(1)
        moment = times.utc()
        times.advance(1)
        build(Pipeline(id="shop.Orders"))
        assert storage.get_pipeline_digest()["shop.Orders"].total_runs == 2

        storage.cleanup(moment)

        digest = storage.get_pipeline_digest()
        assert set(digest) == {"shop.Orders"}
        assert digest["shop.Orders"].total_runs == 1

    def test_many_runs(self, storage: PipelineStorage, build: Builder) -> None:
        """More runs than a statement takes parameters are removed all the same."""
        ids = [build(Pipeline(), run_id=f"run-{number}").get_run_id() for number in range(1200)]

        assert sorted(storage.cleanup()) == sorted(ids)
        assert len(storage.get_pipeline_results()) == 0
