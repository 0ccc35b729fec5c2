"""Settling a run while others do: what is stored first stands."""

from __future__ import annotations

import uuid
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest

from otel_storage.composite import OtelPipelineStorage
from otel_storage.ports.outbox import Settling
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.sql.outbox import settling, snapshots
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task

DONE, CANCELLED = PipelineTaskStatus.DONE, PipelineTaskStatus.CANCELLED
NOW = Settling(quiet=timedelta(0))


def test_a_sender_that_was_slow_leaves_a_settled_run_alone(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that paused for longer than its lease while settling does not undo another sender's work.

    The other sender made its spans from the data that it stored: a resend must find the same data.
    """
    reporter = RecordingReporter()
    with closing(OtelPipelineStorage(url=server_url, delivery="external")) as storage:
        run_id = str(uuid.uuid4())
        execution = storage.build_pipeline_execution(Pipeline(Task("load")), run_id, Runner(), reporter, None)
        execution.report_status_change(reporter, CANCELLED)
        records, ids = storage.records, [execution.get_id()]
        sent: list[Any] = []
        unsent = settling._unsent

        def stand_still(*args: Any) -> Any:
            if not sent:
                sent.append(None)
                # Meanwhile the task ran after all, its span was sent, and another settled the run.
                [task_result] = storage.get_task_results(run_id)
                task_result.report_status_change(reporter, DONE)
                with records.database.read() as connection:
                    references = records.outbox.claim_task_results(1, timedelta(minutes=1))
                    records.outbox.settle(references.token, [claim.reference_id for claim in references.claims])
                assert records.database.write(lambda c: settling.settle(c, ids, NOW, records.clock())) == {}
                with records.database.read() as connection:
                    sent[0] = snapshots.runs(connection, ids)
            return unsent(*args)

        monkeypatch.setattr(settling, "_unsent", stand_still)
        assert records.database.write(lambda c: settling.settle(c, ids, NOW, records.clock())) == {}
        with records.database.read() as connection:
            assert snapshots.runs(connection, ids) == sent[0]
        [run] = sent[0].values()
        assert [len(run.pipeline_results), len(run.task_executions)] == [1, 1]
