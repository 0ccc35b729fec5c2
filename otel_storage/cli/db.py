"""``otel-storage db``: the version of the database's schema."""

from __future__ import annotations

import click

from otel_storage.cli.options import json_option, open_records, url_option
from otel_storage.cli.output import Output


@click.group()
def db() -> None:
    """Look at the database's schema, or bring it up to this version."""


@db.command()
@url_option
@json_option
def current(url: str | None, as_json: bool) -> None:
    """Print the version of the database's schema.

    Exits 1 if it is not the one that this version of the package works with.

    \b
    JSON keys: url, current (null: there is no schema), expected, up_to_date.
    """
    from otel_storage.sql.database.schema import SCHEMA_VERSION

    output = Output(as_json)
    with open_records(url) as records:
        version = records.current()
        is_current = version == SCHEMA_VERSION
        if as_json:
            output.document(
                {"url": records.url, "current": version, "expected": SCHEMA_VERSION, "up_to_date": is_current}
            )
        else:
            output.out.print(version or "none")
        if not is_current:
            from otel_storage.sql.database import migrate

            migrate.check(version, records.url)


@db.command()
@url_option
@json_option
def upgrade(url: str | None, as_json: bool) -> None:
    """Create the database's schema, or bring it up to this version.

    \b
    JSON keys: url, before (null: there was no schema), after.
    """
    output = Output(as_json)
    with open_records(url, may_create=True) as records:
        before = records.current()
        records.upgrade()
        after = records.current()
        if as_json:
            output.document({"url": records.url, "before": before, "after": after})
            return
        done = "is at version" if before == after else "is now at version"
        output.say(f"The schema of {records.url} {done} {after}.")
