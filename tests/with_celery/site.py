"""The site of a test: its folder, its place in the broker, its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import redis

from otel_storage.results.status import FINAL
from otel_storage.sql.storage import SqlPipelineStorage
from tests import services
from tests.with_celery.reporting import Reported, read_reports

ROOT = Path(__file__).parents[2]
PATIENCE = 90.0
"""Seconds after which what does not come is given up: longer than the lease of a sender that was killed."""


class Worker:
    """A Celery worker: a main process and the children of its pool."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        """What its processes wrote."""
        return self._log.read_text()

    def stop(self) -> int:
        """Shut it down warmly, and wait; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


class Site:
    """A site whose pipelines run in Celery.

    Args:
        folder: Where its files are.
        storage: The setting that names its storage.
        prefix: What its keys in the broker begin with.
        environment: Variables of all of its processes.
        settings: Django settings of its own.
    """

    def __init__(
        self,
        folder: Path,
        storage: Any,
        prefix: str,
        *,
        environment: dict[str, str] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self._prefix = prefix
        self._settings = {
            "CELERY_BROKER_TRANSPORT_OPTIONS": {"global_keyprefix": prefix},
            "CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS": {"global_keyprefix": prefix},
            "CELERY_TASK_DEFAULT_QUEUE": "pipelines",
            "PIPELINES_PIPELINES_RESULTS_STORAGE": storage,
            **(settings or {}),
        }
        self._environment = environment or {}

    @property
    def reports(self) -> list[Reported]:
        """What the reporter was told, in all processes."""
        return read_reports(self.folder / "reports")

    def client(self, *arguments: str, **environment: str) -> Any:
        """Run a web process, see client.py; what it printed."""
        process = subprocess.run(
            [sys.executable, "-m", "tests.with_celery.client", *arguments],
            cwd=self.folder,
            env={**self.variables(), **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout)

    @contextmanager
    def worker(self, concurrency: int = 2, **environment: str) -> Iterator[Worker]:
        """A prefork worker, started; stopped at the end, if it still runs."""
        log = self.folder / "worker.log"
        command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "--pool", "prefork", "--loglevel", "INFO"]
        command += ["--concurrency", str(concurrency), "--without-gossip", "--without-mingle", "--without-heartbeat"]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**self.variables(), **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        worker = Worker(process, log)
        try:
            begun = len(worker.log)
            wait_until(lambda: " ready." in worker.log[begun:] or process.poll() is not None, "the worker is ready")
            assert process.poll() is None, worker.log
            yield worker
            worker.stop()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(PATIENCE)

    def is_idle(self) -> bool:
        """Whether no message waits in the broker."""
        with closing(redis.Redis.from_url(services.redis_server())) as server:
            return not server.llen(f"{self._prefix}pipelines") and not server.hlen(f"{self._prefix}unacked")

    def variables(self) -> dict[str, str]:
        """The environment of every process of the site."""
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "django_project"), str(ROOT)]),
            "DJANGO_SETTINGS_MODULE": "tests.with_celery.settings",
            "SHOP_DATA_DIR": str(self.folder),
            "SHOP_REDIS_URL": services.redis_server(),
            "SHOP_RUNNER": "celery",
            "TEST_REPORTS": str(self.folder / "reports"),
            "TEST_SETTINGS": json.dumps(self._settings),
            # The spans of the site's own, which a batch processor keeps for 5 seconds otherwise.
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            **self._environment,
        }


def wait_until(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait until the condition holds, so many seconds at most.

    Raises:
        AssertionError: It never did.
    """
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def is_over(storage: SqlPipelineStorage, run_id: str) -> bool:
    """Whether the run is final, and none of its tasks runs any more."""
    execution = storage.get_pipeline_execution(run_id)
    if execution is None or execution.get_status() not in FINAL:
        return False
    return all(result.get_status().value != "RUNNING" for result in storage.get_task_results(run_id))


def is_delivered(storage: SqlPipelineStorage) -> bool:
    """Whether no span waits."""
    status = storage.outbox.status()
    return status.waiting + status.held == 0
