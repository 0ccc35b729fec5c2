"""What the documents say: commands that work, links that lead somewhere, figures that were measured."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from otel_storage.cli import cli
from otel_storage.results import config, host
from otel_storage.sql.database import migrate
from otel_storage.testing.receiver import OtlpReceiver
from tests import picture
from tests.benchmarks import reporting
from tests.chaos import evidence
from tests.processes import ROOT

README = ROOT / "README.md"
LONGEST = 160
"""Lines of README.md: a newcomer reads it in five minutes."""


def documents() -> list[Path]:
    """Every Markdown file of the tree."""
    folders = (path for path in ROOT.iterdir() if path.is_dir() and (path.name[0] != "." or path.name == ".github"))
    return sorted([*ROOT.glob("*.md"), *(path for folder in folders for path in folder.rglob("*.md"))])


DOCUMENTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in documents()}


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a document that are in the language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENTS[name], re.MULTILINE | re.DOTALL)


def console(name: str) -> list[str]:
    """The commands in the console blocks of a document."""
    lines = [line for block in blocks(name, "console") for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def commands(name: str) -> list[str]:
    """Every command of a document: those of console blocks, and those in the middle of a sentence."""
    return [*console(name), *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", DOCUMENTS[name], flags=re.DOTALL))]


def prose(name: str) -> str:
    """A document without its code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", DOCUMENTS[name], flags=re.DOTALL))


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The ``otel-storage`` command that the words begin with, and the words after its name.

    Raises:
        click.UsageError: there is no such command.
    """
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith(("-", "[")):
        _, found, words = command.resolve_command(click.Context(command), words)
        assert found is not None
        command = found
    return command, words


def is_known(words: list[str]) -> bool:
    """Whether there is such an ``otel-storage`` command with such options, whatever stands for their values."""
    try:
        command, rest = resolve(words)
    except click.UsageError:
        return False
    options = set(re.findall(r"--[a-z][a-z-]*", " ".join(rest)))
    return options <= {"--help", *(option for parameter in command.params for option in parameter.opts)}


def test_readme_is_short() -> None:
    """README.md stays what a newcomer reads in five minutes."""
    assert len(DOCUMENTS["README.md"].splitlines()) <= LONGEST


@pytest.mark.parametrize("name", DOCUMENTS)
def test_tables_have_headers(name: str) -> None:
    """No column of a table is without a name."""
    lines = DOCUMENTS[name].splitlines()
    headers = [line for line, below in pairwise(lines) if below.startswith("|-") and set(below) <= set("|-: ")]
    assert [line for line in headers if not all(cell.strip() for cell in line.strip()[1:-1].split("|"))] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    """A relative link names a file or folder of the tree, and a section of it where it has one."""
    missing = []
    for target in re.findall(r"\]\(([^()\s]+)\)", prose(name)):
        if "://" in target:
            continue
        path, _, section = target.partition("#")
        found = (ROOT / name).parent / path if path else ROOT / name
        if not found.exists() or (section and section not in sections(found.read_text(encoding="utf-8"))):
            missing.append(target)
    assert missing == []


def sections(text: str) -> set[str]:
    """The anchors that a viewer makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_package_index_is_named(name: str) -> None:
    """The package is on no index: whoever installs it has a checkout. Other packages have repositories."""
    assert re.findall(r"pip install '?otel-storage.*|.*pypi\.org.*", DOCUMENTS[name]) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_exist(name: str) -> None:
    """Each ``otel-storage`` command, its options and each ``python -m`` module that a document names is there."""
    wrong = []
    for found in commands(name):
        words = found.split()
        if words[0] == "otel-storage" and len(words) > 1:
            wrong += [] if is_known(words[1:]) else [found]
        elif words[:2] == ["python", "-m"] and words[2].partition(".")[0] in ("tests", "grafana", "otel_storage"):
            wrong += [] if find_spec(words[2]) else [found]
    assert wrong == []


