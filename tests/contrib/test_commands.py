"""``manage.py otel_storage_...``: the commands of ``otel-storage``, for the project's storage."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import click
import pytest

from otel_storage.cli import cli
from otel_storage.sql.database.schema import SCHEMA_VERSION
from otel_storage.testing.receiver import OtlpReceiver
from tests.contrib.conftest import Project

OTEL = "otel_storage.OtelPipelineStorage"
COMMANDS = {"migrate": ("db", "upgrade"), "deliver": ("deliver",), "status": ("status",), "metrics": ("metrics",)}

RUN = """
import json, uuid
from io import StringIO
from django.core.management import CommandError, call_command
from otel_storage import PipelineTaskStatus
from otel_storage.results.helpers import get_pipeline_results_storage
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task

def run():
    storage, reporter = get_pipeline_results_storage(), RecordingReporter()
    execution = storage.build_pipeline_execution(Pipeline(Task("load")), str(uuid.uuid4()), Runner(), reporter, {})
    for record in (*storage.get_task_results(execution.get_run_id()), *execution.get_pipeline_results(), execution):
        record.report_status_change(reporter, PipelineTaskStatus.RUNNING, propagate=False)
        record.report_status_change(reporter, PipelineTaskStatus.DONE, propagate=False)

def call(*words, **options):
    out, err = StringIO(), StringIO()
    try:
        call_command(*words, stdout=out, stderr=err, **options)
        failure = None
    except CommandError as error:
        failure = [error.returncode, str(error)]
    return [out.getvalue(), err.getvalue(), failure]
"""
"""What the scripts have in common: a run of two entries of the outbox, and what a command printed and raised."""

SPANS = 4
"""Of such a run."""


def external(url: str = "sqlite:///spans.db") -> dict[str, Any]:
    """Settings of a project whose processes leave the sending to another."""
    return {"PIPELINES_PIPELINES_RESULTS_STORAGE": [OTEL, {"url": url, "delivery": "external"}]}


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """A receiver that works."""
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_those_of_the_command(name: str, project: Project) -> None:
    """The help is that of the command of ``otel-storage``, with every option, and fits 80 columns."""
    command: Any = cli
    for word in COMMANDS[name]:
        command = command.get_command(click.Context(command), word)
    printed = project.manage(f"otel_storage_{name}", "--help").stdout
    assert command.help.partition("\n")[0] in printed
    assert all(f"  {option} " in printed for parameter in command.params for option in parameter.opts)
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.slow
@pytest.mark.parametrize("use_tz", [True, False])
@pytest.mark.smoke
def test_commands_by_call(use_tz: bool, empty_database_url: str, project: Project, receiver: OtlpReceiver) -> None:
    """``call_command`` migrates, delivers and tells, into the streams it is given, on each engine."""
    script = """
