"""The system checks, in a real project: which message for which mistake, and what they must not do."""

from __future__ import annotations

import json
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from otel_storage.contrib.django.checks.database import DEADLINE
from otel_storage.results import clock
from otel_storage.sql.database.schema import SCHEMA_VERSION
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.telemetry.delivery.heartbeat import Heartbeat
from tests.contrib.conftest import Checker, Project

OTEL = "otel_storage.OtelPipelineStorage"
SQL = "otel_storage.SqlPipelineStorage"
JAEGER = "http://jaeger:16686/trace/{trace_id}"
PASSWORD = "hunter2-of-the-database"
ERROR, WARNING, INFO = 40, 30, 20


def only(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The one message there is; every one has a hint, and no password."""
    [message] = messages
    assert message["hint"]
    assert PASSWORD not in json.dumps(message)
    return message


@pytest.fixture
def module(checker: Checker, request: pytest.FixtureRequest) -> Path:
    """A file of the project, of a name of its own, that can be imported."""
    name = "".join(char if char.isalnum() else "_" for char in request.node.name)
    return checker.folder / f"{name}.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    "storage",
    [
        OTEL,
        [OTEL, {"url": "sqlite:///other.db", "trace_url": JAEGER, "delivery": "thread", "settle_quiet": 5}],
        [OTEL, {"storage": [SQL, {"url": "sqlite:///other.db", "durable": True}]}],
        [SQL, {"url": "sqlite:///other.db"}],
        "pipelines.results.orm.OrmPipelineResultsStorage",
    ],
)
def test_nothing_is_wrong(storage: Any, checker: Checker) -> None:
    """A storage that can be used, ours or the host's own, is no reason for a message - nor is its absent file."""
    assert checker(storage) == []
    assert checker(storage, databases=["default"]) == []
    # Django's own check makes Django's own file.
    assert {file.name for file in checker.folder.glob("*db*")} <= {"db.sqlite3"}


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("otel_storage.OtelPipelineStroage", "has no attribute 'OtelPipelineStroage'"),
        ("nowhere.Storage", "there is no module 'nowhere'"),
        ("collections.OrderedDict", "collections.OrderedDict is not a storage class"),
        (f"postgresql://otel:{PASSWORD}@db/runs", "the value is not a dotted path"),
        ([OTEL, ["sqlite:///runs.db"]], "must be a dotted path or a pair"),
        (5, "must be a dotted path or a pair"),
    ],
)
def test_setting_that_names_no_storage(storage: Any, words: str, checker: Checker) -> None:
    """E001: a path, module, attribute or class that is none."""
    for databases in ([], ["default"]):
        message = only(checker(storage, databases=databases))
        assert (message["id"], message["level"]) == ("otel_storage.E001", ERROR)
        assert message["msg"].startswith("PIPELINES_PIPELINES_RESULTS_STORAGE")
        assert words in message["msg"]
        assert OTEL in message["hint"]


def test_storage_whose_module_fails(checker: Checker, module: Path) -> None:
    """E001 too: what the project's own module raises, without the secrets in it."""
    module.write_text(f"raise RuntimeError('no route to postgresql://otel:{PASSWORD}@db/runs')\n")
    message = only(checker(f"{module.stem}.Storage"))
    assert message["id"] == "otel_storage.E001"
    assert "RuntimeError: no route to postgresql://" in message["msg"]


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"urll": "sqlite:///runs.db"}, "unexpected keyword argument 'urll'"),
        ({"delivery": "pigeon"}, "delivery is 'pigeon'"),
        ({"settle_quiet": -1}, "settle_quiet must not be negative"),
        ({"max_age": 10}, "max_age must be longer than settle_after"),
        ({"exporter": "nowhere.Exporter"}, "there is no module 'nowhere'"),
        ({"capture": ["everything"]}, "everything"),
        ({"capture": 5}, "TypeError"),
        ({"storage": "nowhere.Storage"}, "there is no module 'nowhere'"),
    ],
)
def test_arguments_that_are_refused(kwargs: dict[str, Any], words: str, checker: Checker) -> None:
    """E002: an argument that the storage does not take, or a value that it refuses."""
    for databases in ([], ["default"]):
        message = only(checker([OTEL, kwargs], databases=databases))
        assert (message["id"], message["level"]) == ("otel_storage.E002", ERROR)
        assert words in message["msg"]


