"""Sites for the tests of the host's pages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests import services
from tests.processes import ROOT

pytest.importorskip("pipelines", reason="django-pipelines is not installed: pip install '.[django]'")

# Fourteen hours from UTC, so that a zone that is mistaken is seen.
ZONE = "Pacific/Kiritimati"


class SiteError(Exception):
    """What a site was told to do raised an error: its type and text."""


class Site:
    """A Django site in a process of its own.

    Args:
        settings: Of Django, on top of those of :mod:`tests.host_pages.site`.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("OTEL_", "PIPELINES_")) and name != "DJANGO_SETTINGS_MODULE"
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.host_pages.site", json.dumps(settings)],
            cwd=ROOT,
            env=kept,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __getattr__(self, name: str) -> Any:
        """What can be done; see :class:`tests.host_pages.site.Commands`."""

        def command(*arguments: Any, **named: Any) -> Any:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps([name, arguments, named]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            assert line, "the site's process is gone; standard error has its words"
            answer = json.loads(line)
            if "error" in answer:
                sys.stderr.write(answer["traceback"])
                raise SiteError(answer["error"])
            return answer["result"]

        return command

    def close(self) -> None:
        """End the process, which must leave clean."""
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0


@contextmanager
def open_site(**settings: Any) -> Iterator[Site]:
    """A site that is there for a while."""
    site = Site({"TIME_ZONE": ZONE, **settings})
    try:
        yield site
    finally:
        site.close()


def on_sql(url: str) -> Any:
    """The setting for our storage; another process would send its spans."""
    return ["otel_storage.OtelPipelineStorage", {"url": url, "delivery": "external"}]


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def session_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a database for all tests, on each engine in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('site') / 'otel_storage.db'}"
        return
    with services.postgresql_database() as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture(scope="session", params=[True, False], ids=["USE_TZ", "no USE_TZ"])
def use_tz(request: pytest.FixtureRequest) -> bool:
    """Whether Django's times are aware."""
    return bool(request.param)


@pytest.fixture(scope="session")
def session_site(session_url: str, use_tz: bool) -> Iterator[Site]:
    """A site on our storage, by the setting alone."""
    from otel_storage.sql.storage import SqlPipelineStorage

    storage = SqlPipelineStorage(session_url)
    storage.upgrade()
    storage.close()
    with open_site(USE_TZ=use_tz, PIPELINES_PIPELINES_RESULTS_STORAGE=on_sql(session_url)) as site:
        yield site


@pytest.fixture(scope="session")
def session_orm_site(use_tz: bool) -> Iterator[Site]:
    """The same site on the host's own storage."""
    with open_site(USE_TZ=use_tz) as site:
        yield site


@pytest.fixture
def site(session_site: Site) -> Site:
    """A site on our storage, with no run in it."""
    session_site.clear()
    return session_site


@pytest.fixture
def orm_site(session_orm_site: Site) -> Site:
    """The same site on the host's own storage, with no run in it."""
    session_orm_site.clear()
    return session_orm_site
