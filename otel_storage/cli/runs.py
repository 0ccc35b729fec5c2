"""``otel-storage runs`` and ``otel-storage show``: what ran, and how one run went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from otel_storage.cli import Failure, run_tree, tables, text, waterfall
from otel_storage.cli.options import given_options, json_option, open_records, parse_moment, url_option
from otel_storage.cli.output import Output
from otel_storage.cli.tables import Column
from otel_storage.privacy.lines import one_line
from otel_storage.results import clock
from otel_storage.results.status import PipelineTaskStatus as Status

if TYPE_CHECKING:
    from otel_storage.results.base import PipelineExecution
    from otel_storage.sql.storage import SqlPipelineStorage

_PREFIX = 8
"""The fewest characters of a run id that are taken for the start of one."""
_PREFIX_SEARCHED = 1000
"""How many of the newest runs are searched for a prefix."""


@click.command()
@click.option("--pipeline", "pipeline_id", metavar="ID", help="Only runs of this pipeline.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    metavar="STATUS",
    type=click.Choice([status.value for status in Status], case_sensitive=False),
    help=f"Only runs in this status: {', '.join(status.value for status in Status)}. May be given more than once.",
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
@click.argument("run_id")
@click.option("--all", "show_all", is_flag=True, help="Draw every record of long iterations.")
@url_option
@json_option
def show(run_id: str, show_all: bool, url: str | None, as_json: bool) -> None:
    """Draw one run as a waterfall.

    RUN_ID is the run's id, its trace id, or the first 8 or more characters of it.

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
        execution = find_run(records, run_id)
        if execution is None:
            raise Failure(f"there is no run {run_id!r:.200} in {records.url}; otel-storage runs lists them")
        run = run_tree.read_run(records, execution)
        if as_json:
            output.document(run_tree.as_json(run))
        else:
            output.lines(waterfall.render(run, clock.now(), output.width, output.glyphs, show_all))


def find_run(records: SqlPipelineStorage, run_id: str) -> PipelineExecution | None:
    """The run of that id, or the newest runs' only one whose id or trace id starts so.

    Raises:
        Failure: several runs do.
    """
    run_id = run_id.strip()
    execution = records.get_pipeline_execution(run_id)
    if execution is not None or len(run_id) < _PREFIX:
        return execution
    found = [
        run
        for run in records.list_runs(limit=_PREFIX_SEARCHED)
        if run.get_run_id().startswith(run_id) or (run.get_trace_id() or "").startswith(run_id)
    ]
    if len(found) > 1:
        ids = ", ".join(run.get_run_id() for run in found[:3])
        raise Failure(f"{len(found)} runs start with {run_id!r}: {ids}{', ...' if len(found) > 3 else ''}")
    return found[0] if found else None


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
    is_wide = output.width >= 64
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
        return f"{local:%Y-%m-%d %H:%M}"
    return f"{local:%H:%M}" if local.date() == datetime.now().astimezone().date() else f"{local:%m-%d}"


def _taken(run: PipelineExecution, now: datetime) -> timedelta | None:
    started, completed = text.aware(run.get_started()), text.aware(run.get_completed())
    return run_tree.duration(run.get_status(), started, completed, now)


def _say_none(output: Output, records: SqlPipelineStorage, filtered: bool) -> None:
    if filtered:
        output.say(f"No run in {records.url} is like that.")
    else:
        output.say(f"There are no runs in {records.url} yet. `otel-storage demo` makes some.")
