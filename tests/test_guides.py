"""The guides beside the code name what there is: arguments, checks, metrics, commands, variables, rooms."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from pathlib import Path

import click

import otel_storage
from otel_storage.cli import cli
from otel_storage.composite import OtelPipelineStorage
from otel_storage.metrics.families import FAMILIES
from otel_storage.ports.outbox import Outbox
from otel_storage.telemetry.spans.run_trace import CAPTURE_NAMES
from tests.test_architecture import MAY_IMPORT, WINGS_MAY_IMPORT

ROOT = Path(__file__).parents[1]
# The package may be installed, and a wheel has no guides: those of the tree are read.
PACKAGE = Path(next(iter(otel_storage.__path__)))
BESIDE_THE_CODE = ROOT / "otel_storage"
USER = (BESIDE_THE_CODE / "README.md").read_text()
ARCHITECTURE = (BESIDE_THE_CODE / "ARCHITECTURE.md").read_text()


def rows(text: str, first: str) -> dict[str, list[str]]:
    """The rows of the table whose first heading is ``first``, by the names in backquotes that begin each."""
    table = text.partition(f"\n| {first} |")[2].partition("\n\n")[0].splitlines()[2:]
    found = {}
    for line in table:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for name in re.findall(r"`([^`]+)`", cells[0]):
            found[name] = cells[1:]
    return found


def first_words(names: Iterable[str]) -> set[str]:
    """The names up to their first blank."""
    return {name.split(" ")[0] for name in names}


def test_every_argument_is_described() -> None:
    """Arguments of the storage, and a default that is a number, are those of the code."""
    described = rows(USER, "argument")
    parameters = dict(inspect.signature(OtelPipelineStorage).parameters)

    assert set(described) == set(parameters)
    for name, parameter in parameters.items():
        if type(parameter.default) is int:
            assert described[name][0].replace(" ", "") == str(parameter.default), name


def test_every_metric_is_described() -> None:
    """The table has each metric, with its attributes."""
    described = rows(USER, "metric")

    assert set(described) == {family.name for family in FAMILIES}
    for family in FAMILIES:
        assert set(re.findall(r"`((?:cicd|otel_storage|error)\.[^`]+)`", described[family.name][1])) == set(
            family.attributes
        )


def test_every_command_is_described() -> None:
    """The table has each command of the command line."""
    assert set(cli.list_commands(click.Context(cli))) <= first_words(rows(USER, "command"))


def test_every_check_is_described() -> None:
    """The table has each system check of the Django app, and no other."""
    sources = (PACKAGE / "contrib" / "django" / "checks").glob("*.py")
    ids = {name for source in sources for name in re.findall(r"otel_storage\.[EWI]\d{3}", source.read_text())}

    assert len(ids) > 10
    assert set(rows(USER, "check")) == ids


def test_every_name_of_capture_is_described() -> None:
    """The table has each name that ``capture`` takes."""
    assert {name.strip('"') for name in rows(USER, "name in `capture`")} == CAPTURE_NAMES


def test_every_room_and_wing_is_described() -> None:
    """The tables have each room of the package and each wing of ``sql``, and each change of an entry a method."""
    rooms = {name.removesuffix("/").removesuffix(".py") for name in rows(ARCHITECTURE, "room")}
    wings = {name.removeprefix("sql/").removesuffix("/").removesuffix(".py") for name in rows(ARCHITECTURE, "wing")}
    telemetry = {Path(name).stem for name in rows(ARCHITECTURE, "wing of `telemetry/`")}
    methods = set(re.findall(r"`(\w+)\(\)`", " ".join(cell for row in _changes() for cell in row)))

    # Not the package itself, nor its __main__.
    assert rooms == {room for room in MAY_IMPORT if room.isalpha()}
    assert wings == set(WINGS_MAY_IMPORT["sql"])
    assert telemetry == set(WINGS_MAY_IMPORT["telemetry"]) - {"semconv"}
    assert {"claim_runs", "settle", "release", "refuse", "expire"} <= methods
    assert all(hasattr(Outbox, name) for name in methods)


def _changes() -> list[list[str]]:
    table = ARCHITECTURE.partition("\n| change |")[2].partition("\n\n")[0].splitlines()[2:]
    return [line.split("|")[1:-1] for line in table]


def test_modules_that_are_named_exist() -> None:
    """Every path in backquotes in the architecture guide is one of the package or of the tree."""
    paths = re.findall(r"`((?:[\w.]+/)+[\w.]*)`", ARCHITECTURE)

    assert len(paths) > 40
    assert [path for path in paths if not any((folder / path).exists() for folder in (PACKAGE, ROOT))] == []