@pytest.mark.parametrize(
    "url", ["runs.db", f"postgresql://otel:{PASSWORD}@2@db/runs", f"oracle-of-delphi://otel:{PASSWORD}@db/runs"]
)
@pytest.mark.parametrize("place", ["url", "variable", "storage"])
def test_url_that_is_none(url: str, place: str, checker: Checker) -> None:
    """E003: a URL that cannot be used, in the setting, in the environment or of the wrapped storage."""
    storage = {
        "url": [OTEL, {"url": url}],
        "variable": OTEL,
        "storage": [OTEL, {"storage": [SQL, {"url": url}]}],
    }[place]
    variables = {"OTEL_STORAGE_URL": url} if place == "variable" else {}
    message = only(checker(storage, variables=variables, databases=["default"]))
    assert (message["id"], message["level"]) == ("otel_storage.E003", ERROR)
    assert "OTEL_STORAGE_URL" in message["hint"]


def test_driver_that_is_missing(checker: Checker) -> None:
    """E004: the URL is right, and its driver is not installed."""
    message = only(checker([OTEL, {"url": f"postgresql+pg8000://otel:{PASSWORD}@db/runs"}], databases=["default"]))
    assert (message["id"], message["level"]) == ("otel_storage.E004", ERROR)
    assert "pg8000" in message["msg"]


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"trace_url": "jaeger/trace/{trace_id}"}, "trace_url must be an address that begins with http"),
        ({"trace_url": "http://jaeger:16686/trace/"}, "trace_url must have"),
        ({"run_url": "http://example.com/"}, "run_url must have {run_id}"),
    ],
)
def test_address_that_cannot_be_filled_in(kwargs: dict[str, Any], words: str, checker: Checker) -> None:
    """E005: an address of traces or runs that is none."""
    message = only(checker([OTEL, kwargs], databases=["default"]))
    assert (message["id"], message["level"]) == ("otel_storage.E005", ERROR)
    assert words in message["msg"]


@pytest.mark.parametrize("name", ["ENDPOINT", "TRACES_ENDPOINT"])
def test_endpoint_that_is_no_address(name: str, checker: Checker) -> None:
    """E006: nothing can be sent to it over HTTP; gRPC takes it, and a storage that makes no spans has no use for it."""
    variables = {f"OTEL_EXPORTER_OTLP_{name}": f"user:{PASSWORD}@collector:4318"}
    message = only(checker(OTEL, variables=variables, databases=["default"]))
    assert (message["id"], message["level"]) == ("otel_storage.E006", ERROR)
    assert message["msg"].startswith(f"OTEL_EXPORTER_OTLP_{name} is '***@collector:4318'")
    assert message["msg"].endswith("set it to http://***@collector:4318")
    assert checker(OTEL, variables={**variables, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}) == []
    assert checker([SQL, {"url": "sqlite:///other.db"}], variables=variables) == []


@pytest.mark.parametrize(
    "url", ["sqlite:///db.sqlite3", "sqlite:///{folder}/db.sqlite3", "sqlite:///sub/../db.sqlite3"]
)
def test_file_that_is_djangos(url: str, checker: Checker) -> None:
    """W001: the storage's SQLite file is one of Django's own, however it is written."""
    message = only(checker([OTEL, {"url": url.format(folder=checker.folder)}]))
    assert (message["id"], message["level"]) == ("otel_storage.W001", WARNING)
    assert "'default'" in message["msg"]
    assert checker([OTEL, {"url": "sqlite://"}], databases=["default"]) == []


def apps(*names: str) -> list[str]:
    """The project's apps, with these last."""
    contrib = ("admin", "auth", "contenttypes", "sessions", "messages", "humanize")
    return [*(f"django.contrib.{name}" for name in contrib), *names]


def test_order_of_apps(checker: Checker) -> None:
    """W002: after the host's app ours cannot give its page a link; only who wants links is told."""
    ours = "otel_storage.contrib.django"
    wanted = [OTEL, {"url": "sqlite:///other.db", "trace_url": JAEGER}]
    message = only(checker(wanted, INSTALLED_APPS=apps("pipelines", ours)))
    assert (message["id"], message["level"]) == ("otel_storage.W002", WARNING)
    assert message["hint"].startswith(f'Put "{ours}" before "pipelines"')
    assert checker(wanted, INSTALLED_APPS=apps(ours, "pipelines")) == []
    assert checker(wanted, INSTALLED_APPS=apps("otel_storage.contrib.django.apps.OtelStorageConfig", "pipelines")) == []
    assert checker([OTEL, {"url": "sqlite:///other.db"}], INSTALLED_APPS=apps("pipelines", ours)) == []


