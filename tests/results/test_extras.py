"""What errors say of extras: names that exist, and a command that works."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import otel_storage
from otel_storage.results.extras import to_install

ROOT = Path(__file__).parents[2]


def test_words() -> None:
    """The words name the extra and the command of a checkout."""
    assert to_install("mysql") == "install the extra 'mysql' (in a checkout of otel-storage: pip install '.[mysql]')"


def test_extras_exist() -> None:
    """Every extra that an error names exists, and no error names a package index: the package is on none."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    # The package may be installed, and lie elsewhere than the tree of the tests.
    package = Path(next(iter(otel_storage.__path__)))
    sources = "\n".join(path.read_text() for path in sorted(package.rglob("*.py")))

    named = set(re.findall(r"to_install\(['\"](\w+)['\"]\)", sources))

    assert {"django", "prometheus", "test"} <= named
    assert named <= set(extras)
    assert not re.search(r"pip install[^\n]* '?otel-storage", sources)
