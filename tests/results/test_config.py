"""From the setting to a storage, and what is said of a setting that cannot be used."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import pytest

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results import config, host
from otel_storage.results.base import PipelineStorage
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.sql.storage import SqlPipelineStorage
from tests.processes import HIDE_HOST, run_python

SQL = "otel_storage.SqlPipelineStorage"
PASSWORD = "hunter2"

needs_host = pytest.mark.skipif(not host.is_installed(), reason="django-pipelines is not installed")


def message(error: BaseException) -> str:
    """The error's message; its traceback must hold no password."""
    assert PASSWORD not in "".join(traceback.format_exception(error))
    return str(error)


@pytest.mark.parametrize("path", ["", "nodots", "a..b", "a.b-c.D", ".a.b", "a.b.", "a b.c", "1a.b"])
def test_path_that_is_none(path: str) -> None:
    """What is no dotted path is said to be none, with one that is."""
    with pytest.raises(ConfigurationError) as caught:
        config.storage_class(path)

    assert message(caught.value) == f"{config.SETTING}: {path!r} is not a dotted path such as {config.DEFAULT!r}"


@pytest.mark.parametrize(
    "value",
    [
        f"postgresql+psycopg://user:{PASSWORD}@host/name",
        f'("{SQL}", {{"url": "postgresql+psycopg://user:{PASSWORD}@host/name"}})',
    ],
)
def test_password_in_the_place_of_a_path(value: str) -> None:
    """A URL or a Python pair where a path belongs is not printed: a password may be in it."""
    with pytest.raises(ConfigurationError, match="the value is not a dotted path") as caught:
        config.storage_class(value)

    message(caught.value)


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("no_such_module.Storage", "no_such_module"),
        ("no_such_package.sub.Storage", "no_such_package"),
        ("otel_storage.no_such_module.Storage", "otel_storage.no_such_module"),
        ("otel_storage.composite.OtelPipelineStorage.Inner", "otel_storage.composite.OtelPipelineStorage"),
    ],
)
def test_module_that_is_missing(path: str, module: str) -> None:
    """The module that is missing is named, and the path it was asked for in."""
    with pytest.raises(ConfigurationError) as caught:
        config.storage_class(path, "storage")

    assert message(caught.value) == f"storage: there is no module {module!r} (in {path!r})"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import no_such_dependency", ModuleNotFoundError),
        ("1 / 0", ZeroDivisionError),
        ("def __getattr__(name): import json; return json.no_such_function", AttributeError),
    ],
)
def test_faults_of_the_named_module_are_its_own(
    source: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong inside the module that is named is not blamed on the setting."""
    name = f"faulty_{error.__name__.lower()}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(error, match=r"no_such|division"):
        config.storage_class(f"{name}.Storage")


@pytest.mark.parametrize("path", ["otel_storage.Nope", "json.Nope"])
def test_attribute_that_is_missing(path: str) -> None:
    """A module without the attribute is named, and the attribute: public names that are lazy are no exception."""
    with pytest.raises(ConfigurationError) as caught:
        config.storage_class(path)

    assert message(caught.value) == f"{config.SETTING}: module {path[:-5]!r} has no attribute 'Nope'"


@pytest.mark.parametrize("path", ["json.loads", "otel_storage.PipelineExecution", "builtins.dict", "json.decoder"])
def test_not_a_storage_class(path: str) -> None:
    """A function, a module and a class of another kind are no storage."""
    with pytest.raises(ConfigurationError, match=f"{path} is not a storage class; it must extend Pipeline"):
        config.storage_class(path)


@pytest.mark.parametrize(
    "spec", [None, 17, (), (SQL,), [SQL], (SQL, {}, 1), (SQL, "url"), (17, {}), {"path": SQL}, (SQL, None)]
)
def test_neither_path_nor_pair(spec: Any) -> None:
    """Anything but a path and a pair is refused with an example of both."""
    with pytest.raises(ConfigurationError, match="must be a dotted path or a pair") as caught:
        config.storage_class(spec)

    assert f"not a {type(spec).__name__}" in message(caught.value)


def test_paths_and_pairs() -> None:
    """A path and a pair both name the class; the keyword arguments are a copy."""
    kwargs = {"url": "sqlite://"}

    assert config.storage_class(SQL) == (SqlPipelineStorage, {})
    cls, given = config.storage_class((SQL, kwargs))
    assert (cls, given) == (SqlPipelineStorage, kwargs)
    assert given is not kwargs


@needs_host
def test_storage_of_the_host_is_a_storage() -> None:
    """A class that extends the host's, and not ours, will do."""
    cls, _kwargs = config.storage_class("pipelines.results.base.PipelineResultsStorage")

    assert not issubclass(cls, PipelineStorage)


def test_refused_arguments() -> None:
    """A keyword argument that the class does not take is named, without the value of any."""
    with pytest.raises(ConfigurationError, match=r"otel_storage\.SqlPipelineStorage does not take.*'ulr'") as caught:
        config.load_object((SQL, {"ulr": f"postgresql://u:{PASSWORD}@h/d"}), expected=None, what="storage")

    message(caught.value)


class Broken:
    """Its constructor fails by itself."""

    def __init__(self) -> None:
        self.length = len(17)  # type: ignore[arg-type]  # what it fails with


def test_type_error_inside_the_constructor() -> None:
    """A TypeError that is the class's own fault is not blamed on the arguments."""
    with pytest.raises(TypeError, match=r"has no len\(\)"):
        config.load_object(f"{__name__}.Broken", expected=None, what="exporter")


def test_load_object() -> None:
    """A path and a pair are called; an object is taken as it is, if it is of the type expected."""
    made = config.load_object("decimal.Decimal", expected=object, what="x")
    pair = config.load_object(["decimal.Decimal", {"value": "1.5"}], expected=object, what="x")
    kept = object()

    assert (made, str(pair)) == (0, "1.5")
    assert config.load_object(kept, expected=None, what="x") is kept
    with pytest.raises(ConfigurationError, match="exporter: dict is not a list"):
        config.load_object({}, expected=list, what="exporter")
    with pytest.raises(ConfigurationError, match=r"exporter: string\.digits is neither a class nor a function"):
        config.load_object("string.digits", expected=None, what="exporter")


def test_wrapped_storage_is_configured_the_same_way() -> None:
    """The composite takes the storage that it wraps as a path or a pair, and says what is wrong with it."""
    storage = OtelPipelineStorage((SQL, {"url": "sqlite://"}), delivery="external")

    assert storage.records.url == "sqlite://"
    storage.close()
    for spec, words in (
        ("nodots", "storage: 'nodots' is not a dotted path"),
        (("json.loads", {}), "storage: json.loads is not a storage class"),
        ((SQL, {"ulr": ""}), "storage: .* does not take these arguments"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            OtelPipelineStorage(spec)


@pytest.fixture
def without_django(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the environment, though another test of this process may have configured Django."""
    monkeypatch.setattr(host, "django_is_configured", lambda: False)


@pytest.mark.usefixtures("without_django")
class TestEnvironment:
    """Without Django the setting is an environment variable."""

    @pytest.mark.parametrize("value", [None, "", "  "])
    def test_default(self, value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing set, or nothing but space, is our composite."""
        if value is not None:
            monkeypatch.setenv(config.SETTING, value)

        assert config.configured_storage() == (OtelPipelineStorage, {})

    def test_path(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A dotted path; space around it does no harm."""
        monkeypatch.setenv(config.SETTING, f" {SQL}\n")

        assert config.configured_storage() == (SqlPipelineStorage, {})

    def test_pair(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A JSON pair."""
        monkeypatch.setenv(config.SETTING, json.dumps([SQL, {"url": "sqlite://", "durable": True}]))

        assert config.configured_storage() == (SqlPipelineStorage, {"url": "sqlite://", "durable": True})

    @pytest.mark.parametrize("end", ["", "}", "]]", "} ]x"])
    def test_pair_that_is_no_json(self, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """What begins as JSON and is none is said to be none, and is not printed."""
        monkeypatch.setenv(config.SETTING, f'["{SQL}", {{"url": "sqlite://{PASSWORD}"{end}')

        with pytest.raises(ConfigurationError, match=f"variable {config.SETTING} is neither a dotted path nor") as info:
            config.configured_storage()
        message(info.value)

    @pytest.mark.parametrize("value", ["[]", f'["{SQL}"]', f'["{SQL}", []]', "[1, {}]"])
    def test_json_that_is_no_pair(self, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """JSON of another shape is refused as the setting would be."""
        monkeypatch.setenv(config.SETTING, value)

        with pytest.raises(ConfigurationError, match="must be a dotted path or a pair"):
            config.configured_storage()

    def test_check(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The setting is checked, its arguments too, and nothing is made."""
        monkeypatch.setenv(config.SETTING, json.dumps([SQL, {"url": "no url at all"}]))
        config.check_setting()
        monkeypatch.setenv(config.SETTING, json.dumps([SQL, {"ulr": ""}]))

        with pytest.raises(ConfigurationError, match=r"does not take these arguments.*'ulr'"):
            config.check_setting()


SHOW = """
import json
from otel_storage.results.config import configured_storage
cls, kwargs = configured_storage()
print(json.dumps([f"{cls.__module__}.{cls.__qualname__}", kwargs]))
"""


@needs_host
class TestDjango:
    """With Django the setting is Django's, and the environment variable says nothing."""

    def test_configured_by_code(self, tmp_path: Path) -> None:
        """``settings.configure`` is enough."""
        script = f"""
from django.conf import settings
settings.configure({config.SETTING}=("{SQL}", {{"url": "sqlite://"}}))
{SHOW}"""
        shown = run_python(script, cwd=tmp_path, **{config.SETTING: "no.Such"})

        assert shown == ["otel_storage.sql.storage.SqlPipelineStorage", {"url": "sqlite://"}]

    def test_settings_module(self, tmp_path: Path) -> None:
        """``DJANGO_SETTINGS_MODULE`` is enough, though nothing has imported Django yet."""
        (tmp_path / "site_settings.py").write_text(f'{config.SETTING} = ["{SQL}", {{"durable": True}}]\n')

        shown = run_python(SHOW, cwd=tmp_path, DJANGO_SETTINGS_MODULE="site_settings")

        assert shown == ["otel_storage.sql.storage.SqlPipelineStorage", {"durable": True}]

    def test_default_is_the_hosts(self, tmp_path: Path) -> None:
        """Nothing set is the host's ORM storage, as the host itself has it."""
        script = f"""
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["django.contrib.contenttypes", "pipelines"])
django.setup()
{SHOW}"""
        assert run_python(script, cwd=tmp_path) == ["pipelines.results.orm.OrmPipelineResultsStorage", {}]

    @pytest.mark.slow
    def test_django_without_the_host(self, tmp_path: Path) -> None:
        """A Django project without the host has our default, and the same setting."""
        hidden = HIDE_HOST.replace('"celery", "django", "kombu"', '"pipelines"')
        configure = "from django.conf import settings\nsettings.configure({})\n"

        default = run_python(hidden + configure.format("") + SHOW, cwd=tmp_path)
        given = run_python(hidden + configure.format(f"{config.SETTING}={SQL!r}") + SHOW, cwd=tmp_path)

        assert default == ["otel_storage.composite.OtelPipelineStorage", {}]
        assert given == ["otel_storage.sql.storage.SqlPipelineStorage", {}]