@pytest.mark.parametrize("variable", ["OTEL_SDK_DISABLED=true", "OTEL_TRACES_EXPORTER=none"])
def test_switched_off(variable: str, checker: Checker) -> None:
    """I001: OpenTelemetry's variables switch traces off; a storage that makes none is not concerned."""
    name, value = variable.split("=")
    message = only(checker(OTEL, variables={name: value}))
    assert (message["id"], message["level"]) == ("otel_storage.I001", INFO)
    assert variable in message["msg"]
    assert checker([SQL, {"url": "sqlite:///other.db"}], variables={name: value}) == []


# --- databases ---


def test_databases_are_left_alone_unless_asked_for(checker: Checker) -> None:
    """Without ``--database`` no database is asked."""
    unreachable = [OTEL, {"url": f"postgresql+psycopg://otel:{PASSWORD}@127.0.0.1:9/runs"}]
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install '.[postgresql]'")
    assert checker(unreachable) == []
    message = only(checker(unreachable, databases=["default"]))
    assert (message["id"], message["level"]) == ("otel_storage.W005", WARNING)
    assert "postgresql+psycopg://otel:***@127.0.0.1:9/runs" in message["msg"]


@pytest.mark.parametrize("kind", ["no folder", "no database", "a folder"])
def test_sqlite_file_that_cannot_be_used(kind: str, checker: Checker, tmp_path: Path) -> None:
    """W005: no folder for the file, a file that is no database, a folder in its place."""
    file = tmp_path / "runs.db"
    if kind == "no folder":
        file = tmp_path / "nowhere" / "runs.db"
    elif kind == "no database":
        file.write_text("this is not a database, and long enough to be seen not to be one\n" * 20)
    else:
        file.mkdir()
    message = only(checker([OTEL, {"url": f"sqlite:///{file}"}], databases=["default"]))
    assert (message["id"], message["level"]) == ("otel_storage.W005", WARNING)
    assert str(file.parent) in message["msg"]


def test_file_that_is_looked_at_is_left_as_it_is(checker: Checker, tmp_path: Path) -> None:
    """A file without our schema is neither migrated nor switched to WAL; it is with the first use."""
    file = tmp_path / "runs.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE others (id INTEGER)")
        connection.commit()
    before = file.read_bytes()
    assert checker([OTEL, {"url": f"sqlite:///{file}"}], databases=["default"]) == []
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.fixture
def records(database_url: str) -> Iterator[SqlPipelineStorage]:
    """A database with our schema, on each engine."""
    with closing(SqlPipelineStorage(database_url)) as records:
        yield records


def set_version(records: SqlPipelineStorage, version: str) -> None:
    """As another version of the package left the schema."""
    statement = text("UPDATE otel_storage_schema_version SET version_num = :version")
    records.database.write(lambda connection: connection.execute(statement, {"version": version}))


def test_schema_of_this_version(records: SqlPipelineStorage, database_url: str, checker: Checker) -> None:
    """A database that is up to date is no reason for a message."""
    assert checker([OTEL, {"url": database_url}], databases=["default"]) == []
    assert checker([SQL, {"url": database_url}], databases=["default"]) == []


def test_newer_schema(records: SqlPipelineStorage, database_url: str, checker: Checker) -> None:
    """W007: the schema of a newer version of the package, on each engine."""
    set_version(records, "9999")
    message = only(checker([OTEL, {"url": database_url}], databases=["default"]))
    assert (message["id"], message["level"]) == ("otel_storage.W007", WARNING)
    assert "9999" in message["msg"]
    assert message["hint"] == "Upgrade otel-storage in this environment"
    assert "s3cret-pw" not in json.dumps(message)


