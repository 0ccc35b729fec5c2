"""pyproject.toml declares the distributions that the package imports, and no others."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from otel_storage.telemetry.otlp import opening
from tests.test_architecture import MODULES

PROJECT: dict[str, Any] = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

EXTRAS = {
    "otel_storage.contrib.django": "django",
    "otel_storage.cli.demo": "django",
    "otel_storage.cli.options": "django",
    "otel_storage.results.host": "django",
    "otel_storage.metrics.exposition": "prometheus",
    "otel_storage.testing": "test",
}
"""The extra whose distributions a module may import beside the core ones, by the beginning of the module's name."""

DRIVERS = {"psycopg", "pymysql"}
"""SQLAlchemy imports a database's driver, by the name in the URL."""

BROUGHT = {
    "opentelemetry-exporter-otlp-proto-grpc": "opentelemetry-exporter-otlp",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry-exporter-otlp",
}
"""The distribution without a module of its own that is declared to bring another."""

INSTALLED = metadata.packages_distributions()


def normalized(name: str) -> str:
    """The distribution's name as the packaging standards compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(extra: str | None) -> set[str]:
    """The distributions that pyproject.toml names for the package, or for one of its extras."""
    requirements = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    return {normalized(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}


def extra_of(module: str) -> str | None:
    """The extra that the module is for, if any."""
    return next((extra for prefix, extra in EXTRAS.items() if module.startswith(prefix)), None)


def imported(tree: ast.AST) -> Iterator[str]:
    """Each module of another distribution that the code imports, by a statement or by import_module()."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            # The beginning of an f-string is enough: f"package.{module}".
            names = [str(part.value) for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)][:1]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in INSTALLED.keys() - {"otel_storage", "tests"})


@cache
def shared(package: str) -> dict[str, str]:
    """The distribution of each file of a package that several distributions share, such as google."""
    return {
        str(file): distribution for distribution in INSTALLED[package] for file in metadata.files(distribution) or ()
    }


def distribution_of(name: str) -> str:
    """The distribution that brings a module, or a name in a module."""
    parts = name.split(".")
    if len(set(INSTALLED[parts[0]])) == 1:
        return normalized(INSTALLED[parts[0]][0])
    files = shared(parts[0])
    for length in range(len(parts), 0, -1):
        for ending in (".py", "/__init__.py"):
            if distribution := files.get("/".join(parts[:length]) + ending):
                return BROUGHT.get(normalized(distribution), normalized(distribution))
    raise LookupError(f"no installed distribution has a file for {name}")


@cache
def needed() -> dict[str | None, dict[str, str]]:
    """The distributions that modules import, each with one such import, by the extra that the modules are for."""
    found: dict[str | None, dict[str, str]] = {}
    for module, path in MODULES.items():
        # load_object() imports an exporter by its dotted path.
        paths = opening.CLASSES.values() if module == opening.__name__ else ()
        for name in (*imported(ast.parse(path.read_text())), *paths):
            found.setdefault(extra_of(module), {})[distribution_of(name)] = f"{module} imports {name}"
    return found


def test_what_is_imported_is_declared() -> None:
    """Each distribution that a module imports is a dependency, or named by the extra that the module is for."""
    undeclared = {
        distribution: example
        for extra, distributions in needed().items()
        for distribution, example in distributions.items()
        if distribution not in declared(None) | (declared(extra) if extra else set())
    }

    assert undeclared == {}


def test_what_is_declared_is_imported() -> None:
    """Each dependency is imported, and what an extra names is imported by the modules that the extra is for."""
    found = needed()
    every = {distribution for distributions in found.values() for distribution in distributions}
    extras = PROJECT["optional-dependencies"].keys() - {"test"}
    unused = {extra: declared(extra) - found.get(extra, {}).keys() - DRIVERS for extra in extras}

    assert declared(None) - every == set()
    assert unused == {extra: set() for extra in extras}


def test_the_check_sees_every_kind_of_import() -> None:
    """A name from a shared package, an import in a function, and import_module() are all seen."""
    code = (
        "from opentelemetry import trace\n"
        "def function():\n    from google.protobuf import json_format\n    import google.rpc.status_pb2\n"
        "    import_module(f'sqlalchemy.{name}')\n"
    )

    assert {distribution_of(name) for name in imported(ast.parse(code))} == {
        "googleapis-common-protos",
        "opentelemetry-api",
        "protobuf",
        "sqlalchemy",
    }
