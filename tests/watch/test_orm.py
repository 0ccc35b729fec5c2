"""The host's ORM storage, wrapped: records stay Django's, and what a transaction rolls back is never sent."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT, run_pytest, run_python

pytest.importorskip("pipelines", reason="django-pipelines is not installed: pip install '.[django]'")

SET_UP = """
import json, pickle, uuid
import django
from django.core.management import call_command

django.setup()
call_command("migrate", verbosity=0)

from django.db import transaction
from opentelemetry import trace
from pipelines.base import Pipeline
from pipelines.config import Config
from pipelines.models import OrmPipelineExecution, OrmTaskResult
from pipelines.results import helpers
from pipelines.runners.eager import Runner
from pipelines.status import PipelineTaskStatus as Status
from pipelines.tasks.base import Task


class Work(Task):
    class Meta:
        app_label = "site"

    def run(self, pipeline_id, run_id, cleaned_data):
        pass


class Orders(Pipeline):
    extract = Work()
    load = Work()

    class Meta:
        app_label = "site"


def run(run_id):
    Orders().start(run_id, {}, Runner(), reporter)


def build(run_id):
    return helpers.build_pipeline_execution(Orders(), run_id, Runner(), reporter, {})


def sent():
    storage.delivery.deliver_due()
    return [span for span in storage.delivery._sender._exporter._exporter.get_finished_spans()]


reporter = Config().PIPELINES_DEFAULT_PIPELINE_REPORTER
storage = helpers.get_pipeline_results_storage()
run_id = str(uuid.uuid4())
"""


def run_site(script: str, tmp_path: Path, **environment: str) -> Any:
    """What the script prints, run in a project of its own process."""
    return run_python(
        SET_UP + script,
        cwd=tmp_path,
        DJANGO_SETTINGS_MODULE="tests.watch.settings",
        TESTS_DJANGO_FILE=str(tmp_path / "django.db"),
        TESTS_OUTBOX_URL=f"sqlite:///{tmp_path / 'outbox.db'}",
        **environment,
    )


@pytest.mark.slow
@pytest.mark.smoke
def test_what_is_rolled_back_is_never_sent(tmp_path: Path) -> None:
    """A run in `atomic()` is told when that commits; of one that is rolled back, in whole or in part, nothing is."""
    script = """
class Undo(Exception):
    pass

found = {}
with transaction.atomic():
    run(run_id)
    found["before the commit"] = len(sent())
found["after the commit"] = len(sent())
try:
    with transaction.atomic():
        run(str(uuid.uuid4()))
        raise Undo
except Undo:
    pass
found["after a rollback"] = len(sent())

with transaction.atomic():
    execution = build(str(uuid.uuid4()))
    results = [result for task in execution.results.get().task_executions.all() for result in task.results.all()]
    results[0].report_status_change(reporter, Status.DONE, propagate=False)
    try:
        with transaction.atomic():
            results[1].report_status_change(reporter, Status.RUNTIME_ERROR, message="undone")
            raise Undo
    except Undo:
        pass
found["after a savepoint's"] = [span.name for span in sent()[7:]]
found["records"] = OrmPipelineExecution.objects.count()
with transaction.atomic(using="other"):
    run(str(uuid.uuid4()))
    found["in another database's"] = len(sent())
print(json.dumps(found))
"""
    assert run_site(script, tmp_path) == {
        "before the commit": 0,
        "after the commit": 6,
        "after a rollback": 6,
        "after a savepoint's": [],
        "records": 2,
        "in another database's": 13,
    }


@pytest.mark.slow
def test_copies_that_fail_do_not_fail_the_commit(tmp_path: Path) -> None:
    """What is written to the copies by the commit of a user's transaction fails in it, once, and the commit stands."""
    script = """
from sqlalchemy import text

run(str(uuid.uuid4()))
storage.records.database.write(
    lambda connection: connection.execute(text("ALTER TABLE otel_storage_pipeline_execution RENAME TO gone"))
)
with transaction.atomic():
    build(run_id)
    before = storage._watch._guarded.failures
after = storage._watch._guarded.failures
print(json.dumps([OrmPipelineExecution.objects.filter(run_id=run_id).count(), before, after, storage._watch._pending]))
"""
    assert run_site(script, tmp_path) == [1, 0, 1, {}]


