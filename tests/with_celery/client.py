"""A web process of the site: starts runs, each in the way that is named, and prints their ids as JSON, in that order.

``python -m tests.with_celery.client [WAY:]NAME...`` where NAME is that of a pipeline of this app or, with its app, of
another, and WAY is

- ``direct``, if none is given: by the host's runner, in this process
- ``delay``: by the host's Celery task ``run_pipeline``
- ``page``: by a request to the host's start page
- ``again``: NAME is a task result's id, whose Celery task is published once more

``--prepare`` makes the tables first; ``--trees`` prints the states of all runs instead; ``TEST_INPUT`` is the input of
runs, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from typing import Any

import django

# The example project's folder is on the path of this process.
from shop import tracing  # type: ignore[import-not-found]  # on the path of manage.py alone


def main(arguments: list[str]) -> None:
    """Do as the arguments say."""
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        tracing.trace_process()
    django.setup()
    if "--prepare" in arguments:
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
    if "--trees" in arguments:
        json.dump(_trees(), sys.stdout)
        return
    ways = {"direct": _direct, "delay": _delay, "page": _page, "again": _again}
    run_ids = []
    for argument in arguments:
        if not argument.startswith("--"):
            way, _, name = argument.rpartition(":")
            run_ids.append(ways[way or "direct"](name))
    json.dump(run_ids, sys.stdout)
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        tracing.stop_tracing()


def _direct(name: str) -> str:
    from pipelines.config import Config
    from pipelines.registry import pipeline_registry

    run_id = str(uuid.uuid4())
    config = Config()
    pipeline_registry.get_by_id(_pipeline_id(name))().start(
        run_id=run_id,
        input_data=_input(),
        runner=config.PIPELINES_DEFAULT_PIPELINE_RUNNER,
        reporter=config.PIPELINES_DEFAULT_PIPELINE_REPORTER,
    )
    return run_id


def _delay(name: str) -> str:
    from pipelines.runners.celery.tasks import run_pipeline

    run_id = str(uuid.uuid4())
    run_pipeline.delay(pipeline_id=_pipeline_id(name), input_data=_input(), run_id=run_id)
    return run_id


def _page(name: str) -> str:
    from django.contrib.auth import get_user_model
    from django.test import Client

    browser = Client()
    user, _ = get_user_model().objects.get_or_create(username="staff", is_staff=True)
    browser.force_login(user)
    response = browser.post(f"/pipelines/{_pipeline_id(name)}/start/")
    assert response.status_code == 302, response.content
    run_id: str = response.url.split("/")[-3]
    return run_id


def _again(task_result_id: str) -> str:
    from pipelines.runners.celery.tasks import run_task

    run_task.delay(int(task_result_id))
    return task_result_id


def _pipeline_id(name: str) -> str:
    return name if "." in name else f"with_celery.{name}"


def _input() -> Any:
    return json.loads(os.environ.get("TEST_INPUT", "{}"))


def _trees() -> dict[str, Any]:
    """The states of all runs, by the host's helpers: whatever the storage is."""
    from pipelines.registry import pipeline_registry
    from pipelines.results import helpers

    trees: dict[str, Any] = {}
    for pipeline in pipeline_registry.items:
        for execution in helpers.get_pipeline_executions(pipeline.get_id()):
            trees[execution.get_run_id()] = {
                "status": execution.get_status().value,
                "results": [
                    {
                        "status": result.get_status().value,
                        "tasks": [
                            {
                                "status": task.get_status().value,
                                "results": [each.get_status().value for each in task.get_task_results()],
                            }
                            for task in result.get_task_executions()
                        ],
                    }
                    for result in execution.get_pipeline_results()
                ],
            }
    return trees


if __name__ == "__main__":
    main(sys.argv[1:])