first = call("otel_storage_migrate", json=True)
run()
waiting = call("otel_storage_status", "--json")
sent = call("otel_storage_deliver", as_json=True)
empty = call("otel_storage_status", json=True, max_wait="1h")
print(json.dumps([first, waiting, sent, empty, call("otel_storage_migrate")]))
"""
    settings = {**external(empty_database_url), "USE_TZ": use_tz}
    answers = project.python(RUN + script, settings, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    assert [(err, failure) for _, err, failure in answers[:4]] == [("", None)] * 4
    first, waiting, sent, empty = (json.loads(out) for out, _, _ in answers[:4])
    assert (first["before"], first["after"]) == (None, SCHEMA_VERSION)
    assert (waiting["outbox"]["due"], waiting["senders"]) == (2, [])
    assert (sent["sent"], sent["outbox"]["waiting"]) == (SPANS, 0)
    assert empty["last_success"]["at"] == empty["senders"][0]["sent"]
    assert len(receiver.spans) == SPANS
    out, err, failure = answers[4]
    assert (out, failure) == ("", None)
    assert "is at version" in err
    assert "s3cret-pw" not in json.dumps(answers)


@pytest.mark.slow
def test_failures_by_call(project: Project) -> None:
    """What fails is a CommandError with the command's exit code: 1 for what is wrong, 2 for wrong usage."""
    script = """
missing = call("otel_storage_status")
call("otel_storage_migrate")
run()
refused = call("otel_storage_deliver")
usage = call("otel_storage_status", max_wait="soon")
print(json.dumps([missing, refused, usage]))
"""
    missing, refused, usage = project.python(RUN + script, external(), OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert missing[2][0] == 1
    assert missing[2][1].startswith("there is no database at ")
    assert refused[2][0] == 1
    assert refused[2][1].startswith("2 entries of the outbox still wait: ")
    assert refused[0].startswith("sent     0\nwaiting  2  ")
    assert usage[2][0] == 2
    assert "'soon' is not an age" in usage[2][1]


@pytest.mark.slow
def test_storage_of_the_process_goes_on(project: Project, receiver: OtlpReceiver) -> None:
    """A process that calls a command keeps its own storage and its own sender."""
    script = """
run()
status = call("otel_storage_status", json=True)
call("otel_storage_deliver")
run()
print(json.dumps([status[2], get_pipeline_results_storage().flush(20)]))
"""
    assert project.python(RUN + script, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint) == [None, True]
    assert len({span.trace_id for span in receiver.spans}) == 2


@pytest.mark.slow
def test_exit_codes(project: Project, receiver: OtlpReceiver) -> None:
    """As processes the commands exit as those of ``otel-storage`` do; data goes to stdout, words to stderr."""
    migrated = project.manage("otel_storage_migrate", settings=external())
    assert (migrated.returncode, migrated.stdout) == (0, "")
    # A line is as wide as a terminal.
    assert " ".join(migrated.stderr.split()).endswith(f"is now at version {SCHEMA_VERSION}.")
    project.python(f"{RUN}\nrun()\nprint('null')", external())
    down = project.manage(
        "otel_storage_deliver",
        "--json",
        settings=external(),
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
    )
    assert down.returncode == 1
    assert json.loads(down.stdout)["outbox"]["waiting"] == 2
    assert down.stderr.startswith("CommandError: 2 entries of the outbox still wait: ")
    wrong = project.manage("otel_storage_status", "--max-expired", "few", settings=external())
    assert (wrong.returncode, wrong.stdout) == (2, "")
    up = project.manage("otel_storage_deliver", settings=external(), OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    assert (up.returncode, up.stderr) == (0, "")
    status = project.manage("otel_storage_status", settings=external())
    assert (status.returncode, status.stderr) == (0, "")
    assert status.stdout.startswith("waiting     0\n")


@pytest.mark.slow
def test_what_is_wrong_elsewhere_is_no_hindrance(project: Project, empty_database_url: str) -> None:
    """A project that the checks complain of can be mended by the command that their hint names."""
    settings = {"PIPELINES_PIPELINES_RESULTS_STORAGE": "nowhere.Storage"}
    done = project.manage("otel_storage_migrate", "--url", empty_database_url, settings=settings)
    assert done.returncode == 0
    named = project.manage("otel_storage_migrate", settings=settings)
    assert named.returncode == 1
    assert named.stderr.startswith("CommandError: PIPELINES_PIPELINES_RESULTS_STORAGE: there is no module 'nowhere'")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "variables", "coloured"),
    [([], {}, False), (["--force-color"], {}, True), (["--no-color"], {"FORCE_COLOR": "1"}, False)],
)
def test_colours(words: list[str], variables: dict[str, Any], coloured: bool, project: Project) -> None:
    """Django's own options for colours are honoured."""
    project.manage("otel_storage_migrate")
    printed = project.manage("otel_storage_status", *words, TERM="xterm", **variables).stdout
    assert ("\x1b[" in printed) is coloured


@pytest.mark.slow
def test_watching(project: Project, receiver: OtlpReceiver) -> None:
    """``otel_storage_deliver --watch`` stays, sends what other processes leave, and ends on SIGTERM."""
    project.manage("otel_storage_migrate", settings=external())
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "TEST_PROJECT_SETTINGS": json.dumps(external()),
    }
    with project.start("-m", "django", "otel_storage_deliver", "--watch", "--json", **variables) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["sent"] == 0
            project.python(f"{RUN}\nrun()\nprint('null')", external())
            assert json.loads(process.stdout.readline())["sent"] == SPANS
            [sender] = json.loads(project.manage("otel_storage_status", "--json", settings=external()).stdout)[
                "senders"
            ]
            process.send_signal(signal.SIGTERM)
            _, stderr = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (sender["pid"], sender["watching"]) == (process.pid, True)
    assert process.returncode == 0
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_a_projects_pipelines_have_metrics_before_they_run(project: Project) -> None:
    """What a project registers is shown at 0 before its first run, each task of it too."""
    script = """
from pipelines.base import Pipeline as HostPipeline
from pipelines.tasks.base import Task as HostTask

class Count(HostTask):
    class Meta:
        app_label = "shop"

class Stock(HostPipeline):
    count = Count()
    recount = Count()

    class Meta:
        app_label = "shop"

call("otel_storage_migrate")
print(json.dumps(call("otel_storage_metrics", json=True)))
"""
    out, err, failure = project.python(RUN + script, external())
    assert (err, failure) == ("", None)
    metrics = {metric["name"]: metric["points"] for metric in json.loads(out)["metrics"]}
    runs = [
        point for point in metrics["otel_storage.runs"] if point["attributes"]["cicd.pipeline.name"] == "shop.Stock"
    ]
    tasks = {point["attributes"]["cicd.pipeline.task.name"] for point in metrics["otel_storage.task.results"]}
    assert [point["value"] for point in runs] == [0] * 5
    assert {"count", "recount"} <= tasks
