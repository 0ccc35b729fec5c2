"""``otel-storage reap``: find records that are RUNNING though their process is gone, and close them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from otel_storage.cli import tables, text
from otel_storage.cli.options import given_options, json_option, open_storage, parse_moment, url_option
from otel_storage.cli.output import Output
from otel_storage.cli.tables import Column
from otel_storage.privacy.lines import one_line
from otel_storage.results import clock, host
from otel_storage.results.exceptions import ConfigurationError

if TYPE_CHECKING:
    from otel_storage.results.base import PipelineStorage
    from otel_storage.results.protocols import Reporter
    from otel_storage.sql.storage import SqlPipelineStorage
    from otel_storage.sql.upkeep.closing import Closing, Outcome
    from otel_storage.sql.upkeep.reaping import DeadRecord


_MEASURED = 100
"""How many lines of a table are read before the first is printed, to see how wide its columns are."""


@click.command()
@click.option("--yes", is_flag=True, help="Close them; without it they are listed alone.")
@click.option(
    "--older-than",
    metavar="AGE",
    callback=parse_moment,
    help="With --force: what is RUNNING since before: 30m, 12h, 7d, or an ISO date or time.",
)
@click.option(
    "--force", is_flag=True, help="With --older-than: go by age alone, on any host, whether or not a process lives."
)
@url_option
@json_option
def reap(yes: bool, older_than: datetime | None, force: bool, url: str | None, as_json: bool) -> None:
    """Close records that are RUNNING though their process is gone.

    A process that is killed leaves its records RUNNING for ever, and the run without its root span. This lists task
    results of processes of this host that are gone, and runs of the eager runner that nothing goes on with; with --yes
    it closes them as RUNTIME_ERROR, and what is above them, as their own failure would have. One that becomes final
    meanwhile is left alone. Of a storage that is wrapped the record itself is closed, where it is configured; its
    site's reporter is told, unless --url names the database.

    A process is known by host name, id and start. So this cannot know of other hosts, nor of containers that have a
    host name in common but not their processes: call it where the workers are. Nor can it know that Celery has
    delivered a lost task to another worker, which runs it again: the record still names the first. Other runners' runs
    that stopped between two tasks, and whatever else has no process to ask for, are found by their age:

    --older-than AGE --force takes for dead, instead, what is RUNNING for longer in a run in which nothing has changed
    for as long.

    Exits 1 if something is found and not closed.

    \b
    JSON keys: records (kind, id, run_id, pipeline_id, pipeline_task or null,
    started, worker: host, pid, started; or null, reason, outcome: found;
    with --yes closed, final (meanwhile), removed (a copy whose run is gone)
    or failed, error or null); closed (how many records, by kind, those above
    them too), left (how many of the list are still open), reporter_error.
    """
    if force != (older_than is not None):
        raise click.UsageError("--older-than and --force go together: they close what may be alive")
    from otel_storage.sql.upkeep.closing import Closing
    from otel_storage.sql.upkeep.reaping import find_dead

    output = Output(as_json)
    with open_storage(url) as (storage, records):
        reporter = None if url is not None or not yes else _site_reporter()
        closing = Closing(records, _originals(storage, records), reporter)
        tally = _Tally()
        found = _found(find_dead(records.database, older_than), closing if yes else None, tally)
        if as_json:
            output.listing("records", map(_as_json, found), lambda: tally.as_json(closing))
        else:
            output.lines(_table(found, output, on_hosts=force, with_outcomes=yes))
            _summarise(output, tally, closing if yes else None, by_age=force)
    if tally.left:
        click.get_current_context().exit(1)


@dataclass(frozen=True, slots=True)
class _Found:
    """A dead record, and what became of it; None: nothing yet."""

    record: DeadRecord
    outcome: Outcome | None

    @property
    def word(self) -> str:
        return "found" if self.outcome is None else self.outcome.name


@dataclass(slots=True)
class _Tally:
    """How many records came to which outcome."""

    outcomes: Counter[str] = field(default_factory=Counter)
    errors: dict[str, None] = field(default_factory=dict)
    """Why records could not be closed, each cause once."""

    @property
    def left(self) -> int:
        return self.outcomes["found"] + self.outcomes["failed"]

    def add(self, found: _Found) -> None:
        self.outcomes[found.word] += 1
        if found.outcome is not None and found.outcome.error and len(self.errors) < _MOST_CAUSES:
            self.errors[one_line(found.outcome.error)] = None

    def as_json(self, closing: Closing) -> dict[str, Any]:
        return {"closed": dict(closing.closed), "left": self.left, "reporter_error": closing.reporter_error or None}


_MOST_CAUSES = 10


def _found(dead: Iterable[DeadRecord], closing: Closing | None, tally: _Tally) -> Iterator[_Found]:
    for record in dead:
        found = _Found(record, None if closing is None else closing.close(record))
        tally.add(found)
        yield found


def _originals(storage: PipelineStorage, records: SqlPipelineStorage) -> PipelineStorage | None:
    """The storage that copies in our tables are copies from; None if it is not configured."""
    return None if getattr(storage, "storage", records) is records else storage


def _site_reporter() -> Reporter | None:
    """The reporter that the site is configured with; None without a site.

    Raises:
        ConfigurationError: it cannot be made.
    """
    if not (host.is_installed() and host.django_is_configured()):
        return None
    try:
        reporter: Reporter = host.load("config").Config().PIPELINES_DEFAULT_PIPELINE_REPORTER
    except Exception as error:
        raise ConfigurationError(
            f"PIPELINES_PIPELINE_REPORTER: the reporter cannot be made: {type(error).__name__}: {error}"
        ) from error
    return reporter


def _as_json(found: _Found) -> dict[str, Any]:
    record, worker = found.record, found.record.worker
    return {
        "kind": record.kind,
        "id": record.record_id,
        "run_id": record.run_id,
        "pipeline_id": record.pipeline_id,
        "pipeline_task": record.pipeline_task,
        "started": text.iso(record.started),
        "worker": None
        if worker is None
        else {"host": worker.host, "pid": worker.pid, "started": text.iso(worker.started)},
        "reason": record.reason,
        "outcome": found.word,
        "error": (found.outcome.error if found.outcome is not None else "") or None,
    }


def _table(found: Iterator[_Found], output: Output, *, on_hosts: bool, with_outcomes: bool) -> Iterator[Text]:
    """Record, run, name, age and process, as wide as the terminal lets them be, a line as each is found."""
    now = clock.now()

    def cells(each: _Found) -> Sequence[str]:
        record, worker = each.record, each.record.worker
        process = "" if worker is None else f"{worker.pid} on {worker.host}" if on_hosts else str(worker.pid)
        shown = (
            f"{record.kind} {record.record_id}",
            one_line(record.run_id),
            one_line(record.pipeline_task or record.pipeline_id),
            text.duration(max(now - record.started, now - now)),
            one_line(process),
        )
        return (*shown, each.word) if with_outcomes else shown

    columns = _COLUMNS if with_outcomes else _COLUMNS[:-1]
    return tables.lines(columns, map(cells, found), output.width, output.glyphs.ellipsis, _MEASURED)


_COLUMNS = (
    Column(heading="RECORD", shrinks=4, least=10),
    Column(heading="RUN", shrinks=1, least=8),
    Column(heading="NAME", shrinks=2, least=8),
    Column(heading="RUNNING"),
    Column(heading="PROCESS", shrinks=3, least=7),
    Column(heading="OUTCOME"),
)


def _summarise(output: Output, tally: _Tally, closing: Closing | None, *, by_age: bool) -> None:
    from otel_storage.runtime.worker import this_worker

    total = tally.outcomes.total()
    host_name = this_worker().host
    if not total:
        where = "a run that has not changed for so long" if by_age else f"a process of {host_name} that is gone"
        output.say(f"No record claims to be RUNNING in {where}.")
        return
    if closing is None:
        where = "runs that have not changed for so long" if by_age else f"processes of {host_name} that are gone"
        claim = "record claims" if total == 1 else "records claim"
        output.say(f"{text.grouped(total)} {claim} to be RUNNING in {where}. To close them, and what is above them:")
        output.say_command(["otel-storage", "reap", *given_options(click.get_current_context()), "--yes"])
        return
    kinds = ", ".join(f"{text.grouped(count)} {kind}" for kind, count in closing.closed.items())
    output.say(f"Closed as RUNTIME_ERROR: {kinds or 'nothing'}.")
    if tally.outcomes["final"]:
        output.say(f"{text.plural(tally.outcomes['final'], 'record')} had become final, or was gone, meanwhile.")
    if tally.outcomes["removed"]:
        output.say(
            f"{text.plural(tally.outcomes['removed'], 'copy')} was removed: the run is no longer in its own storage."
        )
    if closing.reporter_error:
        output.say(f"The reporter failed: {one_line(closing.reporter_error)}", style="red")
    if tally.outcomes["failed"]:
        output.say(f"otel-storage: {text.plural(tally.outcomes['failed'], 'record')} could not be closed:", style="red")
        for cause in tally.errors:
            output.say(f"  {cause}", style="red")
