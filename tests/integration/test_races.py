"""Several processes, one database: every record has one winner, one report, one span."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from otel_storage import OtelPipelineStorage, PipelineTaskStatus
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from otel_storage.testing.receiver import OtlpReceiver

TASKS = 1000
FINAL = (PipelineTaskStatus.DONE, PipelineTaskStatus.RUNTIME_ERROR)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch, clean_environment: None) -> Iterator[OtlpReceiver]:
    """A receiver that the standard variables point to, also in child processes."""
    del clean_environment
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        yield receiver


@pytest.fixture
def storage(database_url: str, receiver: OtlpReceiver) -> Iterator[OtelPipelineStorage]:
    """A storage whose spans are sent when a test says so."""
    del receiver
    with closing(OtelPipelineStorage(url=database_url, delivery="external")) as storage:
        storage.storage.upgrade()
        yield storage


def test_two_processes_race_the_same_transitions(
    storage: OtelPipelineStorage, database_url: str, receiver: OtlpReceiver
) -> None:
    """Both report RUNNING and then another final status for each of 1 000 task results.

    One of them wins each change: it alone reports it, its message is the one stored, and the record has one span. The
    parents know of every failure that was stored.
    """
    run_id = _build(storage, Pipeline(Task("race", objects=range(TASKS))))
    reports = _together(database_url, "transitions", *(f"{run_id} {status.value}" for status in FINAL))

    told = Counter((kind, id_, status) for process in reports for kind, id_, status, _ in process)
    assert set(told.values()) == {1}
    stored = {
        (kind, id_): (status, message)
        for process in reports
        for kind, id_, status, message in process
        if status != "RUNNING"
    }
    results = list(storage.get_task_results(run_id))
    assert len(results) == TASKS
    for result in results:
        status, message = stored["TaskResult", result.get_id()]
        assert (result.get_status().value, f"Changed state to {status} - {result.get_status_message()}") == (
            status,
            message,
        )
        assert told["TaskResult", result.get_id(), "RUNNING"] == 1
    assert {result.get_status() for result in results} == set(FINAL), "only one of them ever won"

    execution = storage.get_pipeline_execution(run_id)
    assert execution is not None
    assert execution.get_status() is PipelineTaskStatus.RUNTIME_ERROR
    assert storage.delivery.deliver_due().error == ""
    spans = [spans for spans in receiver.spans_by_id.values() if spans[0].name == "RESULT race"]
    assert len(spans) == TASKS
    assert {len(copies) for copies in spans} == {1}


def test_a_failure_is_never_lost_in_the_parents(storage: OtelPipelineStorage, database_url: str) -> None:
    """Four processes end the results of shared parents, some failed: every parent of a failed one is failed."""
    run_id = _build(storage, Pipeline(Task("work", objects=range(8)), objects=range(25)))
    _together(database_url, "shares", *(f"{run_id} {number}" for number in range(4)))
    for pipeline_result in storage.get_pipeline_results(run_id):
        for task_execution in pipeline_result.get_task_executions():
            statuses = {result.get_status() for result in task_execution.get_task_results()}
            assert statuses == set(FINAL)
            assert task_execution.get_status() is PipelineTaskStatus.RUNTIME_ERROR
        assert pipeline_result.get_status() is PipelineTaskStatus.RUNTIME_ERROR


def test_one_run_id_is_built_once(storage: OtelPipelineStorage, database_url: str) -> None:
    """Two processes build the same 50 runs: each run is there once, and the slower process is told so."""
    run_ids = [str(uuid.uuid4()) for _ in range(50)]
    outcomes = _together(database_url, "builds", " ".join(run_ids), " ".join(run_ids))
    for one, other in zip(*outcomes, strict=True):
        assert sorted([one, other]) == ["RunExists", "built"]
    assert len(storage.get_pipeline_executions()) == 50
    assert len(storage.get_task_results()) == 50 * 3


def test_two_senders_share_an_outbox(storage: OtelPipelineStorage, database_url: str, receiver: OtlpReceiver) -> None:
    """What two processes send side by side arrives once each, and nothing is left."""
    for _ in range(40):
        run_id = _build(storage, Pipeline(Task("work", objects=range(20))))
        for result in storage.get_task_results(run_id):
            result.report_status_change(RecordingReporter(), PipelineTaskStatus.CANCELLED)
    sent = _together(database_url, "deliveries", "", "")
    status = storage.storage.outbox.status()
    if status.held:
        # A run whose last child was in the other sender's hands.
        sent.append([storage.delivery.deliver_due().sent])
        status = storage.storage.outbox.status()
    assert (status.waiting, status.held, status.refused) == (0, 0, 0)
    assert sum(count for [count] in sent) == 40 * 23
    assert {len(copies) for copies in receiver.spans_by_id.values()} == {1}
    assert len(receiver.spans_by_id) == 40 * 23


def test_cleanup_beside_a_writer(storage: OtelPipelineStorage, database_url: str) -> None:
    """Runs are built and ended while another process removes all there are: nobody fails, and no half of one stays."""
    _together(database_url, "writes", "60", "cleanup")
    storage.cleanup()
    for records in (
        storage.get_pipeline_executions(),
        storage.get_pipeline_results(),
        storage.get_task_executions(),
        storage.get_task_results(),
    ):
        assert len(records) == 0


def _build(storage: OtelPipelineStorage, pipeline: Pipeline) -> str:
    run_id = str(uuid.uuid4())
    storage.build_pipeline_execution(pipeline, run_id, Runner(), RecordingReporter(), {})
    return run_id


def _together(url: str, what: str, *arguments: str) -> list[list[Any]]:
    """Start a process for each argument, let them begin together, and read what they print."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.integration.racing", url, what, argument],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for argument in arguments
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=100) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(output) for output, _ in outputs]
