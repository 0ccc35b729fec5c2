"""``otel-storage demo``: the real host and eager runner, in an empty folder, as a process of its own."""

from __future__ import annotations

import json
import re
import shlex
import uuid
from pathlib import Path
from typing import Any

import pytest

from otel_storage.results import host
from otel_storage.testing.receiver import OtlpReceiver, ReceivedSpan
from tests.cli.conftest import Execute

pytestmark = pytest.mark.skipif(not host.is_installed(), reason="the demo needs django-pipelines")

NOWHERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}

KINDS = ["PipelineExecution", "PipelineResult", "TaskExecution", "TaskResult"]


def records(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The node and all below it."""
    below = [child for key in ("pipeline_results", "task_executions", "task_results") for child in node.get(key, [])]
    return [node, *(record for child in below for record in records(child))]


def test_without_collector(execute: Execute, tmp_path: Path) -> None:
    """The demo exits 0, draws three runs, and says where they are, which spans are unsent, and what to do."""
    done = execute("demo", env=NOWHERE)
    assert done.returncode == 0
    titles = [line.split() for line in done.stdout.splitlines() if line.startswith("demo.")]
    assert [title[:3] for title in titles] == [
        ["demo.OrdersByRegion", "✓", "DONE"],
        ["demo.MonthlyInvoices", "✗", "RUNTIME_ERROR"],
        ["demo.WeeklyReport", "✗", "CONFIG_ERROR"],
    ]
    assert "LookupError: no exchange rate for XAU" in done.stdout
    assert done.stdout.count("There was an error running a different task") == 1
    database = tmp_path / "empty" / "otel_storage.db"
    assert f"sqlite:///{database}" in done.stdout.replace("\n        ", "")
    assert database.exists()
    assert "42 wait in the database" in done.stdout
    assert "otel-storage deliver\n" in done.stderr
    assert "docker compose" in done.stderr or "docker run" in done.stderr
    assert "docker run" not in done.stderr or re.search(r"jaegertracing/jaeger:\d+\.\d+\.\d+", done.stderr)
    assert done.stderr.count("http://localhost:16686/trace/") == 3
    assert "One or more of the parent ids are not in the pipeline" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.slow
def test_narrow_terminal(execute: Execute) -> None:
    """At 40 columns no line of the data is wider, and the commands still work when they are copied."""
    done = execute("demo", env={**NOWHERE, "COLUMNS": "40"})
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 40
    commands = re.sub(r" \\\n +", " ", done.stderr)
    show = next(line for line in commands.splitlines() if "otel-storage show" in line)
    assert execute(*shlex.split(show)[1:]).returncode == 0


@pytest.mark.slow
def test_told_commands_work(execute: Execute) -> None:
    """The commands that the demo prints show the failed run, and deliver every span of the three runs."""
    told = execute("demo", "--json", env=NOWHERE)
    document = json.loads(told.stdout)
    assert_iterators_at_both_levels(document["runs"][0])
    with OtlpReceiver() as receiver:
        words = document["commands"]["deliver"]
        assert words[0].startswith("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=")
        delivered = execute(*words[2:], env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint})
        assert delivered.returncode == 0
        assert_same_tree(document, receiver.spans)
    shown = execute(*document["commands"]["show"][1:])
    assert "demo.MonthlyInvoices" in shown.stdout


@pytest.mark.slow
@pytest.mark.smoke
def test_with_collector(execute: Execute) -> None:
    """With a collector every record that was started or ended is a span there when the demo ends."""
    with OtlpReceiver() as receiver:
        done = execute("demo", "--json", env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint})
        assert done.returncode == 0
        document = json.loads(done.stdout)
        assert document["spans"] == {
            "state": "delivered",
            "count": 42,
            "endpoint": receiver.traces_endpoint,
            "reason": "",
        }
        assert_same_tree(document, receiver.spans)
        assert document["links"] == [f"http://localhost:16686/trace/{run['trace_id']}" for run in document["runs"]]
        viewer = {"OTEL_STORAGE_TRACES_URL": "https://jaeger.example.com/"}
        told = execute("demo", env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, **viewer})
        assert told.stderr.count("https://jaeger.example.com/trace/") == 3
        assert f"all 42 delivered to {receiver.traces_endpoint}" in " ".join(told.stdout.split())
        assert "docker" not in told.stderr


def assert_same_tree(document: dict[str, Any], spans: list[ReceivedSpan]) -> None:
    """Every record is one span of its run's trace, and the count that was told is true."""
    expected = {
        (run["trace_id"], record["kind"], str(record["id"])) for run in document["runs"] for record in records(run)
    }
    found = {
        (
            span.trace_id,
            str(span.attributes["otel_storage.record.kind"]),
            str(span.attributes["otel_storage.record.id"]),
        )
        for span in spans
    }
    assert found == expected
    assert document["spans"]["count"] == len(expected) == len(spans)


@pytest.mark.slow
def test_twice_in_one_folder(execute: Execute) -> None:
    """A second demo adds runs of its own, with ids that are random UUIDs."""
    first, second = (json.loads(execute("demo", "--json", env=NOWHERE).stdout) for _ in range(2))
    ids = [run["run_id"] for document in (first, second) for run in document["runs"]]
    assert len(set(ids)) == 6
    assert {uuid.UUID(run_id).version for run_id in ids} == {4}
    assert len(json.loads(execute("runs", "--json").stdout)["runs"]) == 6


def assert_iterators_at_both_levels(run: dict[str, Any]) -> None:
    """The run that succeeds has objects on the level of the pipeline and on that of a task."""
    assert [result["pipeline_object"] for result in run["pipeline_results"]] == [
        {"obj": "north"},
        {"obj": "south"},
        {"obj": "west"},
    ]
    assert any(len(task["task_results"]) > 1 for task in run["pipeline_results"][0]["task_executions"])
    assert {record["outcome"] for record in records(run)} == {"DONE"}


@pytest.mark.slow
def test_url(execute: Execute, tmp_path: Path) -> None:
    """--url says where the runs are stored, and is part of the commands that are told."""
    url = f"sqlite:///{tmp_path / 'else where.db'}"
    done = execute("demo", "--url", url, env=NOWHERE)
    assert done.returncode == 0
    assert not (tmp_path / "empty" / "otel_storage.db").exists()
    commands = re.sub(r" \\\n +", " ", done.stderr)
    show = next(line for line in commands.splitlines() if "otel-storage show" in line)
    assert execute(*shlex.split(show)[1:]).returncode == 0


@pytest.mark.slow
def test_telemetry_switched_off(execute: Execute) -> None:
    """With OpenTelemetry's own switch off, the runs are stored and no spans are spoken of."""
    done = execute("demo", env={**NOWHERE, "OTEL_SDK_DISABLED": "true"})
    assert done.returncode == 0
    assert "none: telemetry is switched off" in done.stdout
    assert "docker" not in done.stderr


@pytest.mark.slow
def test_projects_settings_are_not_used(execute: Execute, tmp_path: Path) -> None:
    """A DJANGO_SETTINGS_MODULE in the environment is another project's: the demo does not even import it."""
    (tmp_path / "shop_settings.py").write_text("raise SystemExit('imported')\n")
    env = {**NOWHERE, "DJANGO_SETTINGS_MODULE": "shop_settings"}
    done = execute("demo", "--json", env=env, cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["storage"] == f"sqlite:///{tmp_path / 'otel_storage.db'}"


@pytest.mark.slow
def test_unwritable_place(execute: Execute, tmp_path: Path) -> None:
    """A database that cannot be made is one line, before anything is run."""
    done = execute("demo", "--url", f"sqlite:///{tmp_path}/no/such/folder.db", env=NOWHERE)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("otel-storage: cannot open sqlite:///")


def test_server_without_schema(execute: Execute, empty_server_url: str) -> None:
    """On a server without the schema the demo names the command that makes it; after that it runs."""
    before = execute("demo", "--url", empty_server_url, env=NOWHERE)
    assert before.returncode == 1
    assert "otel-storage db upgrade" in before.stderr.splitlines()[-1]
    assert execute("db", "upgrade", "--url", empty_server_url).returncode == 0
    assert execute("demo", "--url", empty_server_url, env=NOWHERE).returncode == 0
