"""The host's own ORM storage, wrapped: the same states and the same spans as with ours."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from otel_storage.testing.receiver import OtlpReceiver
from tests import services
from tests.integration.conftest import RunSite
from tests.integration.test_eager import ALL
from tests.integration.trees import span_tree

ORM = "pipelines.results.orm.OrmPipelineResultsStorage"


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Django's own database, on each engine in turn."""
    if request.param == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "django.db")}
    url = make_url(request.getfixturevalue("empty_postgresql_url"))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.database,
        "USER": url.username,
        "PASSWORD": url.password,
        "HOST": url.host,
        "PORT": url.port,
    }


@pytest.fixture
def our_url(database: dict[str, Any], empty_sqlite_url: str) -> Iterator[str]:
    """A database of our storage's own, on the same engine as Django's."""
    if database["ENGINE"].endswith("sqlite3"):
        yield f"{empty_sqlite_url}.ours"
        return
    with services.postgresql_database() as url:
        yield url.render_as_string(hide_password=False)


@pytest.mark.slow
@pytest.mark.parametrize("capture", [[], ["input_data", "config", "objects", "messages"]], ids=["private", "captured"])
@pytest.mark.smoke
def test_states_and_spans_are_those_of_our_storage(
    database: dict[str, Any], our_url: str, sqlite_url: str, run_site: RunSite, capture: list[str]
) -> None:
    """Every pipeline leaves the same states, and the same tree of spans: attributes, events and statuses too."""
    with OtlpReceiver() as receiver:
        ours = run_site(our_url, receiver.endpoint, *ALL, "--flush", "--user-spans", capture=capture)
        our_traces = receiver.traces()
    with OtlpReceiver() as receiver:
        theirs = run_site(
            sqlite_url,
            receiver.endpoint,
            *ALL,
            "--flush",
            "--user-spans",
            database=database,
            storage=ORM,
            capture=capture,
        )
        their_traces = receiver.traces()

    assert (ours.flushed, theirs.flushed) == (True, True)
    assert theirs.states == ours.states
    assert len(their_traces) == len(ALL)
    for name in ALL:
        expected = span_tree(our_traces[uuid.UUID(ours.runs[name]).hex])
        assert span_tree(their_traces[uuid.UUID(theirs.runs[name]).hex]) == expected, name
    assert theirs.storage.outbox.status().waiting == 0
