"""``otel-storage status``, on each engine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import insert, update

from otel_storage.cli import status
from otel_storage.results import clock
from otel_storage.results.status import PipelineTaskStatus as Status
from otel_storage.sql.database import schema
from otel_storage.telemetry.delivery.heartbeat import Heartbeat
from otel_storage.testing.receiver import OtlpReceiver, RefuseSpan
from tests.cli.conftest import ROOT, Invoke, Runs

NOTHING = """\
waiting     0
  due       0
  retrying  0
  leased    0
held back   0
open        0
set aside   0
expired     0

accepted    never
failed      never
watching    nobody; in production run: otel-storage deliver --watch
"""


@pytest.fixture
def runs(database_url: str) -> Iterator[Runs]:
    """An empty database, to build runs in that are two hours old, give or take what the clock is moved."""
    made = Runs(database_url, clock.now() - timedelta(hours=2))
    yield made
    made.storage.close()
    made.storage.records.close()


def finish(runs: Runs, times: int = 1) -> None:
    """Runs of two tasks: three entries of the outbox each."""
    for _ in range(times):
        runs.finish(runs.build(str(uuid.uuid4())))


def tell(runs: Runs, *, accepted: bool = False, error: str = "", watching: bool = False, ago: float = 0) -> None:
    """A process of a name of its own tells of itself, so many seconds ago."""
    runs.clock.advance((clock.now() - runs.clock()).total_seconds() - ago)
    heartbeat = Heartbeat(runs.storage.records.outbox.senders, runs.clock)
    if watching:
        heartbeat.watching()
    if accepted or error:
        heartbeat.sent(accepted=accepted, error=error)


def test_nothing_waits(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """With nothing to tell every figure is there, and zero."""
    result = invoke("status", "--url", database_url)
    assert (result.exit_code, result.stdout, result.stderr) == (0, NOTHING, "")


def test_json_keys(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """The JSON has the documented keys, also where there is nothing to say."""
    document = json.loads(invoke("status", "--url", database_url, "--json").stdout)
    assert document.pop("url")
    assert "s3cret-pw" not in json.dumps(document)
    assert document.pop("at")
    outbox = document.pop("outbox")
    assert set(outbox) == {
        "due", "retrying", "leased", "waiting", "held", "open", "refused", "expired", "oldest", "error", "refusal",
        "hold",
    }  # fmt: skip
    assert document == {
        "oldest_age": None,
        "last_success": None,
        "last_failure": None,
        "senders": [],
        "problems": [],
    }


def test_an_endpoint_that_is_no_address(
    runs: Runs, database_url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person is needed before anything can wait for too long."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "user:hunter2@collector:4318")
    told = invoke("status", "--url", database_url)
    as_json = invoke("status", "--url", database_url, "--json")
    [problem] = json.loads(as_json.stdout)["problems"]
    assert problem.endswith("set it to http://***@collector:4318")
    assert (told.exit_code, as_json.exit_code) == (1, 1)
    assert problem in " ".join(told.stderr.split())
    assert "hunter2" not in told.stderr + as_json.stdout + as_json.stderr


def test_senders_as_json(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """The JSON has the senders that sent last, failed last and watch, with times."""
    tell(runs, accepted=True, ago=300)
    tell(runs, error="503 Service Unavailable", watching=True, ago=100)
    document = json.loads(invoke("status", "--url", database_url, "--json").stdout)
    success, failure = document["last_success"], document["last_failure"]
    assert success["pid"] == failure["pid"] == os.getpid()
    assert success["host"]
    assert success["at"] < failure["at"] < document["at"]
    assert failure["error"] == "503 Service Unavailable"
    watching, other = document["senders"]
    assert (watching["watching"], other["watching"]) == (True, False)
    assert (watching["sent"], watching["failed"], watching["error"]) == (None, failure["at"], failure["error"])
    assert (other["sent"], other["failed"], other["error"]) == (success["at"], None, None)
    assert 100 <= watching["seen_age"] < 300 <= other["seen_age"]


def test_what_waits_is_told(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """Each kind of entry is counted, and what it waits for is told."""
    finish(runs, 5)
    runs.build(str(uuid.uuid4()))
    outbox = runs.storage.records.outbox
    claims = outbox.claim_task_results(4, timedelta(days=1))
    first, second, third, _fourth = [claim.reference_id for claim in claims.claims]
    outbox.release(claims.token, [first], delay=timedelta(days=1), error="connection refused")
    outbox.refuse(claims.token, [second], error="400 the span is too large")
    outbox.refuse(claims.token, [third], error="400 the span is too large")
    _expire_one(runs)
    document = json.loads(invoke("status", "--url", database_url, "--json").stdout)
    figures = {name: document["outbox"][name] for name in ("due", "retrying", "leased", "waiting")}
    assert figures == {"due": 10, "retrying": 1, "leased": 1, "waiting": 12}
    assert (document["outbox"]["refused"], document["outbox"]["expired"], document["outbox"]["open"]) == (2, 1, 1)
    assert document["outbox"]["error"] == "connection refused"
    assert 7000 < document["oldest_age"] < 7400
    lines = invoke("status", "--url", database_url).stdout.splitlines()
    assert lines[:8] == [
        "waiting     12  entries of the outbox, the oldest for 2 h 00 min",
        "  due       10  to be sent now",
        "  retrying   1  to be tried again: connection refused",
        "  leased     1  in the hands of a sender",
        "held back    0",
        "open         1  runs that are not finished yet",
        "set aside    2  refused for good: 400 the span is too large",
        "expired      1  too old to be sent",
    ]


def _expire_one(runs: Runs) -> None:
    """As a sender marks what is too old."""
    table = schema.outbox
    runs.storage.records.database.write(
        lambda connection: connection.execute(update(table).where(table.c.id == 15).values(state="expired"))
    )


def test_held_runs_are_explained(
    runs: Runs, database_url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished run with a record below that runs on is held back: no problem, and the reason is told."""
    execution = runs.build(str(uuid.uuid4()))
    task_result = execution.get_pipeline_results()[0].get_task_executions()[0].get_task_results()[0]
    task_result.report_status_change(runs.reporter, Status.RUNNING)
    execution.report_status_change(runs.reporter, Status.CANCELLED)
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        runs.storage.delivery.deliver_due()
    result = invoke("status", "--url", database_url)
    assert result.exit_code == 0
    assert "held back   1  finished runs, for: 1 task results are RUNNING\n" in result.stdout


