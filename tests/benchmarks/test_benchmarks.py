"""The benchmarks run, and print what they are for; no time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pipelines", reason="django-pipelines is not installed: pip install '.[django]'")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments"),
    [("building", ["--small"]), ("transitions", ["--tasks", "5"])],
    ids=["building", "transitions"],
)
def test_a_benchmark_prints_its_ratios(module: str, arguments: list[str]) -> None:
    """Every contender is there, with a ratio."""
    process = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{module}", "--repeat", "1", "--json", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    storages = {row["storage"]: row["ratio"] for row in json.loads(process.stdout)["rows"]}
    assert {"SqlPipelineStorage", "the host's ORM storage"} < storages.keys()
    assert all(ratio > 0 for ratio in storages.values())


@pytest.mark.slow
def test_metrics_are_measured() -> None:
    """Every figure is there, with its target where it has one."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.metrics", "--repeat", "1", "--factor", "0.001", "--json"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    rows = json.loads(process.stdout)["rows"]
    assert [row["work"].partition(",")[0] for row in rows] == [
        *["first counting of 1"] * 2,
        *["scrape"] * 2,
        *["digest"] * 2,
    ]
    assert all(row["value"] > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.smoke
def test_delivery_prints_its_figures() -> None:
    """The sender is measured alone, with another, and beside the SDK."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.delivery", "--repeat", "1", "--factor", "0.02", "--json"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    figures = {row["name"]: row for row in json.loads(process.stdout)["rows"]}
    assert {name for name, row in figures.items() if row["target"]} == {
        "spans a second, one sender",
        "x the SDK's encoding and sending",
    }
    assert "spans a second, two senders" in figures
    assert all(row["value"] > 0 for row in figures.values())
