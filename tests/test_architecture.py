"""What the tree promises: which way imports go, what an import costs, what the composite forwards."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from contextlib import closing
from graphlib import TopologicalSorter
from importlib import metadata
from pathlib import Path
from typing import Any, TypeGuard

import pytest

import otel_storage
from otel_storage.composite import OtelPipelineStorage
from otel_storage.results.base import PipelineStorage
from otel_storage.sql.storage import SqlPipelineStorage
from tests.processes import run_python

PACKAGE = Path(next(iter(otel_storage.__path__)))

ANYTHING = {
    *("", "runtime", "results", "ports", "privacy", "sql", "telemetry", "metrics", "watch"),
    *("composite", "testing", "contrib", "cli"),
}
"""The parts of the package; the empty one is its public names."""

MAY_IMPORT = {
    "": {"composite", "results", "sql"},
    "runtime": {"runtime"},
    "results": {"runtime", "results"},
    "ports": {"runtime", "results", "ports"},
    "privacy": {"runtime", "results", "ports", "privacy"},
    "sql": {"runtime", "results", "ports", "privacy", "sql"},
    "telemetry": {"runtime", "results", "ports", "privacy", "telemetry"},
    "metrics": {"runtime", "results", "ports", "privacy", "telemetry", "metrics"},
    "watch": {"runtime", "results", "ports", "privacy", "watch"},
    "composite": {"runtime", "results", "ports", "privacy", "sql", "telemetry", "watch", "composite"},
    "testing": {"results", "testing"},
    "contrib": ANYTHING - {"testing"},
    "cli": ANYTHING - {"contrib", "testing"},
    "__main__": {"cli"},
}
"""What each part may import of ours: what is below it.

Nothing but contrib, whose commands are the cli's, and the package's ``__main__`` imports the cli, and nothing imports
contrib, nor testing.
"""

WINGS_MAY_IMPORT = {
    "sql": {
        "database": {"database"},
        "migrations": {"database", "migrations"},
        "outbox": {"database", "outbox"},
        "totals": {"database", "outbox", "totals"},
        "records": {"database", "outbox", "totals", "records"},
        "upkeep": {"database", "outbox", "totals", "records", "upkeep"},
        "storage": {"database", "outbox", "totals", "records", "upkeep", "storage"},
    },
    "telemetry": {
        "semconv": {"semconv"},
        "spans": {"semconv", "spans"},
        "otlp": {"otlp"},
        "delivery": {"spans", "otlp", "delivery"},
        "recording": {"spans", "recording"},
    },
}
"""What each wing of a part, or module beside the wings, may import of the same part."""


def modules() -> dict[str, Path]:
    """The file of each module of the package, by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def part(module: str) -> str:
    """The part of the package that a module of ours belongs to."""
    return module.partition(".")[2].partition(".")[0]


def wing(module: str) -> str:
    """The wing of its part that a module belongs to, or its own name beside them; empty for the part itself."""
    return ".".join(module.split(".")[2:3])


def imports(path: Path, module: str) -> Iterator[tuple[int, str]]:
    """Each module that the file imports, anywhere in it, with the line; for the type checker alone counts too."""
    yield from imports_of(ast.parse(path.read_text()), module)


