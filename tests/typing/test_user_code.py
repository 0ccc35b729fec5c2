"""Types from a user's side: good code passes ``mypy --strict``, and mistakes are found where they are made."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from otel_storage import OtelPipelineStorage
from otel_storage.results import config, helpers, host
from tests.processes import ROOT
from tests.typing import user_code

pytest.importorskip("mypy", reason="mypy is not installed: pip install '.[test]'")

MISTAKES = {
    'OtelPipelineStorage(delivery="sometimes")': "arg-type",
    "OtelPipelineStorage(exporter=print)": "arg-type",
    "OtelPipelineStorage(capture=1)": "arg-type",
    "OtelPipelineStorage(settle_quiet='30')": "arg-type",
    "OtelPipelineStorage(ulr='sqlite://')": "call-arg",
    "OtelPipelineStorage(17)": "arg-type",
    "SqlPipelineStorage(durable='yes')": "arg-type",
    "SqlPipelineStorage(engine='sqlite://')": "arg-type",
    "SqlPipelineStorage(clock=datetime.now(UTC))": "arg-type",
    "result.report_status_change(reporter, 1)": "arg-type",
    "result.report_status_change(reporter, 'DONE')": "arg-type",
    "result.report_status_change(print, PipelineTaskStatus.DONE)": "arg-type",
    "PipelineTaskStatus.FINISHED": "attr-defined",
    "storage.get_pipeline_execution('run').get_status()": "union-attr",
    "storage.get_task_results()['0']": "call-overload",
    "storage.get_task_results().count('x')": "call-arg",
    "storage.get_nothing()": "attr-defined",
    "result.get_nothing()": "attr-defined",
    "result.get_status() + 1": "operator",
    "(result.get_duration() * 2)": "operator",
    "storage.build_pipeline_execution(object(), 'run', None, reporter, {})": "arg-type",
    "storage.build_pipeline_execution(pipeline, 17, None, reporter, {})": "arg-type",
    "storage.cleanup(before='2024-01-01')": "arg-type",
    "helpers.get_task_results(run=1)": "call-arg",
}
"""Lines of a user's code, each with a mistake, and the code of the error that mypy must find there."""

BEFORE_MISTAKES = """\
from datetime import UTC, datetime
from otel_storage import OtelPipelineStorage, PipelineTaskStatus, SqlPipelineStorage, TaskResult
from otel_storage.results import helpers
from otel_storage.results.protocols import PipelineLike, Reporter

def mistakes(storage: SqlPipelineStorage, result: TaskResult, reporter: Reporter, pipeline: PipelineLike) -> None:
"""


def check(path: Path, folder: Path) -> str:
    """What ``mypy --strict`` says of the file, with none of this project's settings."""
    process = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"),
            # In the tree the package lies beside the tests; as in site-packages, its own errors are not the user's.
            *("--follow-imports=silent", "--cache-dir", str(folder / "cache"), "--hide-error-context"),
            path.name,
        ],
        cwd=path.parent,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert process.stderr == ""
    return process.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the user's files, and a cache that both checks use."""
    return tmp_path_factory.mktemp("user")


@pytest.mark.slow
def test_good_code_passes(folder: Path) -> None:
    """A module that uses what is public, with classes of its own for pipelines, reporters and exporters."""
    path = folder / "user_code.py"
    path.write_text(Path(user_code.__file__).read_text())

    assert check(path, folder) == ""


@pytest.mark.slow
def test_mistakes_are_found(folder: Path) -> None:
    """Every mistake is an error on its own line; nothing of ours is Any where it matters."""
    path = folder / "mistakes.py"
    path.write_text(BEFORE_MISTAKES + "".join(f"    {line}\n" for line in MISTAKES))
    first = BEFORE_MISTAKES.count("\n") + 1

    found: dict[int, set[str]] = {}
    for match in re.finditer(r"^mistakes\.py:(\d+): error: .*\[([a-z-]+)\]$", check(path, folder), re.MULTILINE):
        found.setdefault(int(match[1]), set()).add(match[2])

    assert found == {first + number: {code} for number, code in enumerate(MISTAKES.values())}


def test_good_code_runs(empty_sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the type checker accepts does what it says."""
    monkeypatch.setattr(host, "django_is_configured", lambda: False)
    monkeypatch.setenv(config.SETTING, f'["otel_storage.SqlPipelineStorage", {{"url": "{empty_sqlite_url}"}}]')
    monkeypatch.setenv("OTEL_STORAGE_URL", empty_sqlite_url)
    exporter = user_code.Names()
    with closing(OtelPipelineStorage(url=empty_sqlite_url, exporter=exporter, delivery="thread")) as storage:
        texts, duration = user_code.run(storage)
    for made in user_code.storages(empty_sqlite_url):
        made.close()  # type: ignore[attr-defined]  # both of ours have it
    helpers.reset_storage_object()

    assert user_code.by_helpers() == ["2", "none"]
    helpers.get_pipeline_results_storage().close()  # type: ignore[attr-defined]
    helpers.reset_storage_object()
    assert texts[-3:] == ["shop.Orders", "True", "run"]
    assert "all of it" in texts[0]
    assert duration.total_seconds() >= 0
    assert "RUN shop.Orders" in exporter.names
