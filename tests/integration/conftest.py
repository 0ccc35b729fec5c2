"""What tests of whole runs share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.receiver import OtlpReceiver

pytest.importorskip("pipelines", reason="django-pipelines is not installed: pip install '.[django]'")


@dataclass
class Site:
    """What a process of the site printed and did."""

    runs: dict[str, str]
    states: dict[str, Any]
    """The statuses of each run's records, as the site's storage tells them."""
    flushed: bool | None
    stderr: str
    storage: SqlPipelineStorage
    """Our tables of the site, opened by the test."""


RunSite = Callable[..., Site]


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """A receiver that works."""
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture
def run_site() -> Iterator[RunSite]:
    """Runs pipelines in a process of their own, which must exit clean."""
    storages = ExitStack()

    def run(url: str, endpoint: str, *arguments: str, database: dict[str, Any] | None = None, **kwargs: Any) -> Site:
        storage = storages.enter_context(closing(SqlPipelineStorage(url)))
        storage.upgrade()
        where = {"outbox_url" if "storage" in kwargs else "url": url}
        setting = json.dumps(["otel_storage.OtelPipelineStorage", {**where, **kwargs}])
        environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        if database is not None:
            environment["TESTS_SITE_DATABASE"] = json.dumps(database)
        process = subprocess.run(
            [sys.executable, "-m", "tests.integration.site", setting, *arguments],
            cwd=Path(__file__).parents[2],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        printed = json.loads(process.stdout)
        return Site(**printed, stderr=process.stderr, storage=storage)

    with storages:
        yield run
