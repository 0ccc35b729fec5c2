"""``otel-storage runs`` and ``otel-storage show``: what ran, and how one run went."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from string import hexdigits
from typing import IO, TYPE_CHECKING, Any

import click
from rich.text import Text

from otel_storage.cli import Failure, run_tree, tables, text, waterfall
from otel_storage.cli.options import given_options, json_option, open_records, parse_moment, url_option
from otel_storage.cli.output import Output
from otel_storage.cli.statuses import StatusNames, flat
from otel_storage.cli.tables import Column
from otel_storage.privacy.lines import one_line
from otel_storage.results import clock
from otel_storage.results.status import PipelineTaskStatus as Status

if TYPE_CHECKING:
    from otel_storage.results.base import PipelineExecution
    from otel_storage.sql.storage import SqlPipelineStorage

_PREFIX = 8
"""The fewest characters of a run id that a list shows."""
_TRACES_SEARCHED = 1000
"""How many of the newest runs are searched for a trace id that is a hash of its run's id: no column holds it."""
_FEWEST_DIGITS = 8
"""The fewest digits of such a trace id that are looked for."""
_MATCHES = 5
"""How many of the runs that one start of an id matches are named."""
_LAST = "last"
"""What stands for the newest run, unless there is a run of this id."""
_WIDE_FROM = 72
"""The width from which a list has room for the words of the statuses and for whole dates."""


@click.command()
@click.option("--pipeline", "pipeline_id", metavar="ID", help="Only runs of this pipeline.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    metavar="STATUS",
    type=StatusNames(),
    callback=flat,
    help=f"Only runs in this status: {', '.join(status.value for status in Status)}. ERROR means any of the "
    "three that end in _ERROR. Several: with commas, or by several options.",
)
@click.option(
    "--since", metavar="AGE", callback=parse_moment, help="Only runs built since: 30m, 12h, 7d, or an ISO date or time."
)
@click.option(
    "--limit", metavar="N", type=click.IntRange(1, 1000), default=20, show_default=True, help="Runs on a page."
)
@click.option(
    "--before", type=click.IntRange(1), metavar="CURSOR", help="The next page: the command for it is told on stderr."
)
@url_option
@json_option
def runs(
    pipeline_id: str | None,
    statuses: Sequence[str],
    since: datetime | None,
    limit: int,
    before: int | None,
    url: str | None,
    as_json: bool,
) -> None:
    """List runs, newest first.

    \b
    JSON keys: runs (run_id, pipeline_id, status, created, started, completed,
    duration: completed - started in seconds, or null; message, trace_id); next
    (the cursor for --before, or null: there are no more).
    """
    output = Output(as_json)
    with open_records(url) as records:
        found = records.list_runs(
            pipeline_id=pipeline_id,
            statuses=tuple(Status[status] for status in statuses),
            since=since,
            before_id=before,
            limit=limit + 1,
        )
        page, has_more = found[:limit], len(found) > limit
        cursor = page[-1].get_id() if has_more else None
        if as_json:
            output.document({"runs": [_run_as_json(run) for run in page], "next": cursor})
        else:
            output.lines(_table(page, output))
            if not page:
                _say_none(output, records, bool(pipeline_id or statuses or since or before))
    if cursor is not None:
        given = given_options(click.get_current_context(), without=("before",))
        output.say("There are more:", style="dim")
        output.say_command(["otel-storage", "runs", *given, "--before", str(cursor)])


@click.command()
@click.argument("run_id", default=_LAST)
@click.option("--all", "show_all", is_flag=True, help="Draw every record of long iterations.")
@url_option
@json_option
def show(run_id: str, show_all: bool, url: str | None, as_json: bool) -> None:
    """Draw one run as a waterfall: the newest, unless RUN_ID names another.

    RUN_ID is the run's id, its trace id, or the start of one that no other run
    has; or "last", the newest run. A trace id that is not the run id itself
    without its dashes is found among the newest 1000 runs, by 8 or more digits.

    \b
    JSON: the run's record with those below it nested in pipeline_results,
    task_executions and task_results. Keys of each: kind, id, status, outcome,
    created, started, completed, duration, start, end, elapsed, message,
    exception (type, message, stacktrace; or null).
    status is what is stored; outcome what it counts as (a task whose results
    are all final is final). duration is completed - started, in seconds; or
    null, while one of them is missing. start, end and elapsed (end - start, in
    seconds) contain the records below; end and elapsed are null while something
    is open. A run has run_id, pipeline_id and trace_id; a pipeline result
    pipeline_object, runner and reporter; a task execution pipeline_task and
    task_id; a task result task_object.
    """
    output = Output(as_json)
    with open_records(url) as records:
        run = run_tree.read_run(records, find_run(records, run_id))
        if as_json:
            output.document(run_tree.as_json(run))
        else:
            output.lines(waterfall.render(run, clock.now(), output.width, output.glyphs, show_all))


