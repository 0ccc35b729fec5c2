"""The link to a run's trace on the host's results page, fetched by Django's test client."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

import pytest

from tests.contrib.conftest import Project

OTEL = "otel_storage.OtelPipelineStorage"
JAEGER = "http://jaeger:16686/trace/{trace_id}?from=pipelines&run={run_id}"
RUN_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"

PAGES = """
import json, logging, os
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client
from sqlalchemy import event
from sqlalchemy.engine import Engine
from otel_storage.results.helpers import get_pipeline_results_storage
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task

call_command("migrate", verbosity=0)
run_id = os.environ["RUN_ID"]
if os.environ["BUILD"] == "rows":
    from pipelines.models import OrmPipelineExecution

    OrmPipelineExecution.objects.create(run_id=run_id, pipeline_id="shop.Orders")
elif os.environ["BUILD"]:
    storage = get_pipeline_results_storage()
    storage.build_pipeline_execution(Pipeline(Task("load")), run_id, Runner(), RecordingReporter(), {})
client = Client()
client.force_login(get_user_model().objects.create_superuser("admin", "admin@example.com", "password"))
statements, logged = [], []
event.listen(Engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
handler = logging.Handler()
handler.emit = lambda record: logged.append(record.getMessage())
logging.getLogger("otel_storage").addHandler(handler)
responses = [client.get(f"/pipelines/{path}/results/") for path in json.loads(os.environ["PATHS"])]
print(json.dumps({
    "codes": [response.status_code for response in responses],
    "pages": [response.content.decode() for response in responses],
    "statements": statements,
    "logged": logged,
}))
"""

LINK = re.compile(r'<a href="([^"]*)"([^>]*)>View trace</a>')


def pages(project: Project, storage: Any, *paths: str, build: str = "storage", **changes: Any) -> dict[str, Any]:
    """What the pages of the runs are, with a run of RUN_ID built before; changes in capitals are settings."""
    settings = {name: value for name, value in changes.items() if not name.startswith("OTEL_")}
    variables = {name: value for name, value in changes.items() if name.startswith("OTEL_")}
    answered: dict[str, Any] = project.python(
        PAGES,
        {"PIPELINES_PIPELINES_RESULTS_STORAGE": storage, **settings},
        RUN_ID=RUN_ID,
        BUILD=build,
        PATHS=json.dumps(paths or [RUN_ID]),
        **variables,
    )
    assert set(answered["codes"]) == {200}
    # The host's own part of the page is there, whatever ours is.
    assert all("<h4>Tasks</h4>" in page for page in answered["pages"])
    return answered


def storage(**arguments: Any) -> Any:
    """A setting of a storage of ours."""
    return [OTEL, {"url": "sqlite:///spans.db", "delivery": "external", **arguments}]


@pytest.mark.slow
@pytest.mark.parametrize("use_tz", [True, False])
@pytest.mark.smoke
def test_link_to_the_trace(use_tz: bool, project: Project) -> None:
    """The page of a run with a trace links to it, escaped, for one query of ours."""
    answered = pages(project, storage(trace_url=JAEGER), USE_TZ=use_tz)
    [page] = answered["pages"]
    [(href, attributes)] = LINK.findall(page)
    assert "&amp;" in href
    assert unescape(href) == f"http://jaeger:16686/trace/{RUN_ID.replace('-', '')}?from=pipelines&run={RUN_ID}"
    assert 'rel="noopener"' in attributes
    [statement] = answered["statements"]
    assert "WHERE otel_storage_pipeline_execution.run_id = :" in statement
    assert answered["logged"] == []


def test_link_on_a_server(project: Project, empty_postgresql_url: str) -> None:
    """The same with PostgreSQL."""
    arguments = {"url": empty_postgresql_url, "trace_url": JAEGER}
    project.manage("otel_storage_migrate", settings={"PIPELINES_PIPELINES_RESULTS_STORAGE": storage(**arguments)})
    answered = pages(project, storage(**arguments))
    assert len(LINK.findall(answered["pages"][0])) == 1
    assert len(answered["statements"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ({}, {}),
        ({"trace_url": JAEGER}, {"OTEL_SDK_DISABLED": "true"}),
        ({"trace_url": JAEGER}, {"OTEL_TRACES_SAMPLER": "always_off"}),
    ],
)
def test_no_link_without_a_trace(arguments: dict[str, Any], changes: dict[str, Any], project: Project) -> None:
    """Where traces are seen is not configured, or the run has none."""
    [page] = pages(project, storage(**arguments), **changes)["pages"]
    assert "trace" not in page


@pytest.mark.slow
def test_no_link_for_a_run_that_is_none(project: Project) -> None:
    """The host shows a page for any id; ours adds nothing to it."""
    answered = pages(project, storage(trace_url=JAEGER), "00000000-0000-4000-8000-000000000000", "x" * 300, "%00")
    assert not any("View trace" in page for page in answered["pages"])
    assert answered["logged"] == []


@pytest.mark.slow
def test_storages_of_others(project: Project) -> None:
    """The records of the host's own storage have no traces, and the page is the host's."""
    answered = pages(project, "pipelines.results.orm.OrmPipelineResultsStorage", build="rows")
    assert not any("View trace" in page for page in answered["pages"])
    assert answered["logged"] == []


@pytest.mark.slow
def test_a_storage_that_fails_breaks_no_page(project: Project) -> None:
    """Without the database the pages are shown, and it is logged once."""
    broken = storage(url="sqlite:////nowhere/spans.db", trace_url=JAEGER)
    answered = pages(project, broken, RUN_ID, RUN_ID, RUN_ID, build="")
    assert not any("View trace" in page for page in answered["pages"])
    assert answered["logged"] == ["pages are shown without links to traces"]


@pytest.mark.slow
def test_no_link_in_the_wrong_order(project: Project) -> None:
    """After the host's app ours is not asked: what the check W002 says is so."""
    contrib = ("admin", "auth", "contenttypes", "sessions", "messages", "humanize")
    names = [*(f"django.contrib.{name}" for name in contrib), "pipelines", "otel_storage.contrib.django"]
    [page] = pages(project, storage(trace_url=JAEGER), INSTALLED_APPS=names)["pages"]
    assert "View trace" not in page
