"""A real project, and how the tests start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import KEPT_VARIABLES
from tests.processes import ROOT

pytest.importorskip("pipelines", reason="django-pipelines is not installed: pip install '.[django]'")


def environment(**changes: str) -> dict[str, str]:
    """The environment of a process of the project."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if (not name.startswith("OTEL_") or name.startswith(KEPT_VARIABLES))
        and not name.startswith("PIPELINES_")
        and name not in ("FORCE_COLOR", "NO_COLOR")
    }
    return {
        **kept,
        "DJANGO_SETTINGS_MODULE": "tests.contrib.project_settings",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "80",
        **changes,
    }


class Project:
    """A project in a folder of its own; settings that JSON can hold may be changed for each process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def manage(self, *words: str, settings: dict[str, Any] | None = None, **variables: str) -> Any:
        """Run ``manage.py`` with the words; the process that was."""
        return self._run(["-m", "django", *words], settings, variables)

    def python(self, script: str, settings: dict[str, Any] | None = None, **variables: str) -> Any:
        """Run the script with Django set up, which must exit clean; what it printed, read as JSON."""
        done = self._run(["-c", f"import django\ndjango.setup()\n{script}"], settings, variables)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        """Start a process that the test ends."""
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=self.folder,
            env=environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _run(self, words: Sequence[str], settings: dict[str, Any] | None, variables: dict[str, str]) -> Any:
        return subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env=environment(TEST_PROJECT_SETTINGS=json.dumps(settings or {}), **variables),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project in an empty folder."""
    return Project(tmp_path)


class Checker:
    """Asks one process of the project for its checks, again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # To a file: a pipe that nobody reads fills up.
        self._errors = (folder / "stderr").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.contrib.checker"],
            cwd=folder,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __call__(
        self,
        storage: Any = None,
        *,
        databases: Sequence[str] = (),
        variables: dict[str, str] | None = None,
        **settings: Any,
    ) -> list[dict[str, Any]]:
        """The messages of ours, with this storage, environment and settings; no thread of ours was begun."""
        if storage is not None:
            settings["PIPELINES_PIPELINES_RESULTS_STORAGE"] = storage
        question = {"settings": settings, "databases": list(databases) or None, "environment": variables or {}}
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{json.dumps(question)}\n")
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            self._errors.seek(0)
            pytest.fail(f"the project's process died: {self._errors.read()}")
        answered = json.loads(answer)
        assert answered["threads"] == []
        messages: list[dict[str, Any]] = answered["messages"]
        return messages

    def close(self) -> None:
        """End the process, which has nothing to complain of."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        code = self._process.wait(20)
        self._errors.seek(0)
        errors = self._errors.read()
        self._errors.close()
        assert (code, errors) == (0, "")


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checker]:
    """One process for all tests, because starting it takes longer than a check."""
    checker = Checker(tmp_path_factory.mktemp("project"))
    yield checker
    checker.close()
