"""gunicorn with --preload: a site's storage is made once, and serves in every worker that is forked afterwards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.receiver import OtlpReceiver
from tests.limits import runs

pytest.importorskip("gunicorn", reason="gunicorn is not installed: pip install '.[test]'")

pytestmark = pytest.mark.slow

WORKERS = 2


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch, clean_environment: None) -> Iterator[OtlpReceiver]:
    """A receiver that the standard variables point to."""
    del clean_environment
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        yield receiver


@pytest.fixture
def server(database_url: str, receiver: OtlpReceiver, tmp_path: Path) -> Iterator[str]:
    """Address of a server that is up; it is stopped, and its exit code must be 0."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    arguments = ["--preload", "--workers", str(WORKERS), "--bind", address]
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", *arguments, "tests.limits.site:application"],
        cwd=Path(__file__).parents[2],
        # gunicorn keeps a socket in HOME.
        env={**os.environ, "TESTS_LIMITS_URL": database_url, "HOME": str(tmp_path)},
    )
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                _get(address)
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.1)
        yield address
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def _get(address: str) -> tuple[int, str]:
    with urllib.request.urlopen(f"http://{address}/", timeout=30) as answer:
        pid, run_id = answer.read().decode().split()
        return int(pid), run_id


def test_every_worker_records_and_sends(server: str, receiver: OtlpReceiver, database_url: str) -> None:
    """Runs of all workers, one of which is killed and replaced, are stored and sent, with the one made before."""
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(_get, [server] * 20))
        os.kill(answers[0][0], signal.SIGKILL)
        time.sleep(2)
        answers += pool.map(_get, [server] * 20)
    assert len({pid for pid, _ in answers}) >= WORKERS
    # The references of the killed worker wait until their lease expires; the other workers send the rest.
    assert receiver.wait_for(len(answers) * runs.SPANS // 2, timeout=30)
    runs.deliver_the_rest(database_url)
    with closing(SqlPipelineStorage(database_url)) as storage:
        stored = {execution.get_run_id() for execution in storage.get_pipeline_executions()}
        assert {run_id for _, run_id in answers} <= stored
        assert runs.received(receiver.spans) == runs.expected(storage)