@pytest.mark.slow
def test_what_could_not_be_saved_is_not_told(tmp_path: Path) -> None:
    """A report whose save fails changes no span: what the storage stores afterwards is what is told."""
    script = """
import sqlite3
from django.db import OperationalError, connection
connection.cursor().execute("PRAGMA busy_timeout = 50")
execution = build(run_id)
[result, _] = [result for task in execution.results.get().task_executions.all() for result in task.results.all()]
with sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None) as other:
    other.execute("BEGIN IMMEDIATE")
    errors = 0
    for propagate in (False, True):
        try:
            result.report_status_change(reporter, Status.DONE, propagate=propagate)
        except OperationalError:
            errors += 1
        result.refresh_from_db()
    other.execute("ROLLBACK")
found = {"errors": errors, "told": len(sent())}
result.report_status_change(reporter, Status.RUNTIME_ERROR, message="broken", propagate=False)
found["status"] = [span.attributes["otel_storage.status"] for span in sent()]
other_result = OrmTaskResult.objects.exclude(pk=result.pk).get()
other_result.status = "DONE"
other_result.save(update_fields=["started"])
found["without its status"] = len(sent())
print(json.dumps(found))
"""
    assert run_site(script, tmp_path) == {
        "errors": 2,
        "told": 0,
        "status": ["RUNTIME_ERROR"],
        "without its status": 1,
    }


@pytest.mark.slow
def test_a_cleanup_that_is_rolled_back_removes_no_copy(tmp_path: Path) -> None:
    """The copies go when the removal of the runs is committed."""
    script = """
run(run_id)
found = []
for is_kept in (True, False):
    try:
        with transaction.atomic():
            storage.cleanup()
            assert not is_kept
    except AssertionError:
        pass
    found.append([OrmPipelineExecution.objects.count(), len(storage.records.get_pipeline_executions())])
print(json.dumps(found))
"""
    assert run_site(script, tmp_path) == [[1, 1], [0, 0]]


@pytest.mark.slow
def test_user_code_has_its_context_in_a_transaction_too(tmp_path: Path) -> None:
    """Within `atomic()`, where the copy of the run is not stored yet, the task's context is the current one."""
    script = """
seen = []
Work.run = lambda self, pipeline_id, run_id, cleaned_data: seen.append(
    f"{trace.get_current_span().get_span_context().trace_id:032x}"
)
with transaction.atomic():
    run(run_id)
run(other := str(uuid.uuid4()))
print(json.dumps(seen == [uuid.UUID(run_id).hex] * 2 + [uuid.UUID(other).hex] * 2))
"""
    assert run_site(script, tmp_path) is True


@pytest.mark.slow
@pytest.mark.smoke
def test_records_stay_djangos(tmp_path: Path) -> None:
    """What a project does with its records goes on working: filters, pickles, equality, parents, templates."""
    script = """
run(run_id)
execution = helpers.get_pipeline_execution(run_id)
result = OrmTaskResult.objects.filter(status="DONE").first()
copy = pickle.loads(pickle.dumps(execution))
print(json.dumps({
    "class": type(execution).__qualname__ + " " + type(execution).__module__,
    "filtered": OrmTaskResult.objects.for_run_id(run_id).filter(status="DONE").count(),
    "listed": storage.get_task_results(run_id=run_id).exclude(status="PENDING").count(),
    "pickled": copy == execution and copy.get_run_id() == run_id,
    "equal": execution == OrmPipelineExecution.objects.get(run_id=run_id),
    "parent": result.execution.pipeline_result.execution == execution,
    "save is not for templates": OrmTaskResult.save.alters_data,
    "trace": execution.get_trace_id() == uuid.UUID(run_id).hex,
    "child's trace": result.get_trace_id() == uuid.UUID(run_id).hex,
}))
"""
    assert run_site(script, tmp_path) == {
        "class": "OrmPipelineExecution pipelines.models",
        "filtered": 2,
        "listed": 2,
        "pickled": True,
        "equal": True,
        "parent": True,
        "save is not for templates": True,
        "trace": True,
        "child's trace": True,
    }


