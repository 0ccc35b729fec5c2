"""``otel-storage db``."""

from __future__ import annotations

import json
import sqlite3

from otel_storage.sql.database.schema import SCHEMA_VERSION
from tests.cli.conftest import Invoke


def test_upgrade_creates_the_schema(empty_database_url: str, invoke: Invoke) -> None:
    """``db upgrade`` makes the schema on each engine; a second time it changes nothing."""
    first = invoke("db", "upgrade", "--url", empty_database_url, "--json")
    assert first.exit_code == 0
    document = json.loads(first.stdout)
    assert (document["before"], document["after"]) == (None, SCHEMA_VERSION)
    again = json.loads(invoke("db", "upgrade", "--url", empty_database_url, "--json").stdout)
    assert (again["before"], again["after"]) == (SCHEMA_VERSION, SCHEMA_VERSION)


def test_current(empty_database_url: str, invoke: Invoke) -> None:
    """``db current`` prints the version alone; as JSON with the one that is expected."""
    invoke("db", "upgrade", "--url", empty_database_url)
    result = invoke("db", "current", "--url", empty_database_url)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{SCHEMA_VERSION}\n", "")
    document = json.loads(invoke("db", "current", "--url", empty_database_url, "--json").stdout)
    assert document.pop("url")
    assert document == {"current": SCHEMA_VERSION, "expected": SCHEMA_VERSION, "up_to_date": True}


def test_no_schema(empty_server_url: str, invoke: Invoke) -> None:
    """A server's database without our schema is refused by every command, naming the one that mends it."""
    current = invoke("db", "current", "--url", empty_server_url, "--json")
    assert current.exit_code == 1
    assert json.loads(current.stdout)["current"] is None
    for result in (current, invoke("runs", "--url", empty_server_url)):
        assert result.exit_code == 1
        assert "otel-storage db upgrade" in result.stderr
        assert result.stderr.count("\n") == 1


def test_newer_schema_is_not_touched(empty_sqlite_url: str, invoke: Invoke) -> None:
    """The schema of a newer version of the package is not upgraded, and not reported as good."""
    invoke("db", "upgrade", "--url", empty_sqlite_url)
    connection = sqlite3.connect(empty_sqlite_url.removeprefix("sqlite:///"))
    connection.execute("UPDATE otel_storage_schema_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    current = invoke("db", "current", "--url", empty_sqlite_url)
    assert (current.exit_code, current.stdout) == (1, "9999\n")
    upgrade = invoke("db", "upgrade", "--url", empty_sqlite_url)
    assert (upgrade.exit_code, upgrade.stdout) == (1, "")
    assert "9999" in upgrade.stderr


def test_words_go_to_stderr(empty_sqlite_url: str, invoke: Invoke) -> None:
    """What ``db upgrade`` says is no data."""
    result = invoke("db", "upgrade", "--url", empty_sqlite_url)
    assert result.stdout == ""
    assert f"is now at version {SCHEMA_VERSION}" in result.stderr


def test_group_alone_shows_its_help(invoke: Invoke) -> None:
    """Without a subcommand the usage is told."""
    result = invoke("db")
    assert result.exit_code == 2
    assert "upgrade" in result.stderr
