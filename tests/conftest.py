"""Fixtures for every test: a clean environment, and databases of the test's own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from opentelemetry.context import Context, attach, detach

from otel_storage.telemetry.otlp import settings
from tests import schemas, services

# An example may write to a database: its time says nothing about the code.
hypothesis.settings.register_profile("otel-storage", deadline=None)
hypothesis.settings.load_profile("otel-storage")

KEPT_VARIABLES = ("OTEL_STORAGE_TEST_", "OTEL_STORAGE_REQUIRE_SERVICES")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many tests were skipped and why, and the figures that tests recorded as their property ``figure``.

    Whichever process ran the tests. A reason ends at its first colon, behind which it says how to mend it: ``-rs``.
    """
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ").partition(":")[0]
        for report in terminalreporter.stats.get("skipped", [])
    )
    if reasons:
        counts = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
        terminalreporter.write_line(f"{reasons.total()} skipped: {counts}")
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    figures = [value for report in reports for name, value in report.user_properties if name == "figure"]
    if figures:
        terminalreporter.section("figures")
        for figure in figures:
            terminalreporter.write_line(str(figure))


@pytest.fixture(autouse=True)
def clean_context() -> Iterator[None]:
    """No span is current when a test begins: one that leaves a task RUNNING leaves its context in the thread."""
    token = attach(Context())
    yield
    detach(token)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the caller's OpenTelemetry and storage settings from the test and from the processes it starts.

    ``DJANGO_SETTINGS_MODULE`` is left alone: Django is configured once a process.
    """
    without_settings(monkeypatch)


@pytest.fixture(autouse=True)
def nothing_was_said() -> None:
    """A process warns of a variable once: each test is one that has warned of none."""
    settings.complaints.end()


def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the caller's OpenTelemetry and storage settings as long as the patch lasts."""
    for name in list(os.environ):
        if name.startswith("OTEL_") and not name.startswith(KEPT_VARIABLES):
            monkeypatch.delenv(name)
    monkeypatch.delenv("PIPELINES_PIPELINES_RESULTS_STORAGE", raising=False)


@pytest.fixture(scope="session", autouse=True)
def dropped_templates() -> Iterator[None]:
    """Drop the databases that others were copied from, after the last test of the process."""
    yield
    schemas.drop_templates()


@pytest.fixture
def sqlite_url(empty_sqlite_url: str) -> str:
    """URL of a SQLite file of the test's own, which has the schema and no record."""
    schemas.write_sqlite_file(Path(empty_sqlite_url.removeprefix("sqlite:///")))
    return empty_sqlite_url


@pytest.fixture
def postgresql_url() -> Iterator[str]:
    """URL, with its password, of a PostgreSQL database of the test's own, which has the schema and no record."""
    with schemas.postgresql_database() as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture
def mariadb_url() -> Iterator[str]:
    """URL, with its password, of a MariaDB database of the test's own, which has the schema and no record."""
    with schemas.mariadb_database() as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture(params=["postgresql", "mariadb"])
def server_url(request: pytest.FixtureRequest) -> str:
    """URL of a database of the test's own that has the schema and no record, on each server in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of a database of the test's own that has the schema and no record, on each engine in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """URL of a SQLite file of the test's own, which does not exist yet."""
    return f"sqlite:///{tmp_path / 'otel_storage.db'}"


@pytest.fixture
def empty_postgresql_url() -> Iterator[str]:
    """URL, with its password, of an empty PostgreSQL database of the test's own; no schema is in it."""
    with services.postgresql_database() as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture
def empty_mariadb_url() -> Iterator[str]:
    """URL, with its password, of an empty MariaDB database of the test's own; no schema is in it."""
    with services.mariadb_database() as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture(params=["postgresql", "mariadb"])
def empty_server_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty database of the test's own, on each server in turn."""
    url: str = request.getfixturevalue(f"empty_{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def empty_database_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty database of the test's own, on each engine in turn."""
    url: str = request.getfixturevalue(f"empty_{request.param}_url")
    return url
