"""``otel-storage --version``: the version, and the commit where the installation or the checkout names it."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

_DISTRIBUTION = "otel-storage"
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", re.ASCII)
_SHOWN = 12
"""Digits of the commit id that are printed."""


def version_line() -> str:
    """What ``--version`` prints: ``otel-storage, version 0.1.0, commit 3608ba1a2b3c``; without what is unknown."""
    package = Path(__file__).parents[1]
    try:
        distribution = metadata.distribution(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        # The package is used from its tree, without being installed.
        distribution = None
    version = "unknown" if distribution is None else distribution.version
    commit = commit_of(package, distribution)
    return f"otel-storage, version {version}{f', commit {commit[:_SHOWN]}' if commit else ''}"


def commit_of(package: Path, distribution: metadata.Distribution | None) -> str:
    """The id of the commit that the package's code is from; empty if nothing names it.

    A checkout's commit is the one of its HEAD: changes that are not committed are not seen. A copy that pip made of a
    local folder has no commit, as the folder may have moved on since.

    Args:
        package: The folder of the package that runs.
        distribution: The installed distribution, which may be another copy than the one that runs; None if there is
            none.
    """
    try:
        if (package.parent / ".git").exists():
            return _head(package.parent / ".git")
        if distribution is None or Path(str(distribution.locate_file(package.name))).resolve() != package.resolve():
            return ""
        # https://packaging.python.org/en/latest/specifications/direct-url/
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        return _checked(str(origin.get("vcs_info", {}).get("commit_id", "")))
    except (OSError, ValueError, AttributeError):
        # The commit is a courtesy: a file that cannot be read, or is of another form, must not cost the version.
        return ""


def _head(git: Path) -> str:
    """The commit of the checkout's HEAD; see https://git-scm.com/docs/gitrepository-layout."""
    if git.is_file():
        # A linked worktree's, or a submodule's: "gitdir: PATH".
        git = git.parent / git.read_text().removeprefix("gitdir:").strip()
    head = (git / "HEAD").read_text().strip()
    if not head.startswith("ref:"):
        return _checked(head)
    name = head.removeprefix("ref:").strip()
    common = git / "commondir"
    shared = git / common.read_text().strip() if common.is_file() else git
    if (loose := shared / name).is_file():
        return _checked(loose.read_text())
    if (packed := shared / "packed-refs").is_file():
        for line in packed.read_text().splitlines():
            commit, _, of = line.partition(" ")
            if of == name:
                return _checked(commit)
    return ""


def _checked(commit: str) -> str:
    """The id, if it is one."""
    commit = commit.strip()
    return commit if _COMMIT.fullmatch(commit) else ""
