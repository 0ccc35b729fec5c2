"""The command as a whole: help, version, imports."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.cli.conftest import ROOT, Invoke


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("demo",),
        ("runs",),
        ("show",),
        ("deliver",),
        ("status",),
        ("reap",),
        ("replay",),
        ("cleanup",),
        ("db",),
        ("db", "upgrade"),
        ("db", "current"),
    ],
)
def test_help(words: tuple[str, ...], invoke: Invoke) -> None:
    """Every command has help that fits a terminal of 80 columns."""
    result = invoke(*words, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage:")
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_every_command_is_listed(invoke: Invoke) -> None:
    """The help of the command names the others with what they do."""
    listed = invoke("--help").stdout
    for name in ("demo", "runs", "show", "deliver", "metrics", "status", "reap", "replay", "cleanup", "db"):
        assert f"\n  {name} " in listed


@pytest.mark.parametrize("module", ["otel_storage", "otel_storage.cli"])
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, module: str, invoke: Invoke) -> None:
    """The variable that the help names prints a shell's script, under the command's name, however it is started."""
    told = invoke("--help").stdout
    assert 'eval "$(_OTEL_STORAGE_COMPLETE=bash_source otel-storage)"' in told
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env={**os.environ, "_OTEL_STORAGE_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{shell}_source" in told
    assert f"_OTEL_STORAGE_COMPLETE={shell}_complete" in done.stdout
    assert "otel-storage" in done.stdout


def test_unknown_command(invoke: Invoke) -> None:
    """An unknown command is wrong usage."""
    assert invoke("shwo").exit_code == 2


def test_imports_are_light() -> None:
    """The entry point imports neither Django, SQLAlchemy, OpenTelemetry nor rich: commands import what they need."""
    heavy = "{'django', 'sqlalchemy', 'opentelemetry', 'rich', 'grpc'}"
    code = f"import sys, otel_storage.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("module", ["otel_storage", "otel_storage.cli"])
def test_module_is_the_command(module: str) -> None:
    """``python -m otel_storage`` is the command, under its own name; so is ``python -m otel_storage.cli``."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage: otel-storage ")


def test_demo_without_the_host() -> None:
    """Without django-pipelines the demo says what to install, in one line."""
    code = (
        "from otel_storage.results import host; host.is_installed = lambda: False; "
        "from otel_storage.cli import main; main(['demo'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install '.[django]'" in done.stderr
    assert done.stderr.count("\n") == 1
