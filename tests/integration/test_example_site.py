"""The example project, as a newcomer starts it: its command, its pages in a browser's terms, its traces."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pydantic
import pytest
import requests

from otel_storage import PipelineTaskStatus, SqlPipelineStorage
from otel_storage.testing.receiver import OtlpReceiver, ReceivedSpan

pytest.importorskip("django_htmx", reason="django-htmx is not installed: pip install '.[test]'")

PROJECT = Path(__file__).parents[1] / "django_project"
RUN = re.compile(r"^(orders\.\w+): (\w+)\n +run +(\S+)\n +trace +(\S+)\n +page +(\S+)$", re.MULTILINE)


@pytest.mark.slow
def test_the_command_makes_runs_and_their_traces(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """From nothing: both pipelines run, one fails for one shop, and each run is a trace that holds the code's spans."""
    process = subprocess.run(
        [sys.executable, "manage.py", "demo", "--no-serve"],
        cwd=PROJECT,
        env=_environment(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    printed = {name: (status, run, trace) for name, status, run, trace, _ in RUN.findall(process.stdout)}
    assert {name: status for name, (status, *_) in printed.items()} == {
        "orders.ImportOrders": "RUNTIME_ERROR",
        "orders.ShopTurnover": "DONE",
    }
    _, run_id, trace_id = printed["orders.ImportOrders"]
    with closing(SqlPipelineStorage(f"sqlite:///{tmp_path / 'otel_storage.db'}")) as storage:
        statuses = [(r.get_pipeline_task(), r.get_status()) for r in storage.get_task_results(run_id)]
    status = PipelineTaskStatus
    assert statuses == [
        ("extract", status.DONE),
        ("validate", status.DONE),
        *[("load", status.DONE)] * 3,
        ("load", status.RUNTIME_ERROR),
        ("tidy", status.CANCELLED),
    ]
    spans = {span.span_id: span for span in receiver.traces()[trace_id]}
    [root] = [span for span in spans.values() if not span.parent_span_id]
    assert root.name == "RUN orders.ImportOrders"
    assert root.status_message == "no exchange rate for XAU: orders of mint cannot be loaded"
    user = [(span.name, _task(spans[span.parent_span_id])) for span in spans.values() if span.scope_name == _CODE]
    assert sorted(user) == [*[("convert", "load")] * 4, ("read file", "extract")]


@pytest.mark.slow
@pytest.mark.smoke
def test_the_pages_show_the_runs(tmp_path: Path) -> None:
    """Staff logs in and sees rows and statuses; the scripts that a browser needs for them are served."""
    with _site(tmp_path) as (address, output), requests.Session() as browser:
        runs = {name: page for name, _, _, _, page in RUN.findall(output)}
        listed = _log_in(browser, f"{address}/pipelines/")
        assert "Import orders" in listed
        page = _get(browser, runs["orders.ImportOrders"])
        files = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
        assert [Path(name).suffix for name in files] == [".js", ".js", ".css"]
        assert "htmx" in _get(browser, address + files[0])
        assert all(_get(browser, address + name) for name in files)
        [rows_url, logs_url] = re.findall(r'hx-get="([^"]+)"', page)
        rows = re.findall(
            r"<strong>(\w+) \(.*?</strong>\s*(?:<em>for (\w+)</em>)?\s*<span>: ([\w ]+) ",
            _get(browser, address + rows_url),
        )
        assert rows == [
            ("extract", "", "Done"),
            ("validate", "", "Done"),
            ("load", "", "Runtime Error"),
            ("load", "harbour", "Done"),
            ("load", "station", "Done"),
            ("load", "market", "Done"),
            ("load", "mint", "Runtime Error"),
            ("tidy", "", "Cancelled"),
        ]
        assert "no exchange rate for XAU" in _get(browser, address + logs_url)
        assert _get(browser, f"{address}/pipelines/orders.ShopTurnover/start/").count("<li>") == 2
        # The host cannot show an InputType of pydantic 2, and the project's README says so.
        start = browser.get(f"{address}/pipelines/orders.ImportOrders/start/", timeout=10)
        assert start.status_code == (500 if pydantic.VERSION >= "2" else 200)


_CODE = "orders.pipelines"


def _task(span: ReceivedSpan) -> str:
    assert span.attributes["otel_storage.record.kind"] == "TaskResult"
    task: str = span.attributes["cicd.pipeline.task.name"]
    return task


@contextmanager
def _site(folder: Path) -> Iterator[tuple[str, str]]:
    """The site, served; its address and what its command printed."""
    port = _free_port()
    log = folder / "demo.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", "manage.py", "demo", "--port", str(port)],
            cwd=PROJECT,
            env=_environment(folder),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 60
        while not _answers(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", log.read_text()
    finally:
        process.terminate()
        process.wait(30)


def _environment(folder: Path, **variables: str) -> dict[str, str]:
    return {**os.environ, "SHOP_DATA_DIR": str(folder), **variables}


def _log_in(browser: requests.Session, url: str) -> str:
    login = browser.get(url, timeout=10)
    token = re.findall(r'name="csrfmiddlewaretoken" value="(.*?)"', login.text)[0]
    form = {"username": "demo", "password": "demo", "csrfmiddlewaretoken": token, "next": "/pipelines/"}
    page = browser.post(login.url, data=form, timeout=10)
    assert page.url == url, page.text
    return page.text


def _get(browser: requests.Session, url: str) -> str:
    response = browser.get(url, timeout=10)
    # The host says 286 of a run that is over: htmx stops asking then.
    assert response.status_code in (200, 286), response.text
    return response.text


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