def imports_of(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """The same of a syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield node.lineno, name if name in MODULES else str(node.module)
        # A name that is computed is checked by what an import loads, further down.
        elif _is_import_by_name(node) and isinstance(node.args[0], ast.Constant):
            yield node.lineno, str(node.args[0].value)


def _is_import_by_name(node: ast.AST) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module")


def test_package_was_found() -> None:
    """The checks below look at all there is."""
    assert {"otel_storage", "otel_storage.results.base", "otel_storage.sql.migrations.env"} <= set(MODULES)
    assert {part(module) for module in MODULES} <= set(MAY_IMPORT)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    """No module imports a part of ours that is above its own."""
    upward = [
        f"line {line}: {name}"
        for line, name in imports(MODULES[module], module)
        if name.partition(".")[0] == "otel_storage" and part(name) not in MAY_IMPORT[part(module)]
    ]

    assert upward == []


@pytest.mark.parametrize("module", [module for module in MODULES if part(module) in WINGS_MAY_IMPORT and wing(module)])
def test_wings_look_one_way(module: str) -> None:
    """No wing imports one above it, be it for annotations alone."""
    may_import = WINGS_MAY_IMPORT[part(module)][wing(module)]
    upward = [
        f"line {line}: {name}"
        for line, name in imports(MODULES[module], module)
        if name.startswith(f"otel_storage.{part(module)}.") and wing(name) not in may_import
    ]

    assert upward == []


def test_no_circle_of_imports() -> None:
    """Modules need each other in one direction; for annotations alone they may name each other."""
    needs = {}
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = [ast.Pass()]
        names = {name for _line, name in imports_of(tree, module)} & MODULES.keys()
        # A package's own name is part of the name of each of its modules.
        needs[module] = {name for name in names if not module.startswith(f"{name}.")} - {module}

    # Raises CycleError, which names the circle.
    assert [*TopologicalSorter(needs).static_order()]


def test_no_file_is_named_as_its_folder() -> None:
    """A module tells something that its folder does not."""
    assert [path for path in MODULES.values() if path.stem == path.parent.name] == []


LONGEST_MODULE = 400
LONGEST_FUNCTION = 60
# The contract stays in one file, a released migration is never edited, and a suite's rules stand together.
UNBOUNDED = ("otel_storage.results.base", "otel_storage.sql.migrations.versions.", "otel_storage.testing.")


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith(UNBOUNDED)])
def test_modules_and_functions_are_short(module: str) -> None:
    """A module has 400 lines and a function 60 at most."""
    text = MODULES[module].read_text()
    functions = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= LONGEST_FUNCTION
    ]

    assert len(text.splitlines()) <= LONGEST_MODULE
    assert functions == []


def test_the_check_sees_every_kind_of_import(tmp_path: Path) -> None:
    """Imports in functions, for the type checker, of a module from its package, and by name are all seen."""
    file = tmp_path / "module.py"
    file.write_text(
        "import otel_storage.cli\n"
        "if TYPE_CHECKING:\n    from otel_storage.sql.storage import SqlPipelineStorage\n"
        "def function():\n    from otel_storage import composite\n"
        "    import_module('otel_storage.telemetry.spans.ids')\n"
    )

    found = {part(name) for _line, name in imports(file, "module")}

    assert found == {"cli", "sql", "composite", "telemetry"}


@pytest.mark.parametrize("module", MODULES)
def test_who_touches_django(module: str) -> None:
    """Django is imported by its own part, and by what serves projects with it; results asks for it by name alone."""
    names = {name.partition(".")[0] for _line, name in imports(MODULES[module], module)}

    # The command line sets a project up, and the conformance suite asks for its zone.
    if part(module) not in ("cli", "contrib", "testing") and module != "otel_storage.results.host":
        assert not names & {"celery", "django", "pipelines"}


@pytest.mark.parametrize("module", [module for module in MODULES if part(module) == "results"])
def test_standard_interface_stands_alone(module: str) -> None:
    """The interface needs neither SQLAlchemy nor OpenTelemetry."""
    names = {name.partition(".")[0] for _line, name in imports(MODULES[module], module)}

    assert not names & {"alembic", "google", "grpc", "opentelemetry", "requests", "sqlalchemy"}


LOADED = """
import json, sys
{}
print(json.dumps(sorted(sys.modules)))
"""
HEAVY = {"alembic", "celery", "django", "google.protobuf", "grpc", "opentelemetry.sdk", "pydantic", "requests"}


@pytest.mark.parametrize(
    ("statement", "not_loaded"),
    [
        ("import otel_storage", {*HEAVY, "sqlalchemy", "opentelemetry", "pipelines"}),
        ("dir(__import__('otel_storage'))", {*HEAVY, "sqlalchemy", "opentelemetry", "pipelines"}),
        ("import otel_storage.results.helpers", {"alembic", "grpc", "sqlalchemy", "opentelemetry"}),
        ("from otel_storage import SqlPipelineStorage", {"opentelemetry", "grpc", "alembic"}),
        ("from otel_storage import OtelPipelineStorage", {"opentelemetry.sdk", "grpc", "alembic"}),
    ],
)
def test_what_an_import_loads(statement: str, not_loaded: set[str], tmp_path: Path) -> None:
    """An import loads no more than it must: the package alone next to nothing."""
    loaded = set(run_python(LOADED.format(statement), cwd=tmp_path))

    assert "otel_storage" in loaded
    assert loaded & not_loaded == set()


@pytest.mark.parametrize("name", sorted(set(otel_storage.__all__) - {"__version__"}))
def test_public_names_load(name: str) -> None:
    """Every public name can be imported, has the right name, and is an object of this package with a docstring."""
    value = getattr(otel_storage, name)

    assert name in dir(otel_storage)
    # The one public name that is an alias of a dict, and the enum that is the host's where that is installed.
    if name not in ("PipelineDigest", "PipelineTaskStatus"):
        assert value.__name__ == name
        assert value.__module__.startswith("otel_storage.")
        assert inspect.getdoc(value)


def test_version() -> None:
    """The version is that of the distribution."""
    try:
        version = metadata.version("otel-storage")
    except metadata.PackageNotFoundError:
        pytest.skip("the package is used from its tree, without being installed: pip install -e .")

    assert otel_storage.__version__ == version


def test_names_that_are_none() -> None:
    """Another name is refused as any module does."""
    with pytest.raises(AttributeError, match="module 'otel_storage' has no attribute 'nope'"):
        otel_storage.nope  # noqa: B018 - it is looked up


METHODS = [name for name in dir(PipelineStorage) if not name.startswith("_")]


class CallsKept(SqlPipelineStorage):
    """A real storage that keeps the calls made to it, and gives an object of its own for each method."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.results: dict[str, object] = {name: object() for name in METHODS}


def _keep(name: str) -> Any:
    def method(self: CallsKept, *args: Any, **kwargs: Any) -> object:
        self.calls.append((name, args, kwargs))
        return self.results[name]

    return method


for _name in METHODS:
    setattr(CallsKept, _name, _keep(_name))


def test_every_public_method_is_known() -> None:
    """The methods that are forwarded are those of interface: a new one fails here until it is forwarded too."""
    assert len(METHODS) == 11
    assert all(inspect.isfunction(getattr(PipelineStorage, name)) for name in METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_composite_forwards(name: str) -> None:
    """Each public method of a storage reaches the wrapped one with its arguments, and gives what that gives."""
    kept = CallsKept("sqlite://")
    parameters = [*inspect.signature(getattr(PipelineStorage, name)).parameters][1:]
    by_name = {parameter: object() for parameter in parameters}
    required = [
        by_name[parameter.name]
        for parameter in [*inspect.signature(getattr(PipelineStorage, name)).parameters.values()][1:]
        if parameter.default is parameter.empty
    ]
    with closing(OtelPipelineStorage(kept, delivery="external")) as storage:
        method = getattr(storage, name)
        results = [method(**by_name), method(*by_name.values()), method(*required)]

    assert kept.calls == [(name, (), by_name), (name, tuple(by_name.values()), {}), (name, tuple(required), {})]
    assert all(result is kept.results[name] for result in results)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("storage", [SqlPipelineStorage, OtelPipelineStorage])
def test_storages_implement_the_interface(storage: type[PipelineStorage], name: str) -> None:
    """Each public method is the storage's own, and takes what the interface says, by the same names and defaults."""
    ours, interface = (inspect.signature(getattr(cls, name)) for cls in (storage, PipelineStorage))

    assert name in vars(storage)
    assert [(p.name, p.default, p.kind) for p in ours.parameters.values()] == [
        (p.name, p.default, p.kind) for p in interface.parameters.values()
    ]