def project() -> dict[str, Any]:
    """The package's own metadata."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def test_changelog_has_the_version_and_its_migrations() -> None:
    """The version of the package has a section, and every migration since 0.1.0 a row of the upgrade guide."""
    changelog = DOCUMENTS["otel_storage/CHANGELOG.md"]
    assert re.search(rf"^## {re.escape(project()['version'])} - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE)
    numbers = [int(number) for number in re.findall(r"^ +\| (\d+) \|", changelog, re.MULTILINE)]
    assert numbers == sorted(int(version) for version in migrate.known_versions())[1:]


def test_hooks_and_workflow_run_what_is_installed() -> None:
    """A hook runs a program of the extra ``test``, and the workflow nothing but ``.ci/run``."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    installed = {re.split("[^a-z]", name)[0] for name in project()["optional-dependencies"]["test"]}
    assert {hook["entry"].split()[0] for hook in hooks} == {"ruff", "mypy"} <= installed
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.slow
@pytest.mark.skipif(not host.is_installed(), reason="the demo needs django-pipelines")
def test_readme_can_be_followed(tmp_path: Path) -> None:
    """Each command of README.md, in its order and in one folder; a real receiver stands where the collector would.

    What installs, and what stays until Ctrl-C or needs a server, is only looked at: its words, options and files.
    """
    ran = []
    with OtlpReceiver() as receiver:
        for line in console("README.md"):
            match shlex.split(line):
                case ["pip", "install", requirement]:
                    assert set(re.findall(r"[a-z]+", requirement)) <= set(project()["optional-dependencies"]), (
                        requirement
                    )
                case ["docker", "compose", "-f", file, "up", "-d"]:
                    assert (ROOT / file).is_file()
                case ["otel-storage", *arguments] if "--watch" in arguments or "--url" in arguments:
                    command, rest = resolve(arguments)
                    command.make_context(command.name, rest)
                case ["otel-storage", *arguments]:
                    # The demo is run without a collector, as README.md says: its spans are left to `deliver`.
                    endpoint = "http://127.0.0.1:9" if arguments == ["demo"] else receiver.endpoint
                    ran.append(run([sys.executable, "-m", "otel_storage.cli", *arguments], tmp_path, endpoint))
                case ["python", script, "demo"]:
                    site = {"SHOP_DATA_DIR": str(tmp_path)}
                    ran.append(run([sys.executable, script, "demo", "--no-serve"], ROOT, receiver.endpoint, **site))
                case _:
                    pytest.fail(f"README.md has a command that no test knows: {line}")
        assert any(span.name == "RUN demo.MonthlyInvoices" for spans in receiver.traces().values() for span in spans)
    assert len(ran) >= 4
    assert all(ran)


def run(command: list[str], folder: Path, endpoint: str, **environment: str) -> str:
    """What a command prints that must succeed."""
    pythonpath = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    process = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": pythonpath, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, f"{command}: {process.stdout}{process.stderr}"
    return process.stdout


def test_settings_of_readme_are_accepted() -> None:
    """Each setting of README.md names a storage, and arguments that the storage takes."""
    found = 0
    for block in blocks("README.md", "python"):
        names: dict[str, Any] = {}
        exec(block, names)  # noqa: S102 - the blocks of our own README.md
        cls, arguments = config.storage_class(names[config.SETTING])
        inspect.signature(cls).bind(**arguments)
        found += 1
    assert found == 2


def cited() -> list[tuple[str, str, str]]:
    """Each figure that a document cites, as ``FIGURE<!-- row -->``: the document, the figure, the row."""
    return [
        (name, figure, row)
        for name in DOCUMENTS
        for figure, row in re.findall(r"(\d[\d,. ]*)<!-- ([^<>;]+; [^<>]+) -->", prose(name))
    ]


def figures() -> dict[str, str]:
    """By row, every figure that may be cited, as it is printed."""
    measured = reporting.from_json(json.loads(reporting.MEASURED.read_text()))
    return {
        f"{figure.work}; {reporting.engine_name(figure.engine)}; {figure.name}": reporting.number(figure.value)
        for one in measured
        for figure in one.figures
    } | {f"storms; {name}": f"{total:,}" for name, total in storms().items()}


def storms() -> dict[str, int]:
    """The figures of the recorded storms, each summed over its engines."""
    engines = evidence.load().values()
    return {
        title: sum(figures[name] for figures in engines)
        for name, title in evidence.ROWS.items()
        if all(isinstance(figures[name], int) for figures in engines)
    }


def test_the_table_of_storms_is_what_was_recorded() -> None:
    """``python -m tests.chaos --record`` wrote the table: on each engine nothing is lost, invented or changed."""
    recorded = evidence.load()

    assert evidence.table(recorded) in DOCUMENTS["tests/README.md"]
    assert set(recorded) == set(evidence.ENGINES)
    for figures in recorded.values():
        assert (figures["lost"], figures["invented"], figures["with changed bytes"]) == (0, 0, 0)
        assert figures["kills"] > 200


def test_figures_are_those_measured() -> None:
    """Every citation has the value of its row in ``measured.json``, or the sum of its row in the recorded storms."""
    known = figures()
    assert [(name, figure, row) for name, figure, row in cited() if known.get(row) != figure] == []
    assert "README.md" in {name for name, *_ in cited()}
    assert {"kills", "spans", "lost"} <= storms().keys()


@pytest.mark.slow
@pytest.mark.skipif(not host.is_installed(), reason="the demo needs django-pipelines")
def test_picture_is_what_show_prints() -> None:
    """The picture has the lines of today's command: ``python -m tests.picture`` draws it anew."""
    there = picture.words(picture.PICTURE.read_text(encoding="utf-8"))
    assert len(there) > 10
    assert there == picture.words(picture.drawn(picture.printed()))
