"""``otel-storage reap``: workers that are killed, and what is left of their runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from otel_storage.results import clock
from otel_storage.results.status import PipelineTaskStatus as Status
from otel_storage.runtime.worker import this_worker
from otel_storage.testing.receiver import OtlpReceiver
from tests.cli.conftest import Invoke, Runs
from tests.processes import ROOT, die_after, run_python, start_python

RUN_ID = "6f1d3c0e-8b0f-4b8e-9b57-0a7c6d0f2b11"


@pytest.fixture
def runs(database_url: str) -> Iterator[Runs]:
    """Builds runs an hour ago."""
    made = Runs(database_url, clock.now() - timedelta(hours=1))
    yield made
    made.storage.close()
    made.storage.records.close()


def start(runs: Runs, *run_ids: str) -> None:
    """Report the first task result of the runs RUNNING."""
    for run_id in run_ids:
        runs.storage.get_task_results(run_id)[0].report_status_change(runs.reporter, Status.RUNNING)


def status(runs: Runs, run_id: str) -> str:
    """The run's status."""
    execution = runs.storage.get_pipeline_execution(run_id)
    assert execution is not None
    return execution.get_status().value


def test_killed_worker(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """The records of a killed process are listed, and closed with --yes only; then there are none left."""
    runs.build(RUN_ID)
    pid = die_after(lambda: start(runs, RUN_ID))

    listed = invoke("reap", "--url", database_url)
    assert listed.exit_code == 1
    heading, line = listed.stdout.splitlines()
    assert heading.split() == ["RECORD", "RUN", "NAME", "RUNNING", "PROCESS"]
    assert line.split()[:4] == ["TaskResult", "1", RUN_ID, "extract"]
    assert line.split()[-1] == str(pid)
    assert f"1 record claims to be RUNNING in processes of {this_worker().host} that are gone." in listed.stderr
    assert "otel-storage reap --url" in listed.stderr
    assert "--yes" in listed.stderr
    assert status(runs, RUN_ID) == "RUNNING"

    closed = invoke("reap", "--yes", "--url", database_url)
    assert closed.exit_code == 0
    assert closed.stdout.splitlines()[1].split()[-1] == "closed"
    assert " ".join(closed.stderr.split()) == (
        "Closed as RUNTIME_ERROR: 1 PipelineExecution, 1 PipelineResult, 1 TaskExecution, 1 TaskResult."
    )
    assert status(runs, RUN_ID) == "RUNTIME_ERROR"

    again = invoke("reap", "--yes", "--url", database_url)
    assert (again.exit_code, again.stdout) == (0, "")
    assert again.stderr.startswith("No record claims to be RUNNING in a process of ")


def test_json_keys(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """The JSON is one document with the documented keys, with and without --yes, found or not."""
    nothing = json.loads(invoke("reap", "--url", database_url, "--json").stdout)
    assert nothing == {"records": [], "closed": {}, "left": 0, "reporter_error": None}

    runs.build(RUN_ID)
    pid = die_after(lambda: start(runs, RUN_ID))
    result = invoke("reap", "--url", database_url, "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["left"], document["closed"]) == (1, 1, {})
    [record] = document["records"]
    assert record.pop("worker")["pid"] == pid
    assert record.pop("reason").endswith(" is gone")
    assert record.pop("started").endswith("+00:00")
    assert record == {
        "kind": "TaskResult",
        "id": 1,
        "run_id": RUN_ID,
        "pipeline_id": "tests.Orders",
        "pipeline_task": "extract",
        "outcome": "found",
        "error": None,
    }

    document = json.loads(invoke("reap", "--url", database_url, "--json", "--yes").stdout)
    assert document["records"][0]["outcome"] == "closed"
    assert document["closed"] == {"PipelineExecution": 1, "PipelineResult": 1, "TaskExecution": 1, "TaskResult": 1}
    assert document["left"] == 0


def test_table_fits(runs: Runs, database_url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80 columns no line is longer nor wrapped, however long names are and however many lines there are."""
    monkeypatch.setattr("otel_storage.cli.reap._MEASURED", 2)
    ids = [f"{number}-{'a long name of a run ' * number}" for number in range(1, 5)]
    for run_id in ids:
        runs.build(run_id, "tests.PipelinesWithQuiteALongNameForATerminal")
    die_after(lambda: start(runs, *ids))

    for options in ((), ("--older-than", "1m", "--force"), ("--yes",)):
        result = invoke("reap", "--url", database_url, *options)
        lines = result.stdout.splitlines()
        assert len(lines) == 5
        assert all(len(line) <= 80 for line in lines)
        assert all(line.startswith("TaskResult ") for line in lines[1:])


def test_by_age(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """--older-than AGE --force closes what a living process runs, too, if it is older; younger runs stay."""
    runs.build(RUN_ID)
    start(runs, RUN_ID)

    assert invoke("reap", "--url", database_url).exit_code == 0
    assert invoke("reap", "--url", database_url, "--older-than", "2h", "--force", "--yes").exit_code == 0
    assert status(runs, RUN_ID) == "RUNNING"

    listed = invoke("reap", "--url", database_url, "--older-than", "30m", "--force")
    assert listed.exit_code == 1
    assert f"{os.getpid()} on {this_worker().host}" in listed.stdout
    # The suggested command means the moment that this one meant.
    words = listed.stderr.replace("\\\n", " ").split("otel-storage reap ")[1].split()
    assert words[0] == "--older-than"
    assert words[1].startswith("20")
    assert {"--force", "--yes"} <= set(words)

    assert invoke("reap", "--url", database_url, *words[:2], "--force", "--yes").exit_code == 0
    assert status(runs, RUN_ID) == "RUNTIME_ERROR"


@pytest.mark.parametrize("options", [("--force",), ("--older-than", "1d"), ("--older-than", "old", "--force")])
def test_wrong_usage(options: tuple[str, ...], sqlite_url: str, invoke: Invoke) -> None:
    """What may close a living process's records is asked for in full, with an age that is one."""
    result = invoke("reap", "--url", sqlite_url, *options)
    assert result.exit_code == 2
    assert "--force" in result.stderr or "such as 30m" in result.stderr


def test_root_is_sent_after_it(runs: Runs, database_url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was left RUNNING is one whole trace once it is reaped, and its error says why."""
    runs.build(RUN_ID)
    die_after(lambda: start(runs, RUN_ID))
    setting = ["otel_storage.OtelPipelineStorage", {"url": database_url, "settle_quiet": 0}]
    monkeypatch.setenv("PIPELINES_PIPELINES_RESULTS_STORAGE", json.dumps(setting))
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        assert invoke("deliver").exit_code == 0
        assert receiver.spans == []
        assert invoke("reap", "--yes").exit_code == 0
        assert invoke("deliver").exit_code == 0

        spans = {span.name: span for span in receiver.spans}
    assert set(spans) == {"RUN tests.Orders", "RESULT tests.Orders", "extract", "RESULT extract"}
    root = spans["RUN tests.Orders"]
    assert (root.parent_span_id, root.status_code) == ("", "ERROR")
    assert root.status_message.startswith("reaped: process ")


EAGER = """
import os, signal, sys, uuid
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "pipelines"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    PIPELINES_PIPELINES_RESULTS_STORAGE=(
        "otel_storage.OtelPipelineStorage", {"url": os.environ["TESTS_URL"], "delivery": "external"}
    ),
)
import django
django.setup()
from pipelines.base import Pipeline
from pipelines.reporters.logging import LoggingReporter
from pipelines.runners.eager import Runner
from pipelines.tasks.base import Task

class Work(Task):
    class Meta:
        app_label = "site"
    def run(self, pipeline_id, run_id, cleaned_data):
        pass

class Dies(Work):
    class Meta:
        app_label = "site"
    def run(self, pipeline_id, run_id, cleaned_data):
        os.kill(os.getpid(), signal.SIGKILL)

class Orders(Pipeline):
    extract = Work()
    load = Dies()
    class Meta:
        app_label = "site"

class Fine(Pipeline):
    extract = Work()
    class Meta:
        app_label = "site"

Fine().start(str(uuid.uuid4()), {}, Runner(), LoggingReporter())
Orders().start(os.environ["TESTS_RUN_ID"], {}, Runner(), LoggingReporter())
"""


@pytest.mark.slow
def test_killed_site(database_url: str, tmp_path: Path, invoke: Invoke) -> None:
    """Of the host's own pipelines, run eagerly, the one whose process is killed in a task is reaped, and no other."""
    pytest.importorskip("pipelines", reason="django-pipelines is not installed")
    died = start_python(EAGER, cwd=tmp_path, TESTS_URL=database_url, TESTS_RUN_ID=RUN_ID)
    assert died.returncode == -9, died.stderr

    document = json.loads(invoke("reap", "--url", database_url, "--yes", "--json").stdout)

    [record] = document["records"]
    assert (record["kind"], record["run_id"], record["pipeline_task"]) == ("TaskResult", RUN_ID, "load")
    assert document["closed"] == {"PipelineExecution": 1, "PipelineResult": 1, "TaskExecution": 1, "TaskResult": 1}
    shown = json.loads(invoke("show", RUN_ID, "--url", database_url, "--json").stdout)
    assert (shown["status"], shown["outcome"]) == ("RUNTIME_ERROR", "RUNTIME_ERROR")
    [result] = shown["pipeline_results"]
    assert [task["outcome"] for task in result["task_executions"]] == ["DONE", "RUNTIME_ERROR"]


WRAPPED = """
import json, os, signal, uuid
import django
from django.core.management import call_command
django.setup()
call_command("migrate", verbosity=0)
from pipelines.base import Pipeline
from pipelines.config import Config
from pipelines.models import OrmPipelineExecution, OrmTaskResult
from pipelines.results import helpers
from pipelines.runners.eager import Runner
from pipelines.tasks.base import Task

class Work(Task):
    class Meta:
        app_label = "site"
    def run(self, pipeline_id, run_id, cleaned_data):
        os.kill(os.getpid(), signal.SIGKILL)

class Orders(Pipeline):
    extract = Work()
    load = Work()
    class Meta:
        app_label = "site"

storage = helpers.get_pipeline_results_storage()
# So that the ids of the records are not those of their copies.
OrmPipelineExecution.objects.create(pipeline_id="site.Orders", run_id=str(uuid.uuid4()), input_data={}).delete()
"""

DIE = 'Orders().start(os.environ["TESTS_RUN_ID"], {}, Runner(), Config().PIPELINES_DEFAULT_PIPELINE_REPORTER)'

STATES = """
from pipelines.models import PipelineLog
def states(execution):
    if execution is None:
        return None
    results = list(execution.get_pipeline_results())
    tasks = [task for result in results for task in result.get_task_executions()]
    records = [execution, *results, *tasks, *(record for task in tasks for record in task.get_task_results())]
    return [record.get_status().value for record in records]

execution = helpers.get_pipeline_execution(os.environ["TESTS_RUN_ID"])
copy = storage.records.get_pipeline_execution(os.environ["TESTS_RUN_ID"])
logs = [log.message for log in PipelineLog.objects.filter(context_type="TaskResult", status="RUNTIME_ERROR")]
print(json.dumps({"original": states(execution), "copy": states(copy), "logs": logs}))
"""


class Wrapped:
    """A site of its own process whose ORM storage is wrapped, and one of its runs that was killed in a task."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.copies = f"sqlite:///{folder / 'outbox.db'}"
        self.environment = {
            "DJANGO_SETTINGS_MODULE": "tests.watch.settings",
            "TESTS_DJANGO_FILE": str(folder / "django.db"),
            "TESTS_OUTBOX_URL": self.copies,
            "TESTS_REPORTER": "pipelines.reporters.orm.ORMReporter",
            "TESTS_RUN_ID": RUN_ID,
        }
        died = start_python(WRAPPED + DIE, cwd=folder, **self.environment)
        assert died.returncode == -9, died.stderr

    def states(self, script: str = "") -> Any:
        """What is stored, after the script."""
        return run_python(WRAPPED + script + STATES, cwd=self.folder, **self.environment)

    def reap(self, *options: str) -> tuple[int, Any]:
        """Call the command in the site; returns its exit code and document."""
        process = subprocess.run(
            [sys.executable, "-m", "otel_storage.cli", "reap", "--json", *options],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert process.stdout, process.stderr
        return process.returncode, json.loads(process.stdout)


@pytest.fixture
def wrapped(tmp_path: Path) -> Wrapped:
    """A site with a run that was killed."""
    pytest.importorskip("pipelines", reason="django-pipelines is not installed")
    return Wrapped(tmp_path)


@pytest.mark.slow
@pytest.mark.smoke
def test_wrapped_record_is_closed(wrapped: Wrapped) -> None:
    """The record itself is closed, by its own storage; the copy follows it, and the site's reporter is told."""
    code, listed = wrapped.reap()
    assert code == 1
    [record] = listed["records"]
    code, document = wrapped.reap("--yes")

    assert (code, document["records"][0]["outcome"]) == (0, "closed")
    assert document["closed"] == {"PipelineExecution": 1, "PipelineResult": 1, "TaskExecution": 1, "TaskResult": 1}
    states = wrapped.states()
    assert (
        states["original"]
        == states["copy"]
        == [
            "RUNTIME_ERROR",
            "RUNTIME_ERROR",
            *("RUNTIME_ERROR", "PENDING"),
            *("RUNTIME_ERROR", "PENDING"),
        ]
    )
    [log] = states["logs"]
    assert f"reaped: {record['reason']}" in log
    assert wrapped.reap() == (0, {"records": [], "closed": {}, "left": 0, "reporter_error": None})


@pytest.mark.slow
def test_wrapped_record_that_is_final(wrapped: Wrapped) -> None:
    """A record that was finished past our hooks stays as it is: its copy is brought in line, and nobody is told."""
    finish = 'OrmTaskResult.objects.filter(status="RUNNING").update(status="DONE", completed="2026-01-02T03:04:05Z")\n'
    assert wrapped.states(finish)["copy"].count("RUNNING") == 4

    code, document = wrapped.reap("--yes")

    # The run was killed all the same, after that task.
    outcomes = [(record["kind"], record["outcome"]) for record in document["records"]]
    assert (code, outcomes) == (0, [("TaskResult", "final"), ("PipelineResult", "closed")])
    states = wrapped.states()
    assert states["original"] == ["RUNTIME_ERROR", "RUNTIME_ERROR", "RUNNING", "PENDING", "DONE", "PENDING"]
    assert states["copy"] == states["original"]
    assert states["logs"] == []


@pytest.mark.slow
def test_wrapped_run_that_is_gone(wrapped: Wrapped) -> None:
    """Where the run was removed, past our hooks, its copy is removed as well."""
    assert wrapped.states("OrmPipelineExecution.objects.all().delete()\n")["copy"] is not None

    code, document = wrapped.reap("--yes")

    assert (code, document["records"][0]["outcome"]) == (0, "removed")
    assert wrapped.states()["copy"] is None


@pytest.mark.slow
def test_copies_alone(wrapped: Wrapped) -> None:
    """With --url there is no storage to close the record in: that is told, and the copy stays as it is."""
    code, document = wrapped.reap("--yes", "--url", wrapped.copies)

    assert (code, document["left"]) == (1, 1)
    assert document["records"][0]["outcome"] == "failed"
    assert "leave out --url" in document["records"][0]["error"]
    assert "RUNNING" in wrapped.states()["copy"]


@pytest.mark.slow
def test_reporter_that_fails(wrapped: Wrapped) -> None:
    """A reporter that fails keeps no record from being closed, and the command reports the failure."""
    wrapped.states(
        "from django.db import connection; connection.cursor().execute('DROP TABLE pipelines_pipelinelog')\n"
        "import sys; print('{}'); sys.exit()\n"
    )

    code, document = wrapped.reap("--yes")

    assert (code, document["records"][0]["outcome"]) == (0, "closed")
    assert "pipelines_pipelinelog" in document["reporter_error"]


def test_storage_without_telemetry(
    database_url: str, runs: Runs, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SqlPipelineStorage by itself is reaped the same."""
    runs.build(RUN_ID)
    die_after(lambda: start(runs, RUN_ID))
    monkeypatch.setenv(
        "PIPELINES_PIPELINES_RESULTS_STORAGE", json.dumps(["otel_storage.SqlPipelineStorage", {"url": database_url}])
    )
    assert invoke("reap", "--yes").exit_code == 0
    assert status(runs, RUN_ID) == "RUNTIME_ERROR"
