"""Which tests a plain ``pytest`` runs, and what it says of those that it skips."""

from __future__ import annotations

import re

import pytest

from tests.processes import run_pytest

pytestmark = pytest.mark.slow

FILES = {
    "benchmark": "tests/benchmarks/test_guard.py",
    "composite": "tests/test_composite_conformance.py",
    "long": "tests/stack/test_outage.py",
    "slow": "tests/limits/test_exit.py",
    "stack": "tests/stack/test_traces.py",
}
"""For each marker that is left out, a file all of whose tests have it."""

WITHOUT_SERVERS = {
    "OTEL_STORAGE_TEST_POSTGRESQL_URL": "",
    "OTEL_STORAGE_TEST_MARIADB_URL": "",
    "OTEL_STORAGE_REQUIRE_SERVICES": "",
}


def selected(*arguments: str) -> list[str]:
    """The tests that a run with the arguments would have, by their ids."""
    process = run_pytest("--collect-only", "-q", *arguments)
    # 5 says that there is none.
    assert process.returncode in (0, 5), process.stdout
    return [line for line in process.stdout.splitlines() if "::" in line]


def test_what_takes_long_is_left_out() -> None:
    """Slow tests, those of real programs and of benchmarks, and repeated rules run where they are asked for alone."""
    others = "tests/test_architecture.py"

    assert {test.partition("::")[0] for test in selected(*FILES.values(), others)} == {others}


def test_a_marker_selects_what_is_left_out() -> None:
    """``-m`` on the command line takes the place of the selection in pyproject.toml."""
    found = selected("-m", " or ".join(FILES), *FILES.values())

    assert {test.partition("::")[0] for test in found} == set(FILES.values())


def test_reasons_of_skips_are_one_line() -> None:
    """A run says in one line how many tests were skipped and why, however many they are."""
    process = run_pytest("tests/sql/test_schemas.py", **WITHOUT_SERVERS)
    about_skips = re.findall(r"^.*(?:SKIPPED|skipped:|OTEL_STORAGE_TEST).*$", process.stdout, re.M)

    assert process.returncode == 0, process.stdout
    assert about_skips == ["4 skipped: no PostgreSQL (2), no MariaDB (2)"]
