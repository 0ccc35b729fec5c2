"""Eight children of a worker report to the same parents: nothing is lost, and nothing is told twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import services
from tests.with_celery.races import race_ours
from tests.with_celery.site import ROOT

RUNS = 8


@pytest.mark.slow
def test_the_command_races_both_storages() -> None:
    """On SQLite ours loses nothing; what the host's own loses is counted beside it."""
    services.redis_server()
    process = subprocess.run(
        [sys.executable, "-m", "tests.with_celery.races", "--runs", str(RUNS), "--json"],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    printed = json.loads(process.stdout)
    _check(printed["OtelPipelineStorage"])
    hosts = printed["the host's ORM storage"]
    assert (hosts["task_results"], hosts["failures"], hosts["traces"]) == (RUNS * 8, RUNS * 2, None)


@pytest.mark.slow
def test_a_race_on_postgresql(tmp_path: Path, postgresql_url: str) -> None:
    """On PostgreSQL, where eight transactions really meet, nothing is lost either."""
    services.redis_server()
    _check(race_ours(tmp_path, postgresql_url, RUNS, 8).as_json())


def _check(ours: dict[str, Any]) -> None:
    assert (ours["task_results"], ours["failures"], ours["unfinished"]) == (RUNS * 8, RUNS * 2, 0)
    assert ours["lost"] == {}
    assert ours["reported_twice"] == {}
    # PENDING, RUNNING and one final state of each record.
    assert ours["transitions"] == RUNS * (3 + 8) * 3
    assert (ours["traces"], ours["roots"], ours["spans"]) == (RUNS, RUNS, RUNS * (3 + 8))
    assert (ours["missing"], ours["outside"]) == (0, 0)
