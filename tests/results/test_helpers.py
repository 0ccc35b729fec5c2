"""The helpers: one storage a process, with the host and without it."""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from otel_storage.results import config, helpers, host
from otel_storage.results.base import PipelineStorage
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
from tests.processes import HIDE_HOST, run_python

BEFORE = datetime(2024, 2, 29, tzinfo=UTC)

CALLS: dict[str, dict[str, Any]] = {
    "build_pipeline_execution": {
        "pipeline": Pipeline(Task()),
        "run_id": "run",
        "runner": Runner(),
        "reporter": RecordingReporter(),
        "input_data": {"day": 1},
        "build_all": False,
    },
    "get_pipeline_digest": {},
    "get_pipeline_executions": {"pipeline_id": "shop.Orders"},
    "get_pipeline_execution": {"run_id": "run"},
    "get_pipeline_results": {"run_id": "run"},
    "get_pipeline_result": {"_id": "1"},
    "get_task_executions": {"run_id": "run", "pipeline_result_id": 2},
    "get_task_execution": {"_id": 3},
    "get_task_results": {"run_id": "run", "pipeline_result_id": 2, "task_execution_id": "3"},
    "get_task_result": {"_id": 4},
    "cleanup_task_results": {"before": BEFORE},
}
"""Each helper with an argument for each of its parameters."""

needs_host = pytest.mark.skipif(not host.is_installed(), reason="django-pipelines is not installed")


class CallsKept(PipelineStorage):
    """A storage that keeps the calls made to it, and gives an object of its own for each method."""

    made = 0

    def __init__(self, **kwargs: Any) -> None:
        type(self).made += 1
        self.kwargs = kwargs
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.results: dict[str, object] = {}


def _keep(name: str) -> Any:
    signature = inspect.signature(getattr(PipelineStorage, name))

    def method(self: CallsKept, *args: Any, **kwargs: Any) -> object:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        self.calls.append((name, {key: value for key, value in bound.arguments.items() if key != "self"}))
        return self.results.setdefault(name, object())

    return method


for _name in (name for name in vars(PipelineStorage) if not name.startswith("_")):
    setattr(CallsKept, _name, _keep(_name))


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[CallsKept]:
    """The storage that the helpers of this process use."""
    monkeypatch.setattr(host, "django_is_configured", lambda: False)
    monkeypatch.setenv(config.SETTING, json.dumps([f"{__name__}.CallsKept", {"argument": 1}]))
    helpers.reset_storage_object()
    CallsKept.made = 0
    storage = helpers.get_pipeline_results_storage()
    assert type(storage).__name__ == "CallsKept"
    yield storage  # type: ignore[misc]  # the module may have been loaded twice, under one name
    helpers.reset_storage_object()


def test_there_is_a_helper_for_every_method() -> None:
    """Each public method has one function of the same name; only cleanup has the host's other name."""
    methods = {name for name in dir(PipelineStorage) if not name.startswith("_")}
    functions = {
        name
        for name, value in vars(helpers).items()
        if inspect.isfunction(value) and value.__module__ == helpers.__name__ and not name.startswith("_")
    }

    assert functions == {
        *methods - {"cleanup"},
        "cleanup_task_results",
        "get_pipeline_results_storage",
        "reset_storage_object",
    }
    assert set(CALLS) == functions - {"get_pipeline_results_storage", "reset_storage_object"}


@needs_host
def test_helpers_are_the_hosts() -> None:
    """Every helper of the host's is one of ours, with the same parameters."""
    for name, ours in ((name, getattr(helpers, name)) for name in CALLS):
        theirs = getattr(host.load("results.helpers"), name)
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)


@pytest.mark.parametrize("name", CALLS)
def test_every_helper_forwards(name: str, storage: CallsKept) -> None:
    """Arguments reach the method as they are, by position and by name, and its result comes back."""
    method = {"cleanup_task_results": "cleanup"}.get(name, name)
    helper = getattr(helpers, name)

    by_name, by_position = helper(**CALLS[name]), helper(*CALLS[name].values())

    assert storage.calls == [(method, CALLS[name])] * 2
    assert by_name is by_position is storage.results[method]


@pytest.mark.parametrize("name", [name for name, arguments in CALLS.items() if arguments])
def test_defaults_are_the_methods(name: str, storage: CallsKept) -> None:
    """What is left out in a helper's call is what the method leaves out."""
    method = {"cleanup_task_results": "cleanup"}.get(name, name)
    theirs = inspect.signature(getattr(PipelineStorage, method)).parameters
    ours = inspect.signature(getattr(helpers, name)).parameters

    assert [(p.name, p.default) for p in ours.values()] == [
        (p.name, p.default) for p in theirs.values() if p.name != "self"
    ]


