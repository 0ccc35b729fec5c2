"""``otel-storage runs`` and ``otel-storage show``."""

from __future__ import annotations

import json
import shlex
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from otel_storage.results import clock
from otel_storage.results.status import PipelineTaskStatus as Status
from otel_storage.testing.clock import START
from tests.cli.conftest import Execute, Invoke, Runs

RUN_ID = "6f1d3c0e-8b0f-4b8e-9b57-0a7c6d0f2b11"
OTHER_ID = "6f1d3c0e-0000-4b8e-9b57-0a7c6d0f2b12"


def listed(stdout: str) -> list[str]:
    """The run ids that JSON lists."""
    return [run["run_id"] for run in json.loads(stdout)["runs"]]


def fail_load(name: str) -> bool:
    """The second task fails."""
    return name == "load"


def test_newest_first(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """Runs are listed newest first, a line each, under a heading."""
    for run_id in ("first", "second"):
        runs.build(run_id)
    result = invoke("runs", "--url", sqlite_url)
    assert result.exit_code == 0
    heading, *lines = result.stdout.splitlines()
    assert heading.split() == ["RUN", "STATUS", "PIPELINE", "STARTED", "TOOK"]
    assert [line.split()[0] for line in lines] == ["second", "first"]
    assert result.stderr == ""


def test_json_keys(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """The JSON of a list has the documented keys, and times in UTC."""
    runs.finish(runs.build(RUN_ID), fail_load)
    document = json.loads(invoke("runs", "--url", sqlite_url, "--json").stdout)
    assert document == {
        "runs": [
            {
                "run_id": RUN_ID,
                "pipeline_id": "tests.Orders",
                "status": "RUNTIME_ERROR",
                "created": "2024-02-29T12:00:00.000000+00:00",
                "started": "2024-02-29T12:00:00.000000+00:00",
                "completed": "2024-02-29T12:00:01.000000+00:00",
                "duration": 1.0,
                "message": "order 1042 has no customer",
                "trace_id": RUN_ID.replace("-", ""),
            }
        ],
        "next": None,
    }


def test_filters(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """Runs are filtered by pipeline and by any of several statuses, whose case does not matter."""
    runs.build("waiting", "tests.Other")
    runs.finish(runs.build("done"))
    runs.finish(runs.build("failed"), fail_load)

    def found(*options: str) -> list[str]:
        return listed(invoke("runs", "--url", sqlite_url, "--json", *options).stdout)

    assert found("--pipeline", "tests.Other") == ["waiting"]
    assert found("--status", "done") == ["done"]
    assert found("--status", "DONE", "--status", "RUNTIME_ERROR") == ["failed", "done"]
    assert found("--status", "CANCELLED") == []
    assert found("--status", "done,Runtime_Error") == ["failed", "done"]
    assert found("--status", "pending, done", "--status", "RUNTIME_ERROR") == ["failed", "done", "waiting"]


def test_error_is_three_statuses(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """ERROR stands for the three statuses of errors, which a cancelled run is in none of."""
    statuses = (Status.DONE, Status.CANCELLED, Status.RUNTIME_ERROR, Status.VALIDATION_ERROR, Status.CONFIG_ERROR)
    for status in statuses:
        runs.build(status.value).report_status_change(runs.reporter, status)

    def found(*options: str) -> list[str]:
        return listed(invoke("runs", "--url", sqlite_url, "--json", *options).stdout)

    errors = ["CONFIG_ERROR", "VALIDATION_ERROR", "RUNTIME_ERROR"]
    assert found("--status", "error") == errors
    assert found("--status", "ERROR,done,error") == [*errors, "DONE"]
    # The next page has the same statuses.
    told = invoke("runs", "--url", sqlite_url, "--status", "done,error", "--limit", "1").stderr
    words = shlex.split(told[told.index("otel-storage runs") :].replace("\\\n", ""))
    assert [words[at + 1] for at, word in enumerate(words) if word == "--status"] == [
        "DONE",
        "CONFIG_ERROR",
        "VALIDATION_ERROR",
        "RUNTIME_ERROR",
    ]


@pytest.mark.parametrize("given", ["finished", "done,", "done,failed", ""])
def test_wrong_status(given: str, sqlite_url: str, invoke: Invoke) -> None:
    """A name that is none is refused with those that are."""
    result = invoke("runs", "--url", sqlite_url, "--status", given)
    assert (result.exit_code, result.stdout) == (2, "")
    said = " ".join(result.stderr.split())
    assert f"{given.rpartition(',')[2]!r} is not a status; use PENDING, RUNNING, DONE, " in said
    assert said.endswith("CANCELLED, ERROR")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("done,R", ["done,RUNNING", "done,RUNTIME_ERROR"]),
        ("c", ["CONFIG_ERROR", "CANCELLED"]),
        ("e", ["ERROR"]),
        ("x", []),
    ],
)
def test_statuses_complete(typed: str, offered: list[str], invoke: Invoke) -> None:
    """A shell completes the name that is being typed, also behind a comma."""
    asked = {
        "_OTEL_STORAGE_COMPLETE": "bash_complete",
        "COMP_WORDS": f"otel-storage runs --status {typed}",
        "COMP_CWORD": "3",
    }
    result = invoke(env=asked, prog_name="otel-storage")
    assert result.stdout.split() == [f"plain,{name}" for name in offered]


def test_started_has_seconds(runs: Runs, sqlite_url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list tells when a run started to the second; in a narrow terminal, of today's runs."""
    runs.build("then")
    runs.clock.advance((clock.now() - START).total_seconds() // 1 + 7)
    runs.build("now")
    today, then = invoke("runs", "--url", sqlite_url).stdout.splitlines()[1:]
    assert "2024-02-29 12:00:00" in then
    assert f"{runs.clock():%Y-%m-%d %H:%M:%S}" in today
    monkeypatch.setenv("COLUMNS", "40")
    today, then = invoke("runs", "--url", sqlite_url).stdout.splitlines()[1:]
    assert then.split()[3] == "02-29"
    assert len(today) <= 40


def test_since(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """--since takes an age or a date; what was built at that time is in."""
    runs.build("long ago")
    runs.clock.advance((clock.now() - START).total_seconds() - 3600)
    runs.build("an hour ago")

    def found(since: str) -> list[str]:
        return listed(invoke("runs", "--url", sqlite_url, "--json", "--since", since).stdout)

    assert found("30m") == []
    assert found("2h") == ["an hour ago"]
    assert found("2024-02-29T12:00:00+00:00") == ["an hour ago", "long ago"]
    assert found("2024-03-01") == ["an hour ago"]


def test_pages(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """The command that is told for the next page leads through all runs, once each, with the same filters."""
    for number in range(7):
        runs.build(f"run {number}")
    runs.build("other", "tests.Other")
    seen = []
    words = [
        "runs",
        "--url",
        sqlite_url,
        "--limit",
        "3",
        "--pipeline",
        "tests.Orders",
        "--since",
        "2024-02-29",
        "--json",
    ]
    for _ in range(3):
        result = invoke(*words)
        seen += listed(result.stdout)
        if "otel-storage runs" not in result.stderr:
            break
        command = result.stderr[result.stderr.index("otel-storage runs") :].replace("\\\n", "")
        words = shlex.split(command)[1:]
        assert words[words.index("--pipeline") + 1] == "tests.Orders"
    assert seen == [f"run {number}" for number in reversed(range(7))]


def test_cursor_is_in_the_json(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """The cursor of the next page is in the document too; a run that is built meanwhile shifts no page."""
    for number in range(3):
        runs.build(f"run {number}")
    document = json.loads(invoke("runs", "--url", sqlite_url, "--limit", "2", "--json").stdout)
    runs.build("newer")
    following = invoke("runs", "--url", sqlite_url, "--before", str(document["next"]), "--json")
    assert listed(following.stdout) == ["run 0"]


def test_no_runs(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """An empty list is no error: nothing on stdout, a word on stderr."""
    result = invoke("runs", "--url", sqlite_url)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "There are no runs in" in result.stderr
    assert "No run" in invoke("runs", "--url", sqlite_url, "--status", "DONE").stderr


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_lists_fit(width: int, runs: Runs, sqlite_url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of a list is wider than the terminal, and each run is told from the others."""
    monkeypatch.setenv("COLUMNS", str(width))
    for run_id in (RUN_ID, OTHER_ID):
        runs.finish(runs.build(run_id, "tests.WithAVeryLongNameThatNoTerminalHasRoomFor"), fail_load)
    lines = invoke("runs", "--url", sqlite_url).stdout.splitlines()
    assert all(len(line) <= width for line in lines)
    assert len({line.split()[0] for line in lines[1:]}) == 2


@pytest.mark.parametrize(
    "options",
    [
        ("--status", "FINISHED"),
        ("--since", "yesterday"),
        ("--since", "999999w"),
        ("--limit", "0"),
        ("--before", "x"),
        ("--unknown",),
    ],
)
def test_wrong_usage(options: tuple[str, ...], invoke: Invoke) -> None:
    """Wrong options exit 2, say so on stderr, and print no data."""
    result = invoke("runs", *options)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr
    assert result.stdout == ""


def test_show_draws_the_run(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """A run with iterators at both levels is drawn with all of its records."""
    runs.finish(runs.build(RUN_ID, pipeline=["north", "south"], task=["a", "b"]))
    result = invoke("show", RUN_ID, "--url", sqlite_url)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["tests.Orders", "✓", "DONE", "in", "3.00", "s"]
    assert lines[1].split() == ["run", RUN_ID]
    assert lines[2].split() == ["trace", RUN_ID.replace("-", "")]
    assert [line[:11].rstrip() for line in lines[6:]] == [
        "run",
        "├─ north",
        "│  ├─ extra",
        "│  └─ load",
        "│     ├─ a",
        "│     └─ b",
        "└─ south",
        "   ├─ extra",
        "   └─ load",
        "      ├─ a",
        "      └─ b",
    ]


def test_show_tells_the_exception(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """A failed task's message is drawn with the class of its exception."""
    runs.finish(runs.build(RUN_ID), fail_load)
    assert "ValueError: order 1042 has no customer" in invoke("show", RUN_ID, "--url", sqlite_url).stdout


def test_show_json_is_the_tree(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """The JSON of a run nests its records, each with the documented keys, and with the whole error."""
    runs.finish(runs.build(RUN_ID, pipeline=["north"], task=["a"]), fail_load)
    run = json.loads(invoke("show", RUN_ID, "--url", sqlite_url, "--json").stdout)
    common = {"kind", "id", "status", "outcome", "created", "started", "completed"}
    common |= {"start", "end", "duration", "elapsed", "message", "exception"}
    [pipeline_result] = run["pipeline_results"]
    extract, load = pipeline_result["task_executions"]
    [task_result] = load["task_results"]
    assert run.keys() - common == {"run_id", "pipeline_id", "trace_id", "pipeline_results"}
    assert pipeline_result.keys() - common == {"pipeline_object", "runner", "reporter", "task_executions"}
    assert load.keys() - common == {"pipeline_task", "task_id", "task_results"}
    assert task_result.keys() - common == {"task_object"}
    assert pipeline_result["pipeline_object"] == {"obj": "north"}
    assert task_result["exception"]["type"] == "ValueError"
    assert "Traceback" in task_result["exception"]["stacktrace"]
    # The eager runner never reports a successful task final.
    assert (extract["status"], extract["outcome"]) == ("RUNNING", "DONE")


def test_times_of_a_run_agree(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """Both commands tell the run's own time, though a task outlives it; elapsed contains that task."""
    run = runs.build(RUN_ID, task=["a"])
    extract, load = run.get_pipeline_results()[0].get_task_executions()
    [first], [second] = extract.get_task_results(), load.get_task_results()
    for task_result in (first, second):
        task_result.report_status_change(runs.reporter, Status.RUNNING)
    runs.clock.advance(2)
    first.report_status_change(runs.reporter, Status.RUNTIME_ERROR, "bad")

    def told() -> tuple[Any, Any, Any]:
        shown = json.loads(invoke("show", RUN_ID, "--url", sqlite_url, "--json").stdout)
        [listed] = json.loads(invoke("runs", "--url", sqlite_url, "--json").stdout)["runs"]
        return listed["duration"], shown["duration"], shown["elapsed"]

    assert told() == (2.0, 2.0, None)
    runs.clock.advance(3)
    second.report_status_change(runs.reporter, Status.DONE, propagate=False)
    assert told() == (2.0, 2.0, 5.0)
    assert invoke("runs", "--url", sqlite_url).stdout.rstrip().endswith("  2.00 s")
    header, *_rest, outliving = invoke("show", RUN_ID, "--url", sqlite_url).stdout.splitlines()
    assert header.endswith("RUNTIME_ERROR in 2.00 s")
    assert outliving.split()[-3:] == ["DONE", "5.00", "s"]


@pytest.mark.parametrize(
    "start", [RUN_ID[:1], RUN_ID[:8], RUN_ID[:9], RUN_ID.replace("-", ""), RUN_ID.replace("-", "")[:10]]
)
def test_show_takes_the_start_of_an_id(start: str, runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """A run is found by the start of its id and by its trace id."""
    runs.build(RUN_ID)
    runs.build("00000000-0000-4000-8000-000000000000")
    assert json.loads(invoke("show", start, "--url", sqlite_url, "--json").stdout)["run_id"] == RUN_ID


def test_show_finds_an_old_run_by_its_trace(
    runs: Runs, sqlite_url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digits of a UUID find its run however old the run is: no list of the newest runs is searched."""
    monkeypatch.setattr("otel_storage.cli.runs._TRACES_SEARCHED", 1)
    runs.build(RUN_ID)
    runs.build("newer")
    for digits in (9, 12, 13, 17, 21, 32):
        shown = invoke("show", RUN_ID.replace("-", "")[:digits], "--url", sqlite_url).stdout
        assert f" {RUN_ID}\n" in shown


def test_show_finds_a_trace_that_is_a_hash(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """The trace id of a run whose id is no UUID finds the run, by its start too, if that has 8 digits."""
    trace_id = runs.build("nightly 2024-02-29").get_trace_id()
    assert trace_id is not None
    for start in (trace_id, trace_id[:8], trace_id[:8].upper()):
        assert "nightly 2024-02-29" in invoke("show", start, "--url", sqlite_url).stdout
    assert invoke("show", trace_id[:7], "--url", sqlite_url).exit_code == 1


def test_show_refuses_an_ambiguous_start(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """A start that two ids share is refused, and both are named with their pipeline and start."""
    runs.build(RUN_ID)
    runs.clock.advance(61)
    runs.build(OTHER_ID, "tests.Other")
    result = invoke("show", RUN_ID[:8], "--url", sqlite_url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        f"otel-storage: several runs start with '{RUN_ID[:8]}':",
        f"  {OTHER_ID}  tests.Other  2024-02-29 12:01:01",
        f"  {RUN_ID}  tests.Orders  2024-02-29 12:00:00",
    ]


def test_show_names_a_few_of_many(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """Of many runs that match a few are named, and that there are more."""
    for number in range(9):
        runs.build(f"run {number}")
    told = invoke("show", "run", "--url", sqlite_url).stderr.splitlines()
    assert len(told) == 7
    assert told[-1] == "  and more"


def test_show_takes_the_newest_run(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """Without an id, and for "last", the newest run is shown, unless there is a run of the id "last"."""

    def shown(*words: str) -> str:
        run_id: str = json.loads(invoke("show", *words, "--url", sqlite_url, "--json").stdout)["run_id"]
        return run_id

    runs.build("lasting")
    runs.build("newest")
    assert shown() == "newest"
    assert shown("last") == "newest"
    assert shown("las") == "lasting"
    runs.build("last")
    runs.build("newer")
    assert shown("last") == "last"


def test_show_without_runs(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """There is no newest run in an empty database: one line says so."""
    result = invoke("show", "--url", sqlite_url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("otel-storage: There are no runs in sqlite:///")


@pytest.mark.parametrize("run_id", ["nothing-of-that-name", "6f1e", "6F1D", "6f1d%", "", "x" * 5000, "\x00", "a\nb"])
def test_unknown_run(run_id: str, runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """An unknown run is one line on stderr and exit code 1."""
    runs.build(RUN_ID)
    result = invoke("show", run_id, "--url", sqlite_url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("otel-storage: there is no run ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words", [("runs",), ("show", RUN_ID), ("deliver",), ("db", "current")], ids=lambda words: words[0]
)
class TestTrouble:
    """What every command that reads says when it cannot."""

    def test_missing_file(self, words: tuple[str, ...], tmp_path: Path, invoke: Invoke) -> None:
        """A SQLite file that is not there is named, and not made."""
        path = tmp_path / "none.db"
        result = invoke(*words, "--url", f"sqlite:///{path}")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"otel-storage: there is no database at {path}")
        assert result.stderr.count("\n") == 1
        assert not path.exists()

    def test_unreachable_server(self, words: tuple[str, ...], invoke: Invoke) -> None:
        """A server that cannot be reached is one line, without the password and without a traceback."""
        pytest.importorskip("psycopg")
        result = invoke(*words, "--url", "postgresql+psycopg://me:seeded-secret@127.0.0.1:1/runs")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("otel-storage: cannot open postgresql+psycopg://me:***@127.0.0.1:1/runs")
        assert result.stderr.count("\n") == 1
        assert "seeded-secret" not in result.stderr

    def test_not_a_database(self, words: tuple[str, ...], tmp_path: Path, invoke: Invoke) -> None:
        """A file of another kind is refused in one line."""
        path = tmp_path / "letter.txt"
        path.write_text("Dear Sir or Madam, " * 100)
        result = invoke(*words, "--url", f"sqlite:///{path}")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.count("\n") == 1

    def test_bad_url(self, words: tuple[str, ...], invoke: Invoke) -> None:
        """A URL that is none is refused, and an example given."""
        result = invoke(*words, "--url", "my database")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "sqlite:///runs.db" in result.stderr

    def test_newer_schema(self, words: tuple[str, ...], runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
        """A database of a newer version of the package is refused, naming what mends it."""
        runs.build(RUN_ID)
        runs.storage.close()
        with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
            connection.execute("UPDATE otel_storage_schema_version SET version_num = '9999'")
        connection.close()
        result = invoke(*words, "--url", sqlite_url)
        assert result.exit_code == 1
        assert "9999" in result.stderr
        assert "upgrade otel-storage in this environment" in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_colours_only_where_wanted(runs: Runs, sqlite_url: str, execute: Execute) -> None:
    """Output to a pipe has no escape sequences; with FORCE_COLOR it has, and NO_COLOR has the last word on colours."""
    runs.finish(runs.build(RUN_ID), fail_load)

    def stdout(**env: str) -> str:
        return execute("show", RUN_ID, "--url", sqlite_url, env=env).stdout

    assert "\x1b" not in stdout()
    assert "\x1b[31m" in stdout(FORCE_COLOR="1", TERM="xterm")
    assert "\x1b[31m" not in stdout(FORCE_COLOR="1", TERM="xterm", NO_COLOR="1")


@pytest.mark.slow
def test_ascii_terminal(runs: Runs, sqlite_url: str, execute: Execute) -> None:
    """Where stdout takes ASCII only the drawing is ASCII, and names that are not do not end the command."""
    runs.finish(runs.build(RUN_ID, pipeline=["Süd"]))
    done = execute("show", RUN_ID, "--url", sqlite_url, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert "`- S?d" in done.stdout
    document = execute("show", RUN_ID, "--url", sqlite_url, "--json", env={"PYTHONIOENCODING": "ascii"}).stdout
    assert json.loads(document)["pipeline_results"][0]["pipeline_object"] == {"obj": "Süd"}


def test_setting_names_the_storage(
    runs: Runs, sqlite_url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --url the storage is the one that the setting names, here by the environment variable."""
    runs.build(RUN_ID)

    def found(setting: Any) -> Any:
        monkeypatch.setenv("PIPELINES_PIPELINES_RESULTS_STORAGE", json.dumps(setting))
        return invoke("runs", "--json")

    for path in ("otel_storage.OtelPipelineStorage", "otel_storage.SqlPipelineStorage"):
        assert listed(found([path, {"url": sqlite_url}]).stdout) == [RUN_ID]
    wrong = found(["otel_storage.OtelPipelineStorage", {"urls": sqlite_url}])
    assert wrong.exit_code == 1
    assert "PIPELINES_PIPELINES_RESULTS_STORAGE" in wrong.stderr


def test_url_variable(runs: Runs, sqlite_url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --url and setting the database is the one of OTEL_STORAGE_URL."""
    runs.build(RUN_ID)
    monkeypatch.setenv("OTEL_STORAGE_URL", sqlite_url)
    assert listed(invoke("runs", "--json").stdout) == [RUN_ID]


@pytest.mark.slow
def test_django_setting(runs: Runs, sqlite_url: str, execute: Execute, tmp_path: Path) -> None:
    """With DJANGO_SETTINGS_MODULE the storage is Django's, found from the project's folder."""
    pytest.importorskip("pipelines")
    runs.build(RUN_ID)
    setting = ("otel_storage.OtelPipelineStorage", {"url": sqlite_url})
    (tmp_path / "shop_settings.py").write_text(
        f"PIPELINES_PIPELINES_RESULTS_STORAGE = {setting!r}\nUSE_TZ = False\nTIME_ZONE = 'Asia/Tokyo'\n"
    )
    done = execute("runs", "--json", env={"DJANGO_SETTINGS_MODULE": "shop_settings"}, cwd=tmp_path)
    assert listed(done.stdout) == [RUN_ID]
    # Getters give naive times in Django's zone there; what is printed is still UTC.
    assert json.loads(done.stdout)["runs"][0]["created"] == "2024-02-29T12:00:00.000000+00:00"
    broken = execute("runs", env={"DJANGO_SETTINGS_MODULE": "no_such_settings"}, cwd=tmp_path)
    assert broken.returncode == 1
    assert "DJANGO_SETTINGS_MODULE=no_such_settings" in broken.stderr
    assert broken.stderr.count("\n") == 1


@pytest.mark.slow
def test_large_runs_are_shown(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """A run of thousands of records takes a few lines, unless all are wanted."""
    runs.build(RUN_ID, task=list(range(3000)))
    short = invoke("show", RUN_ID, "--url", sqlite_url).stdout
    assert "… 2 992 more PENDING (--all to show)" in short
    assert len(short.splitlines()) < 20
    assert len(invoke("show", RUN_ID, "--url", sqlite_url, "--all").stdout.splitlines()) > 3000


@pytest.mark.slow
def test_reader_that_leaves(runs: Runs, sqlite_url: str, tmp_path: Path) -> None:
    """``otel-storage show --all | head`` ends without a traceback."""
    import os
    import subprocess
    import sys

    runs.build(RUN_ID, task=list(range(3000)))
    runs.storage.close()
    with subprocess.Popen(
        [sys.executable, "-m", "otel_storage.cli", "show", RUN_ID, "--all", "--url", sqlite_url],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def test_age_is_repeated_as_a_time(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """An age in the next page's command is the moment it meant: later it would mean another."""
    runs.clock.advance((clock.now() - START - timedelta(minutes=5)).total_seconds())
    for number in range(3):
        runs.build(f"run {number}")
    told = invoke("runs", "--url", sqlite_url, "--limit", "1", "--since", "1h").stderr
    assert "1h" not in told
    assert "--since" in told


def test_since_with_a_clock_that_is_wrong(runs: Runs, sqlite_url: str, invoke: Invoke) -> None:
    """A run that a host with a slow clock built hides none of those that were built before it."""
    runs.build("long ago")
    runs.clock.advance((clock.now() - START).total_seconds() - 3600)
    runs.build("an hour ago")
    runs.clock.advance(-400 * 86400)
    runs.build("slow clock")

    assert listed(invoke("runs", "--url", sqlite_url, "--json", "--since", "2h").stdout) == ["an hour ago"]
