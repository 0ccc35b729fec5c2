"""A site of its own process: does what it is told on standard input, a line of JSON each, and answers in kind.

``python -m tests.host_pages.site SETTINGS_JSON``; what can be done are the methods of :class:`Commands`.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import django
from django.conf import settings


def configure(given: dict[str, Any]) -> None:
    """Configure Django as a site would, with the settings given on top; the database is made too."""
    defaults: dict[str, Any] = {
        "ALLOWED_HOSTS": ["testserver"],
        "DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
        "INSTALLED_APPS": [
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.humanize",
            "django.contrib.messages",
            "django.contrib.sessions",
            "pipelines",
            "tests.host_pages.shop",
        ],
        "MIDDLEWARE": [
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        "ROOT_URLCONF": "tests.host_pages.shop.urls",
        "SECRET_KEY": "of no use",
        "STATIC_URL": "/static/",
        "TEMPLATES": [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    }
    settings.configure(**{**defaults, **given})
    # As Django does where it reads a settings module.
    os.environ["TZ"] = settings.TIME_ZONE
    time.tzset()
    django.setup()
    from django.core.management import call_command

    call_command("migrate", run_syncdb=True, verbosity=0)


class Commands:
    """What the process can be told to do."""

    def __init__(self) -> None:
        from django.contrib.auth import get_user_model
        from django.test import Client

        self._staff = Client()
        self._staff.force_login(get_user_model().objects.create_superuser("staff"))
        self._stranger = Client()

    def get(self, path: str, *, staff: bool = True, **query: Any) -> dict[str, Any]:
        """Ask for a page."""
        with _counted() as counts:
            response = (self._staff if staff else self._stranger).get(f"/pipelines/{path}", query)
        return {**_page(response), **counts}

    def post(self, path: str, **data: Any) -> dict[str, Any]:
        """Send a form."""
        return _page(self._staff.post(f"/pipelines/{path}", data))

    def run(self, name: str) -> str:
        """Run a pipeline with the eager runner; returns the run's id."""
        return self._start(_registered(name)(), str(uuid.uuid4()))

    def run_with_curious_reporter(self, name: str) -> dict[str, Any]:
        """Run a pipeline with a reporter that asks every record for its objects, and keeps the records."""
        from pipelines.reporters import PipelineReporter

        asked: list[Any] = []

        class Curious(PipelineReporter):
            def report(self, context_object: Any, status: Any, message: str) -> None:
                names = ("get_pipeline_object", "get_task_object")
                objects = [getattr(context_object, name)() for name in names if hasattr(context_object, name)]
                asked.append((context_object, status.value, objects))

        run_id = self._start(_registered(name)(), str(uuid.uuid4()), Curious())
        return {"run_id": run_id, "asked": [status for _record, status, objects in asked if any(objects)]}

    def run_badly_configured(self) -> str:
        """Start a pipeline whose order of tasks names one that it has not; returns the run's id."""
        from tests.host_pages.shop.pipelines import Quick, pipeline

        run_id = str(uuid.uuid4())
        bad = pipeline("Bad", {"extract": Quick(), "ordering": {"extract": ["nothing"]}})
        try:
            self._start(bad(), run_id)
        except Exception as error:
            # The host raises no more than an Exception.
            if "not in the pipeline" not in str(error):
                raise
        return run_id

    def shape(self, results: int, tasks: int, per_task: int, *, final: bool = True) -> str:
        """Build a run of a pipeline of that shape, and perhaps make its execution final; returns the run's id."""
        from pipelines.config import Config
        from pipelines.runners.eager import Runner
        from pipelines.status import PipelineTaskStatus

        from tests.host_pages.shop.pipelines import shape

        run_id = str(uuid.uuid4())
        reporter = _quiet_reporter()
        execution = Config().PIPELINES_DEFAULT_PIPELINE_STORAGE.build_pipeline_execution(
            shape(results, tasks, per_task)(), run_id, Runner(), reporter, {}
        )
        if final:
            execution.report_status_change(reporter, PipelineTaskStatus.DONE)
        return run_id

    def expand(self, run_id: str) -> dict[str, Any]:
        """Have the host's Celery runner make its canvas of the run; returns the task results in it, and the cost."""
        from pipelines.results.helpers import get_pipeline_execution
        from pipelines.runners.celery.runner import Runner

        with _counted() as counts:
            canvas = Runner().expand_pipeline_execution(get_pipeline_execution(run_id))
        text = json.dumps(canvas)
        ids = re.findall(r'"pipelines.runners.celery.tasks.run_task", "args": \[(\d+)\]', text)
        return {"task results": sorted({int(id_) for id_ in ids}), **counts}

    def check_model_objects(self, run_id: str) -> dict[str, Any]:
        """What the records of a run of Totals give for objects, and what that costs."""
        return check_model_objects(run_id, self.shape(1, 1, 2, final=False))

    def seen(self) -> list[dict[str, Any]]:
        """What tasks saw of their objects since the last call."""
        from tests.host_pages.shop import pipelines

        noted, pipelines.seen[:] = list(pipelines.seen), []
        return noted

    def create(self, model: str, names: list[str]) -> list[str]:
        """Create model objects; returns their keys."""
        from django.apps import apps

        made = apps.get_model("shop", model)
        made.objects.bulk_create([made(name=name) for name in names])
        return [str(key) for key in made.objects.order_by("pk").values_list("pk", flat=True)]

    def delete(self, model: str, name: str) -> None:
        """Delete a model object."""
        from django.apps import apps

        apps.get_model("shop", model).objects.get(name=name).delete()

    def totals(self, model: str) -> list[int]:
        """The totals that are in the database."""
        from django.apps import apps

        return list(apps.get_model("shop", model).objects.order_by("pk").values_list("total", flat=True))

    def clear(self) -> None:
        """Remove all runs, logs and model objects."""
        from django.apps import apps
        from pipelines.models import PipelineLog
        from pipelines.results.helpers import cleanup_task_results

        cleanup_task_results()
        PipelineLog.objects.all().delete()
        for model in apps.get_app_config("shop").get_models():
            model.objects.all().delete()

    def records(self, run_id: str) -> dict[str, list[dict[str, Any]]]:
        """The run's records as the storage lists them, by kind."""
        from pipelines.results import helpers

        levels = {
            "PipelineResult": helpers.get_pipeline_results(run_id),
            "TaskExecution": helpers.get_task_executions(run_id),
            "TaskResult": helpers.get_task_results(run_id),
        }
        return {kind: [_facts(record) for record in records] for kind, records in levels.items()}

    def execution(self, run_id: str) -> dict[str, Any] | None:
        """The run's execution; None if there is none."""
        from pipelines.results.helpers import get_pipeline_execution

        execution = get_pipeline_execution(run_id)
        return None if execution is None else _facts(execution)

    def set_times(self, run_id: str, ago: float, lasted: float | None) -> str:
        """Have the run built and started so many seconds ago, and completed after ``lasted``, or RUNNING without it.

        Returns when it has started, as a page prints it.
        """
        from django.utils import formats, timezone

        started = datetime.now(UTC) - timedelta(seconds=ago)
        completed = None if lasted is None else started + timedelta(seconds=lasted)
        values: dict[str, Any] = {"created": started, "started": started, "completed": completed}
        if completed is None:
            from otel_storage.results.status import PipelineTaskStatus

            values["status"] = PipelineTaskStatus.RUNNING
        self._update(run_id, **values)
        return str(formats.localize(timezone.localtime(started), use_l10n=True))

    def set_built(self, run_id: str, ago: float) -> None:
        """Have the run built so many seconds ago."""
        self._update(run_id, created=datetime.now(UTC) - timedelta(seconds=ago))

    def manage(self, *arguments: str, stdin: str = "") -> dict[str, Any]:
        """Run a management command; returns what it printed, and the error it ended with."""
        from django.core.management import call_command

        out, before = io.StringIO(), sys.stdin
        sys.stdin = io.StringIO(stdin)
        error = None
        try:
            call_command(*arguments, stdout=out)
        except (Exception, SystemExit) as raised:  # noqa: BLE001 - the test says what it must be
            error = _told(raised)
        finally:
            sys.stdin = before
        return {"printed": out.getvalue(), "error": error}

    def logged_runs(self) -> list[str]:
        """The runs that there are logs of."""
        from pipelines.models import PipelineLog

        return sorted(set(PipelineLog.objects.values_list("run_id", flat=True)))

    def _update(self, run_id: str, **values: Any) -> None:
        from sqlalchemy import update

        from otel_storage.sql.database import schema

        table = schema.pipeline_execution
        statement = update(table).where(table.c.run_id == run_id).values(values)
        _our_storage().database.write(lambda connection: connection.execute(statement).rowcount)

    def _start(self, pipeline: Any, run_id: str, reporter: Any = None) -> str:
        from pipelines.config import Config
        from pipelines.runners.eager import Runner

        reporter = reporter or Config().PIPELINES_DEFAULT_PIPELINE_REPORTER
        pipeline.start(run_id=run_id, input_data={}, runner=Runner(), reporter=reporter)
        return run_id


