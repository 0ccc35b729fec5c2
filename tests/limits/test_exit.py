"""However a process leaves, it does not hang, and what it had not sent is sent by the next one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.receiver import OtlpReceiver, Respond, Slow
from tests.limits import runs
from tests.limits.leaving import WAYS
from tests.limits.sockets import BlackHole, Garbage

pytestmark = pytest.mark.slow

LIMIT = 20.0
"""Seconds in which a process is gone that is said to be in 5: machines are busy."""

RUNS = 30
"""Of 20 task results each: more than fits in one request."""


@pytest.fixture
def leave() -> Iterator[Callable[..., tuple[int, float]]]:
    """Starts a process that leaves; gives its exit code, and the seconds that it took to be gone."""
    started: list[subprocess.Popen[str]] = []

    def start(way: str, url: str, endpoint: str) -> tuple[int, float]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.limits.leaving", way, url, str(RUNS)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        left = float(process.stdout.readline())
        process.communicate(timeout=LIMIT)
        return process.returncode, time.time() - left

    yield start
    for process in started:
        process.kill()
        process.communicate()


CODES = {"exception": 1, "SIGTERM": -15, "SIGKILL": -9}


@pytest.mark.parametrize(
    "database_url",
    ["sqlite", pytest.param("postgresql", marks=pytest.mark.long), pytest.param("mariadb", marks=pytest.mark.long)],
    indirect=True,
)
@pytest.mark.parametrize("way", [pytest.param(way, marks=[pytest.mark.smoke] * (way == "SIGKILL")) for way in WAYS])
def test_what_a_process_leaves_is_sent_by_the_next(
    way: str, database_url: str, leave: Callable[..., tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off in the middle of a backlog or allowed to end: together two processes send every span."""
    with OtlpReceiver() as receiver:
        # So slow that there is something left.
        receiver.misbehave(Slow(0.7))
        code, _ = leave(way, database_url, receiver.endpoint)
        assert code == CODES.get(way, 0)
        receiver.behave()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        runs.deliver_the_rest(database_url)
        spans = receiver.spans
    with closing(SqlPipelineStorage(database_url)) as storage:
        expected = runs.expected(storage)
    assert len(expected) == RUNS * 23 + runs.SPANS * (2 if way == "child" else 1)
    assert runs.received(spans) == expected
    assert {len({span.raw for span in copies}) for copies in receiver.spans_by_id.values()} == {1}


def _unavailable() -> OtlpReceiver:
    receiver = OtlpReceiver()
    receiver.misbehave(Respond(503))
    return receiver


def _slow() -> OtlpReceiver:
    receiver = OtlpReceiver()
    receiver.misbehave(Slow(3))
    return receiver


class _Named:
    """An address where nobody listens, or that is none."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint


COLLECTORS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "dead": lambda: nullcontext(_Named("http://127.0.0.1:9")),
    "unavailable": _unavailable,
    "slow": _slow,
    "black hole": BlackHole,
    "garbage": Garbage,
    "no name": lambda: nullcontext(_Named("http://collector.invalid:4318")),
}


def test_no_exporter_keeps_a_process_from_leaving(
    empty_sqlite_url: str, leave: Callable[..., tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does one that does not come back."""
    monkeypatch.setenv("TESTS_LIMITS_EXPORTER", "tests.limits.test_endpoints.Hanging")
    code, seconds = leave("return", empty_sqlite_url, "http://127.0.0.1:9")
    assert code == 0
    sys.stdout.write(f"with an exporter that hangs: gone after {seconds:.1f} s\n")
    with closing(SqlPipelineStorage(empty_sqlite_url)) as storage:
        assert storage.outbox.status().waiting == RUNS * 21 + 3


@pytest.mark.parametrize("collector", COLLECTORS)
def test_no_collector_keeps_a_process_from_leaving(
    collector: str, empty_sqlite_url: str, leave: Callable[..., tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interpreter with a full backlog exits, whatever the collector does; all is sent later."""
    with COLLECTORS[collector]() as server:
        code, seconds = leave("return", empty_sqlite_url, server.endpoint)
    assert code == 0
    sys.stdout.write(f"with a collector that is {collector}: gone after {seconds:.1f} s\n")
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        runs.deliver_the_rest(empty_sqlite_url)
        with closing(SqlPipelineStorage(empty_sqlite_url)) as storage:
            expected = runs.expected(storage)
        if collector == "slow":
            assert runs.received(receiver.spans) < expected
            assert runs.received([*receiver.spans, *server.spans]) == expected
        else:
            assert runs.received(receiver.spans) == expected