def test_storage_is_made_once(storage: CallsKept) -> None:
    """Threads that ask at once get the same one, made from the setting."""
    helpers.reset_storage_object()
    type(storage).made = 0
    found: list[object] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait(10)
        found.append(helpers.get_pipeline_results_storage())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert len(found) == 8
    assert len(set(map(id, found))) == 1
    assert type(storage).made == 1
    assert storage.kwargs == {"argument": 1}


def test_reset_makes_it_again_from_the_setting(storage: CallsKept, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a reset the setting is read again; until then it is not."""
    monkeypatch.setenv(config.SETTING, json.dumps(["otel_storage.SqlPipelineStorage", {"url": "sqlite://"}]))
    assert helpers.get_pipeline_results_storage() is storage

    helpers.reset_storage_object()

    made = helpers.get_pipeline_results_storage()
    assert isinstance(made, SqlPipelineStorage)
    made.close()


def test_bad_setting_is_tried_again(storage: CallsKept, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that cannot be used says so at every call, and works once it is mended."""
    good = json.dumps([f"{__name__}.CallsKept", {}])
    helpers.reset_storage_object()
    monkeypatch.setenv(config.SETTING, '["otel_storage.SqlPipelineStorage", {"ulr": "x"}]')
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=f"{config.SETTING}: .* does not take these arguments"):
            helpers.get_pipeline_digest()
    monkeypatch.setenv(config.SETTING, good)

    assert type(helpers.get_pipeline_results_storage()).__name__ == "CallsKept"


DJANGO = """
import json
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "pipelines"],
    PIPELINES_PIPELINES_RESULTS_STORAGE={setting!r},
)
django.setup()
"""


@needs_host
class TestDjango:
    """With the host installed and Django configured the helpers are the host's."""

    @pytest.mark.slow
    @pytest.mark.parametrize("first", ["pipelines", "otel_storage"])
    def test_one_storage_not_two(self, first: str, tmp_path: Path) -> None:
        """Both modules get the same storage, whichever asks first, and a reset in either affects both."""
        script = f"""
import importlib
first = importlib.import_module("{first}.results.helpers")
made = first.get_pipeline_results_storage()
from otel_storage.results import helpers as ours
from pipelines.results import helpers as theirs
before = [ours.get_pipeline_results_storage() is made, theirs.get_pipeline_results_storage() is made]
ours.reset_storage_object()
second = theirs.get_pipeline_results_storage()
theirs.reset_storage_object()
third = ours.get_pipeline_results_storage()
after = [second is made, third is second, third is theirs.get_pipeline_results_storage()]
print(json.dumps([before, after, type(made).__name__]))
"""
        setting = ("otel_storage.SqlPipelineStorage", {"url": "sqlite://"})

        shown = run_python(DJANGO.format(setting=setting) + script, cwd=tmp_path)

        assert shown == [[True, True], [False, False, True], "SqlPipelineStorage"]

    def test_storage_of_the_host(self, tmp_path: Path) -> None:
        """The helpers serve the host's own storage too."""
        script = """
from otel_storage.results import helpers
from pipelines.results.orm import OrmPipelineResultsStorage
print(json.dumps(isinstance(helpers.get_pipeline_results_storage(), OrmPipelineResultsStorage)))
"""
        setting = "pipelines.results.orm.OrmPipelineResultsStorage"

        assert run_python(DJANGO.format(setting=setting) + script, cwd=tmp_path) is True

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("setting", "words"),
        [
            ("nodots", "'nodots' is not a dotted path"),
            ("no_such_module.Storage", "there is no module 'no_such_module'"),
            ("otel_storage.Nope", "module 'otel_storage' has no attribute 'Nope'"),
            ("json.loads", "json.loads is not a storage class"),
            (("otel_storage.SqlPipelineStorage", {"ulr": "x"}), "does not take these arguments"),
            (("otel_storage.SqlPipelineStorage",), "must be a dotted path or a pair"),
            (17, "must be a dotted path or a pair"),
        ],
    )
    def test_bad_setting(self, setting: Any, words: str, tmp_path: Path) -> None:
        """The host's errors name neither the setting nor what is wrong with it; ours do."""
        script = """
from otel_storage.results import helpers
try:
    helpers.get_pipeline_results_storage()
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""
        kind, text = run_python(DJANGO.format(setting=setting) + script, cwd=tmp_path)

        assert kind == "ConfigurationError"
        assert text.startswith(config.SETTING)
        assert words in text

    def test_fault_of_the_storage_is_its_own(self, tmp_path: Path) -> None:
        """A storage that fails while it is made is not blamed on the setting."""
        (tmp_path / "faulty.py").write_text(
            "from otel_storage import PipelineStorage\n"
            "class Storage(PipelineStorage):\n"
            "    def __init__(self): raise ValueError('its own fault')\n"
        )
        script = """