def check_model_objects(run_id: str, waiting_run_id: str) -> dict[str, Any]:
    """See :meth:`Commands.check_model_objects`."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext
    from pipelines.results import helpers
    from pipelines.status import PipelineTaskStatus

    from tests.host_pages.shop.models import Order

    found: dict[str, Any] = {}
    first, other, *others = helpers.get_task_results(run_id)
    result = first.get_task_execution().get_pipeline_result()
    with CaptureQueriesContext(connection) as queries:
        instances = [(r.get_pipeline_object(), r.get_task_object()) for r in (first, other, *others)]
    found["queries for all"] = len(queries)
    with CaptureQueriesContext(connection) as queries:
        again = [(r.pipeline_object, r.task_object) for r in (first, other, *others)]
    found["queries for all once more"] = len(queries)
    pairs = [pair for before, after in zip(instances, again, strict=True) for pair in zip(before, after, strict=True)]
    found["same instance each time"] = all(a is b for a, b in pairs)
    below = [result, first.get_task_execution(), first, other]
    found["same instance on the pipeline result and below"] = len({id(r.get_pipeline_object()) for r in below}) == 1

    relisted = list(helpers.get_task_results(run_id))
    found["kept where it is listed again"] = (
        first.get_task_execution().get_task_results()[0] is first and first.get_task_object() is instances[0][1]
    )
    kept = relisted.pop(1)
    relisted.clear()
    with CaptureQueriesContext(connection) as queries:
        kept.get_task_object()
    found["loaded for who is there"] = [query["sql"].endswith(f"IN ({instances[1][1].pk})") for query in queries]
    waiting = list(helpers.get_task_results(waiting_run_id))
    before = str(waiting[0].get_task_object())
    waiting[0].serializable_task_object = waiting[1].serializable_task_object
    found["another one that was set"] = [before, str(waiting[0].get_task_object())]

    Order.objects.update(total=77)
    other.report_status_change(_quiet_reporter(), PipelineTaskStatus.DONE)
    fresh = other.get_task_object()
    found["fresh once reported on"] = fresh.total == 77 != instances[1][1].total
    found["and kept"] = other.get_task_object() is fresh and other.get_pipeline_object() is other.pipeline_object
    found["its own"] = fresh is not instances[1][1] and other.get_pipeline_object() is not first.get_pipeline_object()

    alone = helpers.get_task_result(first.get_id())
    with CaptureQueriesContext(connection) as queries:
        found["not in a batch"] = str(alone.get_task_object())
    found["queries for it"] = len([query for query in queries if "shop_order" in query["sql"]])

    Order.objects.get(name="a").delete()
    listed = list(helpers.get_task_results(run_id))
    with CaptureQueriesContext(connection) as queries:
        found["gone"] = [_raised(listed[0].get_task_object) for _ in range(2)]
    found["queries for what is gone"] = len(queries)
    found["others"] = [str(r.get_task_object()) for r in listed[1::2][:3]]

    for record, identity in ((listed[0], {"model_name": "ghost"}), (listed[2], {"pk": "none"})):
        _store_object(record, {"pk": 1, "app_label": "shop", "model_name": "order", **identity})
    listed = list(helpers.get_task_results(run_id))
    found["beside them"] = str(listed[1].get_task_object())
    found["the model is gone"] = [_raised(listed[0].get_task_object) for _ in range(2)]
    found["no key"] = _raised(listed[2].get_task_object).partition(":")[0]
    return found


def _raised(call: Any) -> str:
    try:
        return f"no error, but {call()!r}"
    except Exception as error:  # noqa: BLE001 - the test says what it must be
        kind = type(error)
        name = f"shop.{kind.__qualname__}" if kind.__qualname__.startswith("Order.") else kind.__qualname__
        return f"{name}: {error}"


def _store_object(record: Any, identity: dict[str, Any]) -> None:
    from sqlalchemy import update

    from otel_storage.sql.database import schema

    table = schema.task_result
    statement = update(table).where(table.c.id == record.get_id()).values(task_object=json.dumps(identity))
    record.records.database.write(lambda connection: connection.execute(statement).rowcount)


def _registered(name: str) -> Any:
    from pipelines.registry import pipeline_registry

    return pipeline_registry.get_by_id(f"shop.{name}")


def _quiet_reporter() -> Any:
    from pipelines.reporters import PipelineReporter

    class Quiet(PipelineReporter):
        def report(self, context_object: Any, status: Any, message: str) -> None:
            pass

    return Quiet()


def _our_storage() -> Any:
    """The storage in SQL; None if the site has the host's own."""
    from pipelines.results.helpers import get_pipeline_results_storage

    return getattr(get_pipeline_results_storage(), "storage", None)


