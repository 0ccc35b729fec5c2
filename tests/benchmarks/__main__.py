"""``python -m tests.benchmarks``: run all benchmarks, print what they found beside the targets, write it as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tests.benchmarks import guard, reporting
from tests.benchmarks.figures import Scale
from tests.benchmarks.running import benchmarks, run


@click.command()
@click.option("--postgresql", "url", envvar="OTEL_STORAGE_TEST_POSTGRESQL_URL", help="Also on this PostgreSQL.")
@click.option("--only", multiple=True, metavar="BENCHMARK", help="Only this one; may be given more than once.")
@click.option("--scale", "factor", default=1.0, show_default=True, help="What the sizes are multiplied by.")
@click.option("--repeat", default=5, show_default=True, help="How often each is run; the median counts.")
@click.option(
    "--json",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"Where the figures are written; {reporting.MEASURED.name} beside this, at the full scale.",
)
@click.option("--readme", is_flag=True, help="Measure nothing: put the table of the JSON into README.md beside it.")
@click.option("--record", is_flag=True, help="Measure at the guard's scale, and record what it compares with.")
def main(
    url: str | None, only: tuple[str, ...], factor: float, repeat: int, path: Path | None, readme: bool, record: bool
) -> None:
    """Measure, and print each figure beside its target.

    The user of the PostgreSQL must be one that may create databases; the benchmarks remove theirs.
    """
    if readme:
        document = json.loads((path or reporting.MEASURED).read_text())
        reporting.write_readme(document["machine"], reporting.from_json(document))
        return
    names = benchmarks()
    if unknown := set(only) - set(names):
        raise click.BadParameter(
            f"there is no {', '.join(sorted(unknown))}, but {', '.join(names)}", param_hint="--only"
        )
    names = [name for name in names if not only or name in only]
    urls = [None, url] if url else [None]
    if record:
        for line in guard.record(names, urls):
            click.echo(line)
        return
    measured = []
    for one in run(names, urls, Scale(repeat, factor)):
        click.echo(f"{one.benchmark} ({one.engine}): {len(one.figures)} figures", err=True)
        measured.append(one)
    machine = reporting.machine(urls)
    if path is not None or factor == 1.0:
        reporting.write(path or reporting.MEASURED, machine, measured)
    reporting.print_table(machine, measured)


if __name__ == "__main__":
    main()
