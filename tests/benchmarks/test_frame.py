"""The command that runs the benchmarks: what it runs, prints, writes, and records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from otel_storage import SqlPipelineStorage
from tests.benchmarks import guard, history, reporting
from tests.benchmarks.figures import Figure
from tests.benchmarks.measuring import Databases, databases
from tests.benchmarks.running import Measured, benchmarks

pytest.importorskip("pipelines", reason="django-pipelines is not installed: pip install '.[django]'")

MACHINE = {"CPU": "Abacus", "cores": "2", "Python": "3.11.7"}
FAST = Figure("changes", "sqlite", "x the ORM", 8.04, at_least=8, is_guarded=True)
FEW = Figure("changes", "sqlite", "queries", 4, at_most=3, is_guarded=True)
SECONDS = Figure("changes", "sqlite", "s", 12.34)
CHANGES = Measured("changing", "sqlite", [FAST, FEW, SECONDS])


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmarks' command on SQLite alone."""
    return subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *arguments],
        cwd=Path(__file__).parents[2],
        env={name: value for name, value in os.environ.items() if name != "OTEL_STORAGE_TEST_POSTGRESQL_URL"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.slow
def test_command_prints_and_writes_what_it_measures(tmp_path: Path) -> None:
    """The command runs one benchmark by its name.

    The command prints a table of 80 columns at most, and a JSON with the machine.
    """
    path = tmp_path / "found.json"
    process = command("--only", "importing", "--repeat", "1", "--json", str(path))
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    # The name may be wrapped: a figure that misses its target needs more room.
    assert any("import of" in line for line in lines)
    document = json.loads(path.read_text())
    assert {"CPU", "cores", "Python", "SQLite", "SQLAlchemy"} <= document["machine"].keys()
    [measured] = document["measured"]
    assert (measured["benchmark"], measured["engine"]) == ("importing", "-")
    assert {figure["verdict"] for figure in measured["figures"]} <= {"met", "missed"}


@pytest.mark.slow
def test_command_names_the_benchmarks_that_there_are() -> None:
    """An unknown one is refused by a message that names the others."""
    process = command("--only", "nothing")
    assert process.returncode == 2
    assert all(name in process.stderr for name in benchmarks())


def test_benchmarks_are_found() -> None:
    """A module is one if it measures; those of the frame do not."""
    assert "importing" in benchmarks()
    assert not {"measuring", "running", "guard"} & set(benchmarks())


def test_verdict() -> None:
    """A figure meets its target, misses it, or has none."""
    assert [figure.verdict for figure in CHANGES.figures] == ["met", "missed", ""]


def test_figures_survive_json(tmp_path: Path) -> None:
    """What is written is read again; another benchmark's figures of the same machine stay, those of another do not."""
    path = tmp_path / "found.json"
    other = Measured("listing", "sqlite", [SECONDS])
    reporting.write(path, MACHINE, [CHANGES])
    reporting.write(path, MACHINE | {"PostgreSQL": "15"}, [other])
    document = json.loads(path.read_text())
    assert document["machine"] == MACHINE | {"PostgreSQL": "15"}
    assert reporting.from_json(document) == [CHANGES, other]
    reporting.write(path, {"CPU": "Quipu", "cores": "1"}, [other])
    assert reporting.from_json(json.loads(path.read_text())) == [other]


def test_readme_gets_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is between the markers is replaced, and nothing else."""
    readme = tmp_path / "README.md"
    readme.write_text(f"above\n{reporting.BEGIN}old\n{reporting.END}below\n")
    monkeypatch.setattr(reporting, "README", readme)
    for _ in range(2):
        reporting.write_readme(MACHINE, [CHANGES])
    text = readme.read_text()
    assert text.startswith(f"above\n{reporting.BEGIN}\n| work |")
    assert text.endswith(f"\n{reporting.END}below\n")
    assert "| changes | SQLite | x the ORM | 8.04 | >= 8 | met |" in text
    assert "old" not in text
    assert "Abacus, 2 cores; Python 3.11.7" in text
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="has no lines"):
        reporting.write_readme(MACHINE, [CHANGES])


def test_readme_has_what_was_measured_last() -> None:
    """The table of README.md is that of the JSON in the tree: ``python -m tests.benchmarks --readme`` makes it so."""
    document = json.loads(reporting.MEASURED.read_text())
    expected = reporting.markdown(document["machine"], reporting.from_json(document))
    assert f"{reporting.BEGIN}\n{expected}\n{reporting.END}" in reporting.README.read_text()


@pytest.mark.parametrize(
    ("figure", "recorded", "is_worse"),
    [
        (FAST, 8.0, False),
        (FAST, 16.0, False),
        (FAST, 17.0, True),
        (FEW, 4, False),
        (FEW, 3, True),
        (Figure("changes", "sqlite", "x the Core floor", 2.1, at_most=1.5), 1.1, False),
        (Figure("changes", "sqlite", "x the Core floor", 2.3, at_most=1.5), 1.1, True),
    ],
)
def test_what_is_a_slow_down(figure: Figure, recorded: float, is_worse: bool) -> None:
    """A ratio may be half as good as recorded, whichever way is good; a count must not grow."""
    assert guard.is_worse(figure, recorded) is is_worse


def test_what_the_guard_says() -> None:
    """Figures that are not guarded are left alone; one that is and was never recorded is named."""
    recorded = {"changes: x the ORM": 40.0}
    assert list(guard.slower(CHANGES, recorded)) == [
        "changes: x the ORM, sqlite: 8.04, and 40 is recorded",
        "changes: queries, sqlite: nothing is recorded: python -m tests.benchmarks --record --only changing",
    ]


@pytest.fixture(params=["sqlite", "postgresql"])
def made(request: pytest.FixtureRequest) -> Iterator[Databases]:
    """Databases for benchmarks, on each engine."""
    with databases(None if request.param == "sqlite" else request.getfixturevalue("empty_postgresql_url")) as found:
        yield found


def test_history(made: Databases) -> None:
    """The history has the promised runs of both pipelines, in the promised states.

    A second request returns the same.
    """
    url = made.history(1000)
    assert made.history(1000) == url
    with closing(SqlPipelineStorage(url)) as storage:
        assert len(storage.get_pipeline_executions()) == 1010
        assert len(storage.get_pipeline_executions(history.PIPELINE)) == 1000
        newest, *_, oldest = storage.get_pipeline_executions()
        digest = storage.get_pipeline_digest()
    times = [run.get_created() for run in (newest, oldest)]
    assert times == [datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=30 * n) for n in (1010, 1)]
    assert newest.get_run_id() != oldest.get_run_id()
    assert digest[history.PIPELINE].total_failure == 20
    assert digest[history.PIPELINE].average_runtime is not None
    assert digest[history.OTHER_PIPELINE].total_runs == 10


def test_databases_are_removed(empty_postgresql_url: str) -> None:
    """Removal also covers the databases that another process made for histories."""
    engine = create_engine(empty_postgresql_url)
    with databases(empty_postgresql_url) as shared:
        with databases(empty_postgresql_url, shared) as made:
            names = [made.fresh().database, made.history(1).database]
        with engine.connect() as connection:
            there = set(connection.exec_driver_sql("SELECT datname FROM pg_database").scalars())
        assert [name in there for name in names] == [False, True]
    with engine.connect() as connection:
        assert not set(names) & set(connection.exec_driver_sql("SELECT datname FROM pg_database").scalars())
    engine.dispose()