def test_no_schema(empty_postgresql_url: str, checker: Checker) -> None:
    """W006: a server's database without our tables."""
    message = only(checker([OTEL, {"url": empty_postgresql_url}], databases=["default"]))
    assert (message["id"], message["level"]) == ("otel_storage.W006", WARNING)
    assert "has no schema yet" in message["msg"]
    assert message["hint"] == "Run: python manage.py otel_storage_migrate"
    assert "s3cret-pw" not in json.dumps(message)


def test_older_schema(postgresql_url: str, checker: Checker) -> None:
    """W006 too: a server's database whose schema is that of an older version of the package."""
    with closing(SqlPipelineStorage(postgresql_url)) as records:
        set_version(records, "0001")
    message = only(checker([OTEL, {"url": postgresql_url}], databases=["default"]))
    assert message["id"] == "otel_storage.W006"
    assert f"version 0001, older than {SCHEMA_VERSION}" in message["msg"]


def test_older_schema_of_a_file(sqlite_url: str, checker: Checker) -> None:
    """A SQLite file is brought up with its first use: nothing to tell, and the look does not do it."""
    with closing(SqlPipelineStorage(sqlite_url)) as records:
        set_version(records, "0001")
        assert checker([OTEL, {"url": sqlite_url}], databases=["default"]) == []
        assert records.current() == "0001"


@pytest.mark.slow
def test_server_that_never_answers(checker: Checker) -> None:
    """A server that accepts connections and says nothing is given up on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        url = f"postgresql+psycopg://otel:{PASSWORD}@127.0.0.1:{server.getsockname()[1]}/runs?connect_timeout=100"
        message = only(checker([OTEL, {"url": url}], databases=["default"]))
    assert message["id"] == "otel_storage.W005"
    assert f"no answer in {DEADLINE:.0f} seconds" in message["msg"]


# --- who sends ---


def watch(records: SqlPipelineStorage, ago: timedelta) -> None:
    """A process that watches was seen so long ago."""
    Heartbeat(
        SqlPipelineStorage(engine=records.database.engine, clock=lambda: clock.now() - ago).outbox.senders, clock.now
    ).watching()


def test_nobody_watches(records: SqlPipelineStorage, database_url: str, checker: Checker) -> None:
    """W003: sending is left to others, and none was seen, or none for minutes."""
    external = [OTEL, {"url": database_url, "delivery": "external"}]
    message = only(checker(external, databases=["default"]))
    assert (message["id"], message["level"]) == ("otel_storage.W003", WARNING)
    assert "none that does has ever been seen" in message["msg"]
    assert message["hint"].endswith("python manage.py otel_storage_deliver --watch")
    watch(records, timedelta(minutes=6))
    assert "none that does was seen since 20" in only(checker(external, databases=["default"]))["msg"]
    watch(records, timedelta(minutes=1))
    assert checker(external, databases=["default"]) == []


def test_who_need_not_be_watched(records: SqlPipelineStorage, database_url: str, checker: Checker) -> None:
    """A thread of each process sends by itself; without telemetry there is nothing to send."""
    assert checker([OTEL, {"url": database_url}], databases=["default"]) == []
    external = [OTEL, {"url": database_url, "delivery": "external"}]
    [message] = checker(external, databases=["default"], variables={"OTEL_SDK_DISABLED": "true"})
    assert message["id"] == "otel_storage.I001"


def test_nobody_watches_a_file_to_be(checker: Checker, empty_sqlite_url: str, tmp_path: Path) -> None:
    """W003 before the first run too, and no file is made."""
    message = only(checker([OTEL, {"url": empty_sqlite_url, "delivery": "external"}], databases=["default"]))
    assert message["id"] == "otel_storage.W003"
    assert list(tmp_path.iterdir()) == []


# --- what checks must not do ---


def test_storage_that_cannot_be_checked(checker: Checker, module: Path) -> None:
    """W004: a storage that fails in its own way ends no command."""
    module.write_text(
        "from types import SimpleNamespace\n"
        "from otel_storage import SqlPipelineStorage\n"
        "class Odd(SqlPipelineStorage):\n"
        "    def __init__(self, url):\n"
        "        super().__init__(url)\n"
        "        self.database = SimpleNamespace(dispose=lambda: None)\n"
    )
    message = only(checker([f"{module.stem}.Odd", {"url": "sqlite:///other.db"}], databases=["default"]))
    assert (message["id"], message["level"]) == ("otel_storage.W004", WARNING)
    assert "AttributeError" in message["msg"]


def test_storage_that_starts_its_own_thread(checker: Checker, module: Path) -> None:
    """A storage derived from ours that cannot be told not to send is not made."""
    module.write_text(
        "from otel_storage import OtelPipelineStorage\n"
        "class Ours(OtelPipelineStorage):\n"
        "    def __init__(self):\n"
        "        open('made', 'w').close()\n"
        "        super().__init__(url='sqlite:///other.db')\n"
    )
    assert checker(f"{module.stem}.Ours", databases=["default"]) == []
    assert not (checker.folder / "made").exists()


IN_USE = """
import json
from functools import wraps
from django.core.checks import run_checks
from otel_storage import OtelPipelineStorage
from otel_storage.results.helpers import get_pipeline_results_storage

