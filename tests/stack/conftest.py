"""What the tests of real programs share: the programs, running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import without_settings
from tests.stack.processes import Program
from tests.stack.stack import Collector, Jaeger


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that the tests of a module share; the caller's settings are hidden from what is started in it."""
    with pytest.MonkeyPatch.context() as patch:
        without_settings(patch)
        yield tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="module")
def jaeger(module_folder: Path) -> Iterator[Jaeger]:
    """A Jaeger that runs."""
    jaeger = Jaeger(module_folder)
    with jaeger:
        yield jaeger


@pytest.fixture(scope="module")
def collector(module_folder: Path, jaeger: Jaeger) -> Iterator[Collector]:
    """A collector that runs, and sends to :func:`jaeger`."""
    collector = Collector(module_folder, jaeger.otlp_endpoint)
    with collector:
        yield collector


Run = Callable[[Program], Program]


@pytest.fixture
def run() -> Iterator[Run]:
    """Starts programs of the test's own, which are ended after it."""
    with ExitStack() as stack:
        yield stack.enter_context


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """With a test that failed, show what the programs wrote that it used."""
    report = yield
    if report.failed:  # type: ignore[attr-defined]  # pytest's report
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, Program):
                report.sections.append((f"log of {name}", value.log[-4000:]))  # type: ignore[attr-defined]
    return report