from otel_storage.results import helpers
try:
    helpers.get_pipeline_results_storage()
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""
        shown = run_python(DJANGO.format(setting="faulty.Storage") + script, cwd=tmp_path)

        assert shown == ["ValueError", "its own fault"]


PLAIN_RUN = """
import json, os, sys
from otel_storage.results import helpers
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task

reporter = RecordingReporter()
pipeline = Pipeline(Task("extract"), Task("load", objects=["a", "b"]), objects=["north", "south"])
execution = helpers.build_pipeline_execution(pipeline, "run", Runner(), reporter, {"day": 1})
for result in helpers.get_task_results(run_id="run"):
    result.report_status_change(reporter, "RUNNING")
    result.report_status_change(reporter, "DONE", propagate=False)
storage = helpers.get_pipeline_results_storage()
print(json.dumps({
    "storage": type(storage).__name__,
    "statuses": [r.get_status().value for r in helpers.get_task_results(run_id="run")],
    "execution": helpers.get_pipeline_execution("run").get_status().value,
    "reports": len(reporter.reports),
    "hosts": sorted(m for m in sys.modules if m.partition(".")[0] in ("django", "celery", "kombu")),
    "pipelines": getattr(sys.modules.get("pipelines"), "__file__", None),
    "trace": execution.get_trace_id() is not None,
    "removed": helpers.cleanup_task_results(),
}))
storage.close()
"""


class TestWithoutTheHost:
    """In an environment without django-pipelines and Django."""

    EXPECTED: dict[str, Any] = {  # noqa: RUF012 - not changed
        "statuses": ["DONE"] * 6,
        "execution": "RUNNING",
        "reports": 13 + 13 + 6,
        "hosts": [],
        "removed": ["run"],
    }

    @pytest.mark.slow
    def test_plain_objects(self, tmp_path: Path) -> None:
        """A run of plain objects through the helpers; neither Django nor the host is imported."""
        setting = json.dumps(["otel_storage.SqlPipelineStorage", {"url": "sqlite:///runs.db"}])

        shown = run_python(HIDE_HOST + PLAIN_RUN, cwd=tmp_path, **{config.SETTING: setting})

        assert shown == {**self.EXPECTED, "storage": "SqlPipelineStorage", "pipelines": None, "trace": False}
        assert (tmp_path / "runs.db").exists()

    @pytest.mark.slow
    @pytest.mark.smoke
    def test_default_storage(self, tmp_path: Path) -> None:
        """With nothing set it is the composite, on a SQLite file in the working directory."""
        # 9 is the discard service: nothing listens there.
        shown = run_python(HIDE_HOST + PLAIN_RUN, cwd=tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")

        assert shown == {**self.EXPECTED, "storage": "OtelPipelineStorage", "pipelines": None, "trace": True}
        assert (tmp_path / "otel_storage.db").exists()

    @pytest.mark.slow
    def test_module_of_the_users_own_named_pipelines(self, tmp_path: Path) -> None:
        """A module ``pipelines`` of the user's is not taken for the host, and not disturbed."""
        (tmp_path / "pipelines.py").write_text("status = base = 'the user has these names too'\n")
        setting = json.dumps(["otel_storage.SqlPipelineStorage", {"url": "sqlite://"}])

        unused = run_python(HIDE_HOST + PLAIN_RUN, cwd=tmp_path, **{config.SETTING: setting})
        used = run_python("import pipelines\n" + HIDE_HOST + PLAIN_RUN, cwd=tmp_path, **{config.SETTING: setting})

        assert unused["pipelines"] is None
        assert used["pipelines"] == str(tmp_path / "pipelines.py")
        assert used["statuses"] == unused["statuses"] == self.EXPECTED["statuses"]

    @pytest.mark.slow
    def test_registries_are_the_hosts(self, tmp_path: Path) -> None:
        """What only the host knows is refused with the command that installs it."""
        script = """
from otel_storage import SqlPipelineStorage
from otel_storage.testing.pipelines import Pipeline, RecordingReporter, Runner, Task
import json
storage = SqlPipelineStorage("sqlite://")
execution = storage.build_pipeline_execution(Pipeline(Task()), "run", Runner(), RecordingReporter(), {})
try:
    execution.get_pipeline()
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""
        kind, text = run_python(HIDE_HOST + script, cwd=tmp_path)

        assert kind == "ConfigurationError"
        assert "pip install '.[django]'" in text
