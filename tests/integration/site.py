"""A site of its own process: runs real pipelines of the host with the eager runner.

``python -m tests.integration.site STORAGE_JSON PIPELINE...`` runs each pipeline and prints, as JSON, the run id of each
by its name, and the states that the storage then tells of. A user's tracing is set up as a user would. The variable
``TESTS_SITE_DATABASE`` holds Django's own database as JSON, which is migrated; else it is in memory.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command

SECRETS = {
    "password": "hunter2-dsn-password",
    "card": "4111111111111111",
    "token": "tok-5f4dcc3b5aa765d61d8327deb882cf99",
    "plain": "plain-input-value-77",
}


def main(storage: Any, names: list[str]) -> None:
    """Run the pipelines of those names through the storage."""
    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "pipelines"],
        DATABASES={"default": json.loads(os.environ.get("TESTS_SITE_DATABASE", "null")) or _IN_MEMORY},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ="--naive" not in sys.argv,
        PIPELINES_PIPELINES_RESULTS_STORAGE=storage,
        PIPELINES_PIPELINE_REPORTER="pipelines.reporters.logging.LoggingReporter",
    )
    django.setup()
    if "TESTS_SITE_DATABASE" in os.environ:
        call_command("migrate", verbosity=0)
    _trace_as_a_user_does()

    from pipelines.config import Config
    from pipelines.results.helpers import get_pipeline_execution, get_pipeline_results_storage
    from pipelines.runners.eager import Runner

    pipelines = _pipelines()
    runs = {}
    for name in names:
        run_id = runs[name] = str(uuid.uuid4())
        try:
            pipelines[name]().start(
                run_id=run_id,
                input_data=_INPUT.get(name, {}),
                runner=Runner(),
                reporter=Config().PIPELINES_DEFAULT_PIPELINE_REPORTER,
            )
        except Exception as error:  # noqa: BLE001 - the host raises a bare Exception for a bad pipeline
            sys.stderr.write(f"{name}: {error}\n")
    flushed = get_pipeline_results_storage().flush(10) if "--flush" in sys.argv else None
    states = {name: _states(get_pipeline_execution(run_id)) for name, run_id in runs.items()}
    json.dump({"runs": runs, "flushed": flushed, "states": states}, sys.stdout)


_IN_MEMORY = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}


def _states(execution: Any) -> Any:
    """The statuses of the run's records, as a tree."""
    return [
        execution.get_status().value,
        [
            [
                result.get_status().value,
                [
                    [task.get_status().value, [each.get_status().value for each in task.get_task_results()]]
                    for task in result.get_task_executions()
                ],
            ]
            for result in execution.get_pipeline_results()
        ],
    ]


_NO_CARD: dict[str, Any] = {"card": SECRETS["card"] + "x", "note": SECRETS["plain"], "token": SECRETS["token"]}
_INPUT = {
    "Validated": {"card": SECRETS["card"], "note": SECRETS["plain"], "token": SECRETS["token"]},
    "Leaky": {"token": SECRETS["token"], "note": SECRETS["plain"]},
}


def _trace_as_a_user_does() -> None:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider(resource=Resource({"service.name": "user"}))
    if "--user-spans" in sys.argv:
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def _pipelines() -> dict[str, Any]:
    """The pipelines, by name: the host's classes can be imported only once Django is set up."""
    from opentelemetry import trace
    from pipelines.base import Pipeline
    from pipelines.tasks.base import Task
    from pydantic import BaseModel

    tracer = trace.get_tracer("user")

    class Work(Task):
        class Meta:
            app_label = "site"

        def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
            with tracer.start_as_current_span("user work"):
                time.sleep(0.002)

    class Each(Work):
        class Meta:
            app_label = "site"

        @classmethod
        def get_iterator(cls) -> list[int]:
            return [1, 2, 3]

    class FailsForTwo(Each):
        class Meta:
            app_label = "site"

        def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
            if self.task_object["obj"] == 2:
                raise ValueError("object 2 is broken")

    class FailsInSecond(Work):
        class Meta:
            app_label = "site"

        def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
            region = self.pipeline_object["obj"]
            if region == "second":
                raise LookupError("the second region is gone")
            if region == "third":
                # Longer than the sender waits between two looks, so that it looks while this runs.
                time.sleep(1.2)

    class Card(BaseModel):
        card: int
        note: int
        token: int

    class Checked(Work):
        InputType = Card

        class Meta:
            app_label = "site"

    class LeakyInput(BaseModel):
        token: str
        note: str

    class Leaks(Work):
        InputType = LeakyInput

        class Meta:
            app_label = "site"

        def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
            dsn = f"postgresql://app:{SECRETS['password']}@db.internal/orders"
            try:
                Card(**_NO_CARD)
            except ValueError as error:
                raise RuntimeError(f"cannot connect to {dsn}: password={SECRETS['password']}") from error

    class LeaksInvalid(Work):
        class Meta:
            app_label = "site"

        def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
            Card(**_NO_CARD)

    def pipeline(name: str, iterator: list[Any] | None = None, **body: Any) -> Any:
        meta = type("Meta", (), {"app_label": "site"})
        return type(name, (Pipeline,), {"Meta": meta, "get_iterator": classmethod(lambda cls: iterator), **body})

    return {
        "Succeeds": pipeline("Succeeds", ["north", "south"], extract=Work(), load=Each()),
        "Fails": pipeline("Fails", extract=Work(), load=FailsForTwo(), publish=Each()),
        "SecondFails": pipeline("SecondFails", ["first", "second", "third"], work=FailsInSecond()),
        "BadConfig": pipeline("BadConfig", extract=Work(), ordering={"extract": ["nothing"]}),
        "Validated": pipeline("Validated", check=Checked()),
        "Leaky": pipeline("Leaky", leak=Leaks(config={"api_key": SECRETS["token"]})),
        "LeakyInvalid": pipeline("LeakyInvalid", leak=LeaksInvalid()),
    }


if __name__ == "__main__":
    storage_setting = json.loads(sys.argv[1])
    arguments = [argument for argument in sys.argv[2:] if not argument.startswith("--")]
    main(tuple(storage_setting) if isinstance(storage_setting, list) else storage_setting, arguments)
