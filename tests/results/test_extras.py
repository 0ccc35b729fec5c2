"""What errors say of extras: names that exist, and a command that works."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from otel_storage.results.extras import to_install

ROOT = Path(__file__).parents[2]


def test_words() -> None:
    """The words name the extra and the command of a checkout."""
    assert to_install("mysql") == "install the extra 'mysql' (in a checkout of otel-storage: pip install '.[mysql]')"


def test_extras_exist() -> None:
    """Every extra that an error names exists, and no error names a package index: the package is on none."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sources = "\n".join(path.read_text() for path in sorted((ROOT / "otel_storage").rglob("*.py")))

    named = set(re.findall(r"to_install\(['\"](\w+)['\"]\)", sources))

    assert {"django", "prometheus", "test"} <= named
    assert named <= set(extras)
    assert not re.search(r"pip install[^\n]* '?otel-storage", sources)