@pytest.mark.slow
def test_naive_times(tmp_path: Path) -> None:
    """With USE_TZ off the records' times are naive, in the site's zone; spans have the real ones."""
    script = """
from datetime import UTC, datetime
run(run_id)
spans = sent()
now = datetime.now(UTC).timestamp()
print(json.dumps({
    "naive": helpers.get_pipeline_execution(run_id).get_started().tzinfo is None,
    "spans": len(spans),
    "of now": all(abs(span.end_time / 1e9 - now) < 60 and abs(span.start_time / 1e9 - now) < 60 for span in spans),
}))
"""
    assert run_site(script, tmp_path, TESTS_USE_TZ="0") == {"naive": True, "spans": 6, "of now": True}


@pytest.mark.slow
def test_clearing_removes_the_copies(tmp_path: Path) -> None:
    """The host's command removes runs of the ORM storage, and with them their copies."""
    script = """
from datetime import timedelta
run(run_id)
run(kept := str(uuid.uuid4()))
old = OrmPipelineExecution.objects.get(run_id=run_id)
OrmPipelineExecution.objects.filter(run_id=run_id).update(started=old.started - timedelta(days=9))
call_command("clear_tasks_and_logs", days=5)
copies = [execution.run_id for execution in storage.records.get_pipeline_executions()]
print(json.dumps([copies == [kept], OrmPipelineExecution.objects.count()]))
"""
    assert run_site(script, tmp_path) == [True, 1]


@pytest.mark.slow
def test_command_line_reads_the_copies(tmp_path: Path) -> None:
    """The commands find the project's storage and show its runs, with the ids that its records have."""
    script = """
Work.run = lambda self, pipeline_id, run_id, cleaned_data: 1 / 0
build(str(uuid.uuid4()))
run(run_id)
print(json.dumps([run_id, OrmPipelineExecution.objects.get(run_id=run_id).id]))
"""
    run_id, execution_id = run_site(script, tmp_path)

    shown = _command(tmp_path, "show", run_id, "--json")
    assert (shown["id"], shown["status"], shown["message"]) == (execution_id, "RUNTIME_ERROR", "division by zero")
    [result] = shown["pipeline_results"]
    [failed] = result["task_executions"][0]["task_results"]
    assert failed["exception"]["type"] == "ZeroDivisionError"
    assert len(_command(tmp_path, "runs", "--json")["runs"]) == 2
    assert _command(tmp_path, "deliver", "--json")["sent"] == 6


def _command(tmp_path: Path, *arguments: str) -> Any:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.watch.settings",
        "TESTS_DJANGO_FILE": str(tmp_path / "django.db"),
        "TESTS_OUTBOX_URL": f"sqlite:///{tmp_path / 'outbox.db'}",
    }
    process = subprocess.run(
        [sys.executable, "-m", "otel_storage.cli", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.slow
@pytest.mark.conformance
def test_telemetry_changes_no_rule(tmp_path: Path) -> None:
    """Wrapped, the ORM storage passes the rules of the conformance suite that it passes by itself, and no other."""
    # Ignore warnings of the host's own code.
    options = ["-q", "-rA", "--tb=no", "-W", "ignore", "-m", ""]
    process = run_pytest(*options, "tests/watch/orm_rules.py", DJANGO_SETTINGS_MODULE="tests.watch.settings")
    outcomes: dict[str, dict[str, str]] = {"TestByItself": {}, "TestWrapped": {}}
    for outcome, cls, rule in re.findall(r"^(PASSED|FAILED|ERROR) \S+::(\w+)::(\w+(?:\[.*?\])?)", process.stdout, re.M):
        outcomes[cls][rule] = outcome

    assert len(outcomes["TestByItself"]) > 150, process.stdout[-2000:]
    assert outcomes["TestWrapped"] == outcomes["TestByItself"]
    assert "ERROR" not in outcomes["TestWrapped"].values()
    assert list(outcomes["TestWrapped"].values()).count("PASSED") > 120
