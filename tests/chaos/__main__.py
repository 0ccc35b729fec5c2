"""``python -m tests.chaos``: one storm, its figures, and what is wrong."""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tests.chaos import evidence
from tests.chaos.databases import NO_SERVER, NoServer, open_database
from tests.chaos.mutations import MUTATIONS
from tests.chaos.storm import Outcome, Storm, blow


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True)
@click.option("--seed", type=int, help="Of all that goes wrong; another one each time if none is given.")
@click.option(
    "--url",
    default="sqlite",
    show_default=True,
    help="sqlite for a file; postgresql or mariadb for a server of its own, which is restarted too; else a SQLAlchemy "
    "URL of a server's database, whose user may create others.",
)
@click.option("--stop-server", metavar="COMMAND", help="Stops the server of --url as if it had crashed.")
@click.option("--start-server", metavar="COMMAND", help="Starts it again, and waits until it answers.")
@click.option("--kills", type=float, default=Storm.kills, show_default=True, help="Processes killed a second.")
@click.option("--writers", type=int, default=Storm.writers, show_default=True)
@click.option("--senders", type=int, default=Storm.senders, show_default=True)
@click.option("--redis", default="", metavar="URL", help="A broker, so that Celery runs pipelines too.")
@click.option("--mutate", type=click.Choice(sorted(MUTATIONS)), help="Break the mechanism: the suite must fail.")
@click.option("--keep", is_flag=True, help="Keep what the processes wrote down, as is done if something is wrong.")
@click.option("--record", is_flag=True, help="Write the figures to recorded.json and to the table of tests/README.md.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    minutes: float,
    seed: int | None,
    url: str,
    stop_server: str | None,
    start_server: str | None,
    kills: float,
    writers: int,
    senders: int,
    redis: str,
    mutate: str | None,
    keep: bool,
    record: bool,
    as_json: bool,
) -> None:
    """Kill writers and senders, take the receiver and the database away, and see that nothing was lost.

    Exits 1 if something is wrong, 3 if the server of --url is not installed.
    """
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    click.echo(f"replay with: {replay(seed)}", err=True)
    storm = Storm(seed, minutes * 60, kills=kills, writers=writers, senders=senders, redis=redis, mutation=mutate or "")
    folder = Path(tempfile.mkdtemp(prefix="otel-storage-chaos-"))
    is_wrong = True
    try:
        with open_database(url, folder, stop=stop_server, start=start_server) as database:
            outcome = blow(storm, database, folder)
        is_wrong = bool(outcome.problems)
    except NoServer as error:
        click.echo(str(error), err=True)
        raise SystemExit(NO_SERVER) from error
    finally:
        if keep or (is_wrong and not mutate):
            click.echo(f"what the processes wrote down is in {folder}", err=True)
        else:
            shutil.rmtree(folder)
    if record:
        evidence.record(figures(outcome), has_celery=bool(redis))
    if as_json:
        click.echo(json.dumps(figures(outcome) | {"problems": outcome.problems}))
    else:
        table = Table("", "", show_header=False)
        for name, figure in figures(outcome).items():
            table.add_row(name, f"{figure:,}" if isinstance(figure, int) else str(figure))
        Console(width=100).print(table)
    for problem in outcome.problems:
        click.echo(f"WRONG: {problem}", err=True)
    if outcome.problems:
        click.echo(f"replay with: {replay(seed)}", err=True)
        raise SystemExit(1)


def replay(seed: int) -> str:
    """The command that makes the same plan again; passwords are not repeated."""
    arguments = [re.sub(r"(://[^:/@]*):[^@/]+@", r"\1:***@", argument) for argument in sys.argv[1:]]
    if not any(argument.startswith("--seed") for argument in arguments):
        arguments += ["--seed", str(seed)]
    return shlex.join(["python", "-m", "tests.chaos", *arguments])


def figures(outcome: Outcome) -> dict[str, str | int | float]:
    """What the table shows, by name."""
    findings = outcome.findings
    return {
        "seed": str(outcome.storm.seed),
        "engine": outcome.engine,
        "mutation": outcome.storm.mutation or "none",
        "minutes": f"{outcome.storm.seconds / 60:.2g}",
        "kills": sum(outcome.kills.values()),
        "killed": _listed(outcome.kills),
        "requests that went wrong": sum(outcome.faults.values()),
        "how": _listed(outcome.faults),
        "outages of the receiver": outcome.outages,
        "restarts of the database": outcome.restarts,
        "runs": outcome.runs,
        "left open, and closed": outcome.closed,
        "spans expected": findings.expected,
        "received": findings.received,
        "duplicates": findings.duplicates,
        "lost": len(findings.lost),
        "invented": len(findings.invented),
        "with changed bytes": len(findings.changed),
        "out of place": len(findings.misplaced),
        "later than their run": findings.late,
        "two winners": len(findings.two_winners),
        "drain time": f"{outcome.drain:.1f} s",
    }


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items()) if number)


if __name__ == "__main__":
    main()