def test_a_backlog_that_nobody_sends(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """Entries that wait for longer than the limit, with no success at all, need a person."""
    finish(runs)
    result = invoke("status", "--url", database_url)
    assert result.exit_code == 1
    assert result.stderr == (
        "otel-storage: 3 entries of the outbox wait, the oldest for 2 h 00 min, and nothing was accepted so far: "
        "nobody sends\n"
    )
    assert invoke("status", "--url", database_url, "--max-wait", "3h").exit_code == 0


def test_a_backlog_in_an_outage(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """A success of long ago does not help, and the last error is told."""
    finish(runs)
    outbox = runs.storage.records.outbox
    claims = outbox.claim_task_results(2, timedelta(minutes=1))
    ids = [claim.reference_id for claim in claims.claims]
    outbox.release(claims.token, ids, delay=timedelta(0), error="connection refused")
    tell(runs, accepted=True, ago=3601)
    result = invoke("status", "--url", database_url, "--json")
    assert result.exit_code == 1
    [problem] = json.loads(result.stdout)["problems"]
    assert problem.endswith("and nothing was accepted for 1 h 00 min: connection refused")
    assert result.stderr == f"otel-storage: {problem}\n"


def test_a_backlog_that_shrinks(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """However old the oldest entry is: while some are accepted, nobody is needed."""
    finish(runs)
    tell(runs, accepted=True, ago=60)
    tell(runs, error="503", ago=5)
    assert invoke("status", "--url", database_url).exit_code == 0
    assert invoke("status", "--url", database_url, "--max-wait", "30s").exit_code == 1


def test_set_aside_needs_a_person(
    runs: Runs, database_url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """References that the endpoint refused for good are a problem, unless --max-set-aside allows as many."""
    with OtlpReceiver() as receiver:
        receiver.misbehave(RefuseSpan(lambda span: span.name == "RUN tests.Orders"))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        finish(runs)
        runs.storage.delivery.deliver_due()
    result = invoke("status", "--url", database_url)
    assert result.exit_code == 1
    assert result.stderr.startswith("otel-storage: 1 entry of the outbox refused for good and set aside: ")
    assert result.stderr.count("\n") == 1
    assert invoke("status", "--url", database_url, "--max-set-aside", "1").exit_code == 0


def test_expired_needs_a_person(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """What became too old to be sent is a problem, beside what else is one."""
    finish(runs, 5)
    _expire_one(runs)
    result = invoke("status", "--url", database_url, "--json")
    assert result.exit_code == 1
    expired, waiting = json.loads(result.stdout)["problems"]
    assert expired == "1 entry of the outbox expired: too old to be sent"
    assert "14 entries of the outbox wait" in waiting
    tell(runs, accepted=True)
    assert invoke("status", "--url", database_url, "--max-expired", "1").exit_code == 0


def test_senders_at_a_glance(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """The last success, the last failure, and a table of who sends that fits 80 columns."""
    tell(runs, accepted=True, ago=7 * 3600 + 30)
    tell(runs, accepted=True, error="http://collector:4318/v1/traces: connection refused, again and again", ago=90)
    tell(runs, watching=True, ago=15)
    runs.storage.records.database.write(
        lambda connection: connection.execute(update(schema.sender).values(host="web-1.example.com" * 3, pid=4711))
    )
    lines = invoke("status", "--url", database_url).stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    shown = [re.sub(r"1 min 3\d s", "1 min 30 s", re.sub(r"\b1[5-9] s", "15 s", line)) for line in lines[9:]]
    assert shown == [
        "accepted    1 min 30 s ago, by web-1.example.comweb-1.exampl…, pid 4711",
        "failed      1 min 30 s ago: http://collector:4318/v1/traces: connection refused…",
        "watching    web-1.example.comweb-1.exampl…, pid 4711, seen 15 s ago",
        "",
        "SENDER             PID   WATCHES  SEEN            ACCEPTED        FAILED",
        "web-1.example.co…  4711  yes      15 s ago",
        "web-1.example.co…  4711           1 min 30 s ago  1 min 30 s ago  1 min 30 s ago",
        "web-1.example.co…  4711           7 h 00 min ago  7 h 00 min ago",
    ]


def test_many_senders(runs: Runs, database_url: str, invoke: Invoke) -> None:
    """Of many senders ten are shown, and it is told that there are more."""
    seen = clock.now() - timedelta(seconds=30)
    values = [
        {
            "token": f"{n:032}",
            "host": f"web-{n:03}",
            "pid": n,
            "is_watching": False,
            "seen": seen + timedelta(seconds=n),
        }
        for n in range(12)
    ]
    runs.storage.records.database.write(lambda connection: connection.execute(insert(schema.sender), values))
    stdout = invoke("status", "--url", database_url).stdout
    assert "web-011  11 " in stdout
    assert "web-002  2 " in stdout
    assert "web-001" not in stdout
    assert stdout.endswith("and more; --json lists the 100 seen last\n")
    assert len(json.loads(invoke("status", "--url", database_url, "--json").stdout)["senders"]) == 12


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_width(columns: str, runs: Runs, database_url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is wider than the terminal, and none is wrapped."""
    monkeypatch.setenv("COLUMNS", columns)
    finish(runs)
    outbox = runs.storage.records.outbox
    claims = outbox.claim_task_results(1, timedelta(minutes=1))
    outbox.refuse(claims.token, [claims.claims[0].reference_id], error="refused\n" * 200)
    tell(runs, accepted=True, error="é" * 500, watching=True)
    lines = invoke("status", "--url", database_url).stdout.splitlines()
    assert len(lines) == 15
    assert max(map(len, lines)) <= int(columns)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--max-wait", "soon"), "'soon' is not an age such as 90s, 15m, 2h or 1d"),
        (("--max-expired", "-1"), "--max-expired"),
    ],
)
def test_wrong_usage(options: tuple[str, ...], words: str, runs: Runs, database_url: str, invoke: Invoke) -> None:
    """A limit that is none is wrong usage, and the option is named."""
    result = invoke("status", "--url", database_url, *options)
    assert result.exit_code == 2
    assert words in result.stderr


def test_no_database(empty_sqlite_url: str, invoke: Invoke) -> None:
    """A look at a database that is not there says so, and makes none."""
    result = invoke("status", "--url", empty_sqlite_url)
    assert result.exit_code == 1
    assert "there is no database" in result.stderr
    assert invoke("status", "--url", empty_sqlite_url, "--json").stdout == ""


def test_nothing_is_sent(runs: Runs, database_url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look sends nothing, and is not taken for a sender."""
    finish(runs)
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        document = json.loads(invoke("status", "--url", database_url, "--json").stdout)
        assert receiver.requests == []
    assert document["senders"] == []


@pytest.mark.slow
def test_watching_is_seen(database_url: str, invoke: Invoke, runs: Runs) -> None:
    """A process of ``deliver --watch`` with nothing to do is seen, as long as it lives and after."""
    with subprocess.Popen(
        [sys.executable, "-m", "otel_storage.cli", "deliver", "--watch", "--url", database_url],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            senders: list[dict[str, object]] = []
            while not senders:
                assert process.poll() is None
                senders = json.loads(invoke("status", "--url", database_url, "--json").stdout)["senders"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
    [sender] = senders
    assert (sender["pid"], sender["watching"], sender["sent"]) == (process.pid, True, None)


def test_the_rules_have_names() -> None:
    """The options' defaults are those of the help."""
    defaults = {parameter.name: parameter.default for parameter in status.status.params}
    assert (defaults["max_wait"], defaults["max_set_aside"], defaults["max_expired"]) == ("15m", 0, 0)