def _facts(record: Any) -> dict[str, Any]:
    return {
        "id": record.get_id(),
        "status": record.get_status().value,
        "task": getattr(record, "pipeline_task", None),
        "parent": getattr(record._get_propagate_parent(), "pk", None),
    }


@contextmanager
def _counted() -> Iterator[dict[str, Any]]:
    """The statements of our storage, and those of Django for the site's models, that are executed meanwhile."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext
    from sqlalchemy import event

    counts: dict[str, Any] = {"ours": []}

    def execute(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            counts["ours"].append(statement)

    storage = _our_storage()
    if storage is not None:
        event.listen(storage.database.engine, "before_cursor_execute", execute)
    with CaptureQueriesContext(connection) as captured:
        yield counts
    counts["django"] = [query["sql"] for query in captured]
    if storage is not None:
        event.remove(storage.database.engine, "before_cursor_execute", execute)


def _page(response: Any) -> dict[str, Any]:
    return {
        "status": response.status_code,
        "html": response.content.decode(),
        "location": response.headers.get("Location"),
    }


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def main() -> None:
    """Answer until there is no more to do."""
    answers = os.fdopen(os.dup(1), "w")
    # Redirect other prints to stderr: only answers belong on stdout.
    os.dup2(2, 1)
    configure(json.loads(sys.argv[1]))
    commands = Commands()
    for line in sys.stdin:
        name, arguments, named = json.loads(line)
        try:
            answer = {"result": getattr(commands, name)(*arguments, **named)}
        except Exception as error:  # noqa: BLE001 - the test receives the error
            answer = {"error": _told(error), "traceback": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
