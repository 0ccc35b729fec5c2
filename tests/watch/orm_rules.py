"""The conformance suite over the host's ORM storage, by itself and wrapped; test_orm.py runs it in its own process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import django
import pytest
from django.core.management import call_command

django.setup()

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402 - Django first
from pipelines.models import OrmPipelineExecution  # noqa: E402 - Django first
from pipelines.results.orm import OrmPipelineResultsStorage  # noqa: E402 - Django first
from pipelines.tasks import task_registry  # noqa: E402 - Django first

from otel_storage.composite import OtelPipelineStorage  # noqa: E402 - Django first
from otel_storage.testing import pipelines  # noqa: E402 - Django first
from otel_storage.testing.conformance import StorageConformance  # noqa: E402 - Django first

call_command("migrate", verbosity=0)

SEQUENCES = 2
"""Of changes in any order: each takes this storage a second."""


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No runs; the suite's tasks, which are in no registry, are found by the host's as registered ones are."""
    OrmPipelineExecution.objects.all().delete()
    tasks: dict[tuple[str, str], Any] = {}
    make = pipelines.Task.__init__

    def remember(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        tasks[self.pipeline_task, self.task_id] = self

    def load(pipeline_task: str, task_id: str, config: object) -> Any:
        return tasks[pipeline_task, task_id]

    monkeypatch.setattr(pipelines.Task, "__init__", remember)
    monkeypatch.setattr(task_registry, "load_task_from_id", load)


class TestByItself(StorageConformance):
    """The host's storage alone."""

    sequences = SEQUENCES

    @pytest.fixture
    def storage(self) -> Any:
        """The storage."""
        return OrmPipelineResultsStorage()


class TestWrapped(StorageConformance):
    """The host's storage with telemetry on top."""

    sequences = SEQUENCES

    @pytest.fixture
    def storage(self, sqlite_url: str) -> Iterator[Any]:
        """The storage, wrapped."""
        with closing(
            OtelPipelineStorage(
                OrmPipelineResultsStorage(),
                outbox_url=sqlite_url,
                exporter=InMemorySpanExporter(),
                delivery="external",
            )
        ) as storage:
            yield storage
