"""Sends a backlog of any size and prints what it takes: ``python -m tests.limits.backlog --references 1000000``.

The sender is a process of its own, so is the receiver. The memory is that of the sender.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_storage.composite import OtelPipelineStorage
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.telemetry.delivery.sending import DeliveryReport
from tests import services
from tests.limits.filling import fill


@click.command()
@click.option("--references", default=1_000_000, show_default=True, help="How many wait.")
@click.option("--every", default=100_000, show_default=True, help="Spans from one line to the next.")
@click.option("--postgresql", is_flag=True, help="On the server that OTEL_STORAGE_TEST_POSTGRESQL_URL names.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(references: int, every: int, postgresql: bool, as_json: bool) -> None:
    """Fill an outbox, and send it."""
    with _database(postgresql) as url, closing(SqlPipelineStorage(url)) as storage:
        storage.upgrade()
        began = time.monotonic()
        spans = fill(storage, references)
        if not as_json:
            click.echo(f"{references:,} references, {spans:,} spans, made in {time.monotonic() - began:.0f} s")
            click.echo(f"{'sent':>12}  {'seconds':>8}  {'a second':>8}  {'RSS':>8}")
        lines, received = _send(url, every, as_json)
        status = storage.outbox.status()
    if as_json:
        click.echo(json.dumps({"spans": spans, "lines": lines, "received": received, "waiting": status.waiting}))
    else:
        click.echo(f"{received:,} different spans received; {status.waiting + status.held:,} references left")


@contextmanager
def _database(postgresql: bool) -> Iterator[str]:
    if postgresql:
        with services.postgresql_database() as server:
            yield server.render_as_string(hide_password=False)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{folder}/backlog.db"


def _send(url: str, every: int, as_json: bool) -> tuple[list[dict[str, Any]], int]:
    """Send all in a process of its own; what it said, and how many spans arrived."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    receiver = context.Process(target=receive, args=(there,), daemon=True)
    receiver.start()
    lines = []
    with subprocess.Popen(
        [sys.executable, "-m", __spec__.name, "send", url, str(every)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{here.recv()}"},
        stdout=subprocess.PIPE,
        text=True,
    ) as sender:
        assert sender.stdout is not None
        for line in sender.stdout:
            figures = json.loads(line)
            lines.append(figures)
            if not as_json:
                click.echo("{sent:>12,}  {seconds:>8.1f}  {rate:>8,.0f}  {rss:>5.1f} MB".format(**figures))
    if sender.returncode:
        raise click.ClickException("the sender failed")
    here.send("how many")
    received = here.recv()
    receiver.terminate()
    return lines, int(received)


def send(url: str, every: int) -> None:
    """Send all that is due; a line of JSON for every so many spans."""
    began = time.monotonic()
    told = [0, began]

    def on_progress(report: DeliveryReport) -> None:
        if report.sent >= told[0] + every:
            tell(report)

    def tell(report: DeliveryReport) -> None:
        now = time.monotonic()
        rate = (report.sent - told[0]) / (now - told[1])
        figures = {"sent": report.sent, "seconds": now - began, "rate": rate, "rss": _resident() / 1e6}
        sys.stdout.write(json.dumps(figures) + "\n")
        sys.stdout.flush()
        told[:] = [report.sent, now]

    with closing(OtelPipelineStorage(url=url, delivery="external")) as storage:
        report = storage.delivery.deliver_due(on_progress)
        tell(report)
    if report.error:
        sys.exit(report.error)


def _resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def receive(connection: Connection) -> None:
    """Take spans, and know how many different ones."""
    known: set[bytes] = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    known.update(span.trace_id + span.span_id for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    connection.send(server.server_address[1])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connection.recv()
    connection.send(len(known))


if __name__ == "__main__":
    if sys.argv[1:2] == ["send"]:
        send(sys.argv[2], int(sys.argv[3]))
    else:
        main()
