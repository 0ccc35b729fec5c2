"""``otel-storage replay``, with a real receiver at the other end."""

from __future__ import annotations

import json
import shlex
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from otel_storage.results import clock
from otel_storage.sql.outbox import replay as replaying
from otel_storage.sql.outbox.replay import Replay
from otel_storage.testing.receiver import OtlpReceiver, RefuseSpan
from tests.cli.conftest import Execute, Invoke, Runs

RUN_ID = "6f1d3c0e-8b0f-4b8e-9b57-0a7c6d0f2b11"
SPANS = 6
"""Of a run of two tasks: one for each record."""
ENTRIES = 3
"""Of it in the outbox."""


@pytest.fixture
def runs(database_url: str) -> Iterator[Runs]:
    """Builds runs that are recent: old spans expire."""
    made = Runs(database_url, clock.now() - timedelta(hours=1))
    yield made
    made.storage.close()
    made.storage.records.close()


def forget(runs: Runs, condition: str = "1 = 1") -> None:
    """Remove references, as if their spans had been accepted."""
    statement = text(f"DELETE FROM otel_storage_outbox WHERE {condition}")  # noqa: S608 - the test's own
    runs.storage.records.database.write(lambda connection: connection.execute(statement))


def document(invoke: Invoke, *options: str) -> Any:
    """What the command prints as JSON."""
    result = invoke("replay", *options, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
def test_bytes_are_the_same(runs: Runs, database_url: str, execute: Execute) -> None:
    """Replayed by another process, with another environment, each span arrives a second time, the same to the byte."""
    execution = runs.build(RUN_ID, task=["a", {"b": 2}], pipeline=["north", "south"])
    runs.finish(execution, fail=lambda name: name == "load")
    runs.finish(runs.build(str(uuid.uuid4()), "tests.Other"))
    with OtlpReceiver() as receiver:
        first = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
        assert execute("deliver", "--url", database_url, env=first).returncode == 0
        sent = {span.span_id: span.raw for span in receiver.spans}
        before = len(receiver.spans)
        assert len(sent) == before == SPANS + 13

        second = {
            **first,
            "OTEL_SERVICE_NAME": "another",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=another",
            "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "5",
            "OTEL_TRACES_SAMPLER": "always_off",
            "TZ": "Pacific/Auckland",
            "PYTHONHASHSEED": "77",
        }
        replayed = execute("replay", "--since", "1d", "--url", database_url, env=second)
        assert replayed.returncode == 0, replayed.stderr
        assert execute("deliver", "--url", database_url, env=second).returncode == 0

        again = receiver.spans[before:]
        assert Counter(span.span_id for span in again) == Counter(list(sent))
        assert {span.span_id: span.raw for span in again} == sent
        resources = {json.dumps(span.resource, sort_keys=True) for span in receiver.spans}
        assert len(resources) == 1
        assert "another" not in resources.pop()


def test_figures(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """The command says what it wrote and what sends it, with correct numbers, and leaves existing references alone."""
    runs.finish(runs.build(RUN_ID))
    runs.finish(runs.build(str(uuid.uuid4())))
    forget(runs, "execution_id = 1")
    result = invoke("replay", "--since", "1d", "--url", database_url)
    assert result.exit_code == 0
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["runs", "2"],
        ["written", "3"],
        ["waiting", "3"],
    ]
    assert all(len(line) <= 80 for line in (result.stdout + result.stderr).splitlines())
    assert "otel-storage deliver" in result.stderr


def test_json_keys(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """The JSON has the documented keys; a dry run counts the same, and writes nothing."""
    runs.finish(runs.build(RUN_ID))
    runs.build(str(uuid.uuid4()))
    forget(runs)
    expected = {"runs": 2, "untraced": 0, "written": ENTRIES, "revived": 0, "waiting": 0, "next": None}

    counted = document(invoke, "--since", "1d", "--url", database_url, "--dry-run")
    assert counted.pop("due")
    assert counted == {**expected, "dry_run": True}
    assert runs.storage.records.outbox.status().waiting == 0

    done = document(invoke, "--since", "1d", "--url", database_url)
    assert done.pop("due")
    assert done == {**expected, "dry_run": False}
    assert runs.storage.records.outbox.status().waiting == ENTRIES


def test_selected_runs_alone(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """Runs are named by their id or the start of it, by their pipeline, and by when they were built."""
    ids = [str(uuid.uuid4()) for _ in range(3)]
    for number, run_id in enumerate(ids):
        runs.finish(runs.build(run_id, f"tests.{number}"))
        runs.clock.advance(600)

    def selected(*options: str) -> int:
        forget(runs)
        return int(document(invoke, "--url", database_url, *options)["runs"])

    assert selected("--run", ids[0]) == 1
    assert selected("--run", ids[0][:8], "--run", ids[2].replace("-", "")) == 2
    assert selected("--pipeline", "tests.1") == 1
    assert selected("--pipeline", "tests.1", "--run", ids[0]) == 0
    assert selected("--since", "55m") == 2
    assert selected("--until", "45m") == 2
    assert selected("--since", "55m", "--until", "45m") == 1
    assert selected("--since", "1970-01-01") == 3

    nothing = invoke("replay", "--pipeline", "tests.None", "--url", database_url)
    assert (nothing.exit_code, nothing.stderr) == (0, "No run is like that.\n")


def test_wrong_usage(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """Without a word of which runs it does nothing, and an unknown run is told."""
    nothing = invoke("replay", "--url", database_url)
    assert nothing.exit_code == 2
    assert "--run, --pipeline, --since or --until" in " ".join(nothing.stderr.split())
    unknown = invoke("replay", "--run", "nope", "--url", database_url)
    assert unknown.exit_code == 1
    assert unknown.stderr.startswith("otel-storage: there is no run 'nope' in ")
    assert invoke("replay", "--since", "long ago", "--url", database_url).exit_code == 2


def test_refused_span_is_tried_again(
    runs: Runs, database_url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans that an endpoint refused for good are sent by a replay once the endpoint accepts them."""
    runs.finish(runs.build(RUN_ID))
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        receiver.misbehave(RefuseSpan(lambda span: span.name == "RESULT extract"))
        assert invoke("deliver", "--url", database_url).exit_code == 1
        receiver.behave()
        assert document(invoke, "--run", RUN_ID, "--url", database_url)["revived"] == 1
        assert invoke("deliver", "--url", database_url).exit_code == 0
        assert "RESULT extract" in {span.name for span in receiver.spans}


def test_stopped_and_resumed(runs: Runs, database_url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves what was done, and tells the command that does the rest: then all is there, and nothing twice."""
    monkeypatch.setattr(replaying, "_CHUNK", 4)
    for _ in range(5):
        runs.finish(runs.build(str(uuid.uuid4())))
    forget(runs)
    write = Replay._write
    calls: list[int] = []

    def interrupted(self: Replay, part: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(self, part)

    monkeypatch.setattr(Replay, "_write", interrupted)
    stopped = invoke("replay", "--since", "1d", "--rate", "7", "--url", database_url, "--json")
    assert stopped.exit_code == 130
    cursor = json.loads(stopped.stdout)["next"]
    assert 0 < cursor < 5
    told, command = stopped.stderr.split("otel-storage replay", 1)
    assert "To go on from there" in told
    words = shlex.split(command.replace("\\\n", " "))
    assert {"--rate", "7", "--json", "--after", str(cursor)} <= set(words)

    # The password of a server is not repeated.
    words[words.index("--url") + 1] = database_url
    assert invoke("replay", *words).exit_code == 0
    rows = runs.storage.records.database.write(
        lambda connection: connection.execute(text("SELECT kind, record_id FROM otel_storage_outbox")).all()
    )
    assert len(rows) == len(set(rows)) == 5 * ENTRIES


def test_schema_that_is_missing(empty_postgresql_url: str, invoke: Invoke) -> None:
    """A database without the schema is told in one line, with nothing to go on from."""
    result = invoke("replay", "--since", "1d", "--url", empty_postgresql_url)
    assert result.exit_code == 1
    assert "otel-storage db upgrade" in result.stderr
    assert (result.stderr.count("\n"), result.stdout) == (1, "")
