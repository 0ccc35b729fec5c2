"""``otel-storage --version``: the version and, where something names it, the commit."""

from __future__ import annotations

import json
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from otel_storage.cli import version
from tests.cli.conftest import Invoke

COMMIT = "3608ba1f00d5c0ffee3608ba1f00d5c0ffee3608"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The folder of an empty package of our name, in a folder of its own."""
    folder = tmp_path / "tree" / "otel_storage"
    folder.mkdir(parents=True)
    return folder


def installed(package: Path, origin: str | None) -> metadata.Distribution:
    """A distribution installed beside the package, from the origin that pip wrote down."""
    info = package.parent / "otel_storage-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: otel-storage\nVersion: 0.1.0\n")
    if origin is not None:
        (info / "direct_url.json").write_text(origin)
    return metadata.PathDistribution(info)


def git(folder: Path, *words: str) -> str:
    """Call git, as a person does who has no settings."""
    named = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=trunk"]
    done = subprocess.run(["git", *named, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_version_names_the_commit(invoke: Invoke, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version is the distribution's, and the commit that of the checkout whose code runs."""
    monkeypatch.setattr(version, "__file__", str(package / "cli" / "version.py"))
    head = package.parent / ".git" / "HEAD"
    head.parent.mkdir()
    head.write_text(f"{COMMIT}\n")
    monkeypatch.setattr(metadata, "distribution", lambda _name: installed(package, None))

    result = invoke("--version")

    assert (result.exit_code, result.stdout) == (0, "otel-storage, version 0.1.0, commit 3608ba1f00d5\n")


def test_version_without_a_distribution(invoke: Invoke, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree that is neither installed nor a checkout has a version of which nothing is known: that is no error."""
    monkeypatch.setattr(version, "__file__", str(package / "cli" / "version.py"))
    monkeypatch.setattr(version, "_DISTRIBUTION", "otel-storage-that-nobody-installed")

    result = invoke("--version")

    assert (result.exit_code, result.stdout) == (0, "otel-storage, version unknown\n")


def test_commit_of_a_checkout(package: Path, tmp_path: Path) -> None:
    """The commit that git made is read without git: on a branch, packed, detached and in a linked worktree."""
    tree = package.parent
    git(tree, "init")
    assert version.commit_of(package, None) == ""  # a branch without a commit
    git(tree, "commit", "--allow-empty", "-m", "First")
    first = git(tree, "rev-parse", "HEAD")
    assert version.commit_of(package, None) == first

    git(tree, "pack-refs", "--all")
    assert not (tree / ".git" / "refs" / "heads" / "trunk").exists()
    assert version.commit_of(package, None) == first

    git(tree, "worktree", "add", "-b", "work/other", str(tmp_path / "linked"))
    linked = tmp_path / "linked" / "otel_storage"
    linked.mkdir()
    git(linked, "commit", "--allow-empty", "-m", "Second")
    second = git(linked, "rev-parse", "HEAD")
    assert second != first
    assert version.commit_of(linked, None) == second
    assert version.commit_of(package, None) == first

    git(tree, "checkout", "--detach", second)
    assert version.commit_of(package, None) == second


def test_commit_of_an_installation(package: Path) -> None:
    """What pip installed from a repository has the commit that pip wrote down."""
    origin = {"url": "https://git.example.com/otel", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}
    assert version.commit_of(package, installed(package, json.dumps(origin))) == COMMIT


def test_commit_of_another_copy(package: Path, tmp_path: Path) -> None:
    """A distribution says nothing of code that is not its own."""
    other = tmp_path / "other" / "otel_storage"
    other.mkdir(parents=True)
    origin = {"url": "https://git.example.com/otel", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}
    assert version.commit_of(other, installed(package, json.dumps(origin))) == ""


@pytest.mark.parametrize("origin", [None, "", "{}", "[]", "no JSON", '{"vcs_info": 3}', '{"dir_info": {}}'])
def test_origins_without_a_commit(origin: str | None, package: Path) -> None:
    """An installation that names no commit has none, whatever its file holds."""
    assert version.commit_of(package, installed(package, origin)) == ""


@pytest.mark.parametrize("head", ["", "ref: refs/heads/.invalid", "ref: ../../elsewhere", "no commit", "\x00"])
def test_heads_without_a_commit(head: str, package: Path) -> None:
    """A HEAD that cannot be followed names no commit; reftables have such a one."""
    (package.parent / ".git").mkdir()
    (package.parent / ".git" / "HEAD").write_text(head)
    (package.parent / "elsewhere").write_text("a secret of another file")
    assert version.commit_of(package, None) == ""


def test_broken_worktree(package: Path) -> None:
    """A worktree whose repository is gone has no commit."""
    (package.parent / ".git").write_text("gitdir: /nowhere/at/all\n")
    assert version.commit_of(package, None) == ""