made, make = [], OtelPipelineStorage.__init__

@wraps(make)
def init(self, *args, **kwargs):
    made.append(self)
    make(self, *args, **kwargs)

OtelPipelineStorage.__init__ = init
storage = get_pipeline_results_storage()
ids = [message.id for message in run_checks(databases=["default"])]
assert storage.storage.listener is not None
assert not storage.delivery._is_closed
print(json.dumps([ids, len(made), storage.flush(20)]))
"""


@pytest.mark.slow
def test_storage_in_use_is_left_alone(project: Project) -> None:
    """A process that has made its storage checks that one, and goes on with it."""
    assert project.python(IN_USE) == [[], 1, True]


STORAGE_IN_USE = """
import json
from pipelines.results import helpers
from otel_storage.results import host

found = [host.storage_in_use() is None]
storage = helpers.get_pipeline_results_storage()
found.append(host.storage_in_use() is storage)
helpers.reset_storage_object()
found.append(host.storage_in_use() is None)
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.smoke
def test_host_tells_the_storage_in_use(project: Project) -> None:
    """The one private name of the host that we read still is where the host keeps its storage."""
    assert project.python(STORAGE_IN_USE) == [True, True, True], (
        "this version of django-pipelines keeps the storage that it has made elsewhere than in "
        "pipelines.results.helpers._storage: correct otel_storage.results.host.storage_in_use(), or the checks make a "
        "second storage in a process that has one"
    )


@pytest.mark.slow
def test_check_of_other_apps(project: Project) -> None:
    """``manage.py check APP`` of another app does not speak of ours; of ours, and by its tag, it does."""
    settings = {"PIPELINES_PIPELINES_RESULTS_STORAGE": "nowhere.Storage"}
    for words in (["otel_storage"], ["--tag", "otel_storage"]):
        assert "otel_storage.E001" in project.manage("check", *words, settings=settings).stderr
    done = project.manage("check", "auth", settings=settings)
    assert (done.returncode, done.stdout) == (0, "System check identified no issues (0 silenced).\n")


def test_what_people_see(project: Project) -> None:
    """``manage.py check`` prints the mistake, its id and the mend, and fails."""
    settings = {"PIPELINES_PIPELINES_RESULTS_STORAGE": [OTEL, {"trace_url": "jaeger:16686"}]}
    done = project.manage("check", settings=settings)
    assert done.returncode == 1
    assert done.stderr == (
        "SystemCheckError: System check identified some issues:\n\n"
        "ERRORS:\n"
        "?: (otel_storage.E005) PIPELINES_PIPELINES_RESULTS_STORAGE: trace_url must be an address that begins with "
        "http:// or https://\n"
        "\tHINT: Use an address such as http://jaeger:16686/trace/{trace_id}\n\n"
        "System check identified 1 issue (0 silenced).\n"
    )


def test_migrate_checks_the_storage(project: Project, empty_postgresql_url: str) -> None:
    """``migrate`` asks the storage's database too, and goes on; our own command mends what it finds."""
    settings = {"PIPELINES_PIPELINES_RESULTS_STORAGE": [OTEL, {"url": empty_postgresql_url}]}
    first = project.manage("migrate", settings=settings)
    assert first.returncode == 0
    assert "(otel_storage.W006)" in first.stderr
    assert project.manage("otel_storage_migrate", settings=settings).returncode == 0
    second = project.manage("migrate", settings=settings)
    assert (second.returncode, "otel_storage" in second.stderr) == (0, False)