def find_run(records: SqlPipelineStorage, run_id: str) -> PipelineExecution:
    """The run of that id, else the newest if the id is "last", else the only run whose id or trace id starts so.

    Raises:
        Failure: there is none, or several do.
    """
    run_id = run_id.strip()
    execution = records.get_pipeline_execution(run_id)
    if execution is not None:
        return execution
    if run_id == _LAST:
        newest = records.list_runs(limit=1)
        if not newest:
            raise Failure(_none_yet(records))
        return newest[0]
    found = _starting(records, run_id)
    if not found:
        raise Failure(f"there is no run {run_id!r:.200} in {records.url}; otel-storage runs lists them")
    if len(found) > 1:
        raise _Ambiguous(run_id, found)
    return found[0]


def _starting(records: SqlPipelineStorage, start: str) -> Sequence[PipelineExecution]:
    """Runs whose id starts so, or is a UUID whose digits do; else of the newest runs those whose trace id does."""
    ends = (0, 8, 12, 16, 20, 32)
    dashed = "-".join(start[begin:end] for begin, end in pairwise(ends) if start[begin:end])
    found = records.runs_starting({start, dashed}, limit=_MATCHES + 1)
    if not found and _FEWEST_DIGITS <= len(start) <= ends[-1] and set(start) <= set(hexdigits):
        newest = records.list_runs(limit=_TRACES_SEARCHED)
        found = [run for run in newest if (run.get_trace_id() or "").startswith(start.lower())]
    return found


class _Ambiguous(Failure):
    """Several runs start with what was given: a line for each of the first few."""

    def __init__(self, start: str, found: Sequence[PipelineExecution]) -> None:
        super().__init__(f"several runs start with {start!r:.200}:")
        self._found = found

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line, and one for each run that matches."""
        super().show(file)
        for run in self._found[:_MATCHES]:
            facts = (one_line(run.get_run_id()), one_line(run.get_pipeline_id()), _start(run, short=False))
            click.echo(f"  {'  '.join(facts)}", file=file or sys.stderr)
        if len(self._found) > _MATCHES:
            click.echo("  and more", file=file or sys.stderr)


def _run_as_json(run: PipelineExecution) -> dict[str, Any]:
    return {
        "run_id": run.get_run_id(),
        "pipeline_id": run.get_pipeline_id(),
        "status": run.get_status().value,
        "created": text.iso(run.get_created()),
        "started": text.iso(run.get_started()),
        "completed": text.iso(run.get_completed()),
        "duration": text.seconds(run.get_duration()),
        "message": run.get_status_message(),
        "trace_id": run.get_trace_id(),
    }


def _table(page: Sequence[PipelineExecution], output: Output) -> Iterator[Text]:
    """Run, status, pipeline, start and duration, as wide as the terminal lets them be."""
    is_wide = output.width >= _WIDE_FROM
    now = clock.now()
    rows = [
        (
            one_line(run.get_run_id()),
            waterfall.status_text(run.get_status(), output.glyphs, is_wide),
            one_line(run.get_pipeline_id()),
            _start(run, short=not is_wide),
            text.duration(_taken(run, now)),
        )
        for run in page
    ]
    # The start of an id will do for `show`, if it is no other's.
    shortest = _unique_prefix([run_id for run_id, *_ in rows])
    columns = (
        Column(heading="RUN", shrinks=1, least=shortest, at_once=True, has_ellipsis=False),
        Column(heading="STATUS" if is_wide else "S"),
        Column(heading="PIPELINE", shrinks=2, least=4, style="bold"),
        Column(heading="STARTED", style="dim"),
        Column(heading="TOOK", is_right=True),
    )
    return tables.lines(columns, rows, output.width, output.glyphs.ellipsis)


def _unique_prefix(ids: Sequence[str]) -> int:
    longest = max(map(len, ids), default=0)
    for length in range(_PREFIX, longest):
        if len({run_id[:length] for run_id in ids}) == len(set(ids)):
            return length
    return longest


def _start(run: PipelineExecution, short: bool) -> str:
    moment = text.aware(run.get_started() or run.get_created())
    if moment is None:
        return ""
    local = moment.astimezone()
    if not short:
        return f"{local:%Y-%m-%d %H:%M:%S}"
    return f"{local:%H:%M:%S}" if local.date() == datetime.now().astimezone().date() else f"{local:%m-%d}"


def _taken(run: PipelineExecution, now: datetime) -> timedelta | None:
    started, completed = text.aware(run.get_started()), text.aware(run.get_completed())
    return run_tree.duration(run.get_status(), started, completed, now)


def _say_none(output: Output, records: SqlPipelineStorage, filtered: bool) -> None:
    if filtered:
        output.say(f"No run in {records.url} is like that.")
    else:
        output.say(f"{_none_yet(records)}.")


def _none_yet(records: SqlPipelineStorage) -> str:
    return f"There are no runs in {records.url} yet; otel-storage demo makes some"
