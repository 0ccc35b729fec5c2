"""Python processes of a test's own: for what can be seen once a process, such as what an import loads."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

HIDE_HOST = '''
import importlib.metadata, sys

class _NoHost:
    """Nothing of the host's can be imported; a module `pipelines` of the user's own can, where there is one."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"celery", "django", "kombu"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

def _distribution(name, _real=importlib.metadata.distribution):
    if name.lower().replace("_", "-") == "django-pipelines":
        raise importlib.metadata.PackageNotFoundError(name)
    return _real(name)

sys.meta_path.insert(0, _NoHost())
importlib.metadata.distribution = _distribution
'''
"""Put before a script: an environment without django-pipelines and Django."""


def run_python(script: str, *, cwd: Path, **environment: str) -> Any:
    """Run the script in a fresh process, which must exit clean; returns what it printed, read as JSON."""
    process = start_python(script, cwd=cwd, **environment)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def start_python(script: str, *, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script in a fresh process, with ``cwd`` first on its path, and wait for it."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def run_pytest(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a process of its own, at the root of the tree, without the plug-ins that happen to be installed.

    pytest-django, say, would keep a test from the database. ``pyproject.toml`` needs the one that is named.
    """
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "pytest_timeout", "-p", "no:cacheprovider", "--color=no", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def die_after(work: Callable[[], object]) -> int:
    """Do the work in a forked process, which is killed after it; returns the id that it had."""
    process = multiprocessing.get_context("fork").Process(target=_work_and_die, args=(work,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert process.pid is not None
    return process.pid


def _work_and_die(work: Callable[[], object]) -> None:
    work()
    os.kill(os.getpid(), signal.SIGKILL)
