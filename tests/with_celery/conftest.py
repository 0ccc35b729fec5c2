"""What tests of runs in Celery share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pipelines", reason="django-pipelines is not installed: pip install '.[test]'")
pytest.importorskip("redis", reason="redis is not installed: pip install '.[test]'")

from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.receiver import OtlpReceiver
from tests import services
from tests.conftest import without_settings
from tests.with_celery.site import Site


@dataclass
class Bench:
    """A site, our tables of it as the test opens them, and where its spans arrive."""

    site: Site
    storage: SqlPipelineStorage
    receiver: OtlpReceiver


OpenBench = Callable[..., Bench]


@contextmanager
def open_benches(folder: Path) -> Iterator[OpenBench]:
    """Makes sites, each with a prefix of its own in the broker, and takes all away afterwards."""
    with ExitStack() as stack:
        made = 0

        def open_(
            engine: str = "sqlite",
            *,
            instrumented: bool = False,
            settings: dict[str, Any] | None = None,
            endpoint: str | None = None,
            **kwargs: Any,
        ) -> Bench:
            nonlocal made
            made += 1
            place = folder / f"site{made}"
            place.mkdir()
            prefix = stack.enter_context(services.redis_prefix())
            if engine == "postgresql":
                database = stack.enter_context(services.postgresql_database())
                url = database.render_as_string(hide_password=False)
            else:
                url = f"sqlite:///{place / 'otel_storage.db'}"
            storage = stack.enter_context(closing(SqlPipelineStorage(url)))
            storage.upgrade()
            receiver = stack.enter_context(OtlpReceiver())
            address = endpoint or receiver.endpoint
            # The site is instrumented where the first of them is set.
            environment = (
                {"OTEL_EXPORTER_OTLP_ENDPOINT": address}
                if instrumented
                else {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{address}/v1/traces", "TEST_TRACE_CODE": "1"}
            )
            # Of a storage that is wrapped, the database is the one beside it.
            where = "outbox_url" if "storage" in kwargs else "url"
            setting = ["otel_storage.OtelPipelineStorage", {where: url, "settle_quiet": 5, **kwargs}]
            site = Site(place, setting, prefix, environment=environment, settings=settings)
            return Bench(site, storage, receiver)

        yield open_


@pytest.fixture
def open_bench(tmp_path: Path) -> Iterator[OpenBench]:
    """Makes sites of the test's own."""
    with open_benches(tmp_path) as open_:
        yield open_


@pytest.fixture(scope="module")
def module_environment() -> Iterator[None]:
    """As for each test: the caller's settings are hidden from what a module starts once."""
    with pytest.MonkeyPatch.context() as patch:
        without_settings(patch)
        yield


@pytest.fixture(scope="module")
def open_module_bench(tmp_path_factory: pytest.TempPathFactory, module_environment: None) -> Iterator[OpenBench]:
    """Makes sites that the tests of a module share."""
    del module_environment
    assert "OTEL_STORAGE_URL" not in os.environ
    with open_benches(tmp_path_factory.mktemp("celery")) as open_:
        yield open_
