"""The files are what their source makes of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from grafana import build

FILES = build.files()


@pytest.mark.parametrize("name", FILES)
def test_is_up_to_date(name: str) -> None:
    """The file is what ``python -m grafana.build`` writes."""
    assert (build.ROOT / name).read_text() == FILES[name], "run: python -m grafana.build"


def test_nothing_else_is_generated() -> None:
    """A dashboard or a file of provisioning that nothing makes would go stale."""
    folders = [build.ROOT / "grafana" / name for name in ("dashboards", "provisioning")]
    there = {str(path.relative_to(build.ROOT)) for folder in folders for path in folder.rglob("*") if path.is_file()}

    assert there == {name for name in FILES if name.startswith("grafana/")}


def test_build_writes_and_check_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The build writes every file; the check is content then, and names a file that was changed by hand."""
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["build"])
    assert build.main() == 0
    assert capsys.readouterr().out.split() == list(FILES)

    monkeypatch.setattr(sys, "argv", ["build", "--check"])
    assert (build.main(), capsys.readouterr().out) == (0, "")
    (tmp_path / "collector/prometheus/rules.yml").write_text("groups: []\n")
    assert (build.main(), capsys.readouterr().out) == (1, "collector/prometheus/rules.yml\n")
