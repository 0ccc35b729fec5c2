"""No collector anywhere: the run does not notice, and a later delivery sends what an earlier one would have sent."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from otel_storage.testing.receiver import DropAcknowledgement, OtlpReceiver, ReceivedSpan, Respond
from tests.integration.conftest import RunSite


@pytest.mark.slow
@pytest.mark.smoke
def test_what_waits_is_sent_later_byte_for_byte(sqlite_url: str, run_site: RunSite, tmp_path: Path) -> None:
    """A run without a collector exits clean; later deliveries, by other processes, send the same bytes each.

    The endpoint first takes the spans without saying so, as one that dies does; a copy of the database, delivered from
    a process with another environment, gives the very bytes that it took.
    """
    with OtlpReceiver() as deaf:
        deaf.misbehave(DropAcknowledgement())
        site = run_site(sqlite_url, deaf.endpoint, "Succeeds", "Fails", "BadConfig")
        taken = _ours(deaf)
    assert taken
    assert site.stderr.count("spans wait in the outbox") == 1
    copy = tmp_path / "copy.db"
    with (
        closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)

    first = _deliver(sqlite_url, {})
    second = _deliver(f"sqlite:///{copy}", {"OTEL_SERVICE_NAME": "another", "OTEL_RESOURCE_ATTRIBUTES": "a=b"})

    assert first == second
    assert taken.items() <= first.items()
    status = site.storage.outbox.status()
    assert (status.waiting, status.held, status.refused) == (0, 0, 0)
    assert len(first) == 1 + 2 + 4 + 8 + 1 + 1 + 3 + 7 + 1


@pytest.mark.slow
def test_a_closed_port_costs_a_run_nothing_but_a_warning(database_url: str, run_site: RunSite) -> None:
    """With nothing at the endpoint every run is stored whole, every span waits, and the process exits clean."""
    site = run_site(database_url, f"http://127.0.0.1:{_closed_port()}", "Succeeds", "Fails")
    storage = site.storage
    for run_id in site.runs.values():
        execution = storage.get_pipeline_execution(run_id)
        assert execution is not None
        assert execution.get_completed() is not None
    status = storage.outbox.status()
    assert status.waiting + status.held == 8 + 7 + 2
    assert "refused" in status.error
    assert site.stderr.count("spans wait in the outbox") == 1
    assert "Traceback" not in site.stderr


@pytest.mark.slow
def test_an_endpoint_that_recovers_gets_everything(database_url: str, run_site: RunSite) -> None:
    """Spans that were refused for now arrive once the endpoint works, in the same process."""
    with OtlpReceiver() as receiver:
        receiver.misbehave(Respond(503), times=2)
        site = run_site(database_url, receiver.endpoint, "Succeeds", "--flush")
        assert site.flushed is True
        assert len(_ours(receiver)) == 1 + 2 + 4 + 8


def _deliver(url: str, environment: dict[str, str]) -> dict[tuple[str, str], bytes]:
    """Deliver from a process of its own; the bytes of each span that arrives."""
    with OtlpReceiver() as receiver:
        process = subprocess.run(
            [sys.executable, "-m", "otel_storage.cli", "deliver", "--url", url, "--json"],
            env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        assert json.loads(process.stdout)
        return _ours(receiver)


def _ours(receiver: OtlpReceiver) -> dict[tuple[str, str], bytes]:
    """The bytes of each of our spans with those of its resource and scope, which are the same on every send."""
    spans: dict[tuple[str, str], bytes] = {}
    for span in receiver.spans:
        key = (span.trace_id, span.span_id)
        assert spans.setdefault(key, _bytes(span)) == _bytes(span)
    return spans


def _bytes(span: ReceivedSpan) -> bytes:
    around = json.dumps([span.resource, span.scope_name, span.scope_version], sort_keys=True)
    return span.raw + around.encode()


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
