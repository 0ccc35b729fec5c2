"""``otel-storage demo``: run real pipelines, and show what became of them."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from otel_storage.cli import Failure, run_tree, text, waterfall
from otel_storage.cli.options import json_option, quiet_logs, url_arguments
from otel_storage.cli.output import Output
from otel_storage.cli.run_tree import Node
from otel_storage.privacy.lines import one_line
from otel_storage.results import clock, config, host
from otel_storage.results.exceptions import ConfigurationError, OtelStorageError
from otel_storage.results.extras import to_install
from otel_storage.results.kinds import TASK_RESULT
from otel_storage.results.status import FINAL
from otel_storage.results.status import PipelineTaskStatus as Status

if TYPE_CHECKING:
    from otel_storage.composite import OtelPipelineStorage
    from otel_storage.results.base import PipelineStorageObject

_PATIENCE = 3.0
"""Seconds that a collector has to accept the spans before they are said to wait."""

COLLECTOR_ENDPOINT = "http://localhost:4318/v1/traces"
COMPOSE_FILE = Path(__file__).parents[2] / "collector" / "compose.yaml"
"""In a checkout: a collector, Jaeger and all that watches runs, see there."""
CONTAINER_COMMAND = [
    *("docker", "run", "--rm"),
    *("-p", "127.0.0.1:4318:4318"),
    *("-p", "127.0.0.1:16686:16686"),
    "jaegertracing/jaeger:2.13.0",
]
"""Without a checkout: receives OTLP and shows traces, with nothing to configure."""
TRACES_URL = "http://localhost:16686"
"""Where both show traces, unless ``OTEL_STORAGE_TRACES_URL`` says otherwise."""


@dataclass
class Spans:
    """What became of the spans of the demo's runs."""

    state: str
    """delivered, waiting, refused or off."""
    count: int
    endpoint: str
    reason: str


@click.command()
@click.option(
    "--url",
    metavar="URL",
    help="Where the runs are stored, as a SQLAlchemy URL. Default: $OTEL_STORAGE_URL, else "
    "sqlite:///otel_storage.db, a file in this folder.",
)
@json_option
def demo(url: str | None, as_json: bool) -> None:
    """Run three small pipelines and show what became of them.

    One succeeds, one fails in the middle and one is badly configured. They are run by django-pipelines itself, with
    settings of the demo's own. No collector is needed.

    \b
    JSON keys: storage (its URL), runs (as show --json has them), spans: state
    (delivered, waiting, refused or off), count, endpoint, reason; links (where
    each run's trace is seen, under $OTEL_STORAGE_TRACES_URL); commands: show,
    collector, deliver (each a list of words).
    """
    if not host.is_installed():
        raise ConfigurationError(
            f"the demo runs pipelines of django-pipelines, which is not installed; {to_install('django')}"
        )
    output = Output(as_json)
    storage = _set_up(url)
    try:
        runs = list(_run_all(storage, output))
        with _waiting(output, f"Sending the spans to {storage.delivery.endpoint}"):
            spans = _spans(storage, runs)
        commands = _commands(url, runs, spans)
        if as_json:
            output.document(
                {
                    "storage": storage.records.url,
                    "runs": [run_tree.as_json(run) for run in runs],
                    "spans": vars(spans),
                    "links": _links(runs),
                    "commands": commands,
                }
            )
        else:
            _summarise(storage, runs, spans, commands, output)
    finally:
        storage.close()


def _set_up(url: str | None) -> OtelPipelineStorage:
    """Configure Django for this process as a project's settings would, and make the storage from the setting."""
    # A project's settings are not the demo's: its pipelines and its database stay untouched.
    os.environ.pop("DJANGO_SETTINGS_MODULE", None)
    import django
    from django.conf import settings

    if settings.configured:
        raise Failure("Django is configured in this process already; run the demo in one of its own")
    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "pipelines"],
        USE_TZ=True,
        LOGGING_CONFIG=None,
        **{config.SETTING: (config.DEFAULT, {} if url is None else {"url": url})},
    )
    django.setup()
    quiet_logs()
    from otel_storage.results import helpers

    storage = helpers.get_pipeline_results_storage()
    return cast("OtelPipelineStorage", storage)


def _run_all(storage: OtelPipelineStorage, output: Output) -> Iterator[Node]:
    """Run the pipelines one after the other, and show each as it ends."""
    from otel_storage.cli.demo_pipelines import PIPELINES

    for number, pipeline in enumerate(PIPELINES):
        if number and not output.as_json:
            output.lines([Text(), Text()])
        run_id = str(uuid.uuid4())
        refusal = _run(pipeline, run_id, output)
        execution = storage.get_pipeline_execution(run_id)
        if execution is None:
            raise Failure(f"the run of {pipeline.get_id()} was not stored: {refusal}")
        run = run_tree.read_run(storage.records, execution)
        if not output.as_json:
            output.lines(waterfall.render(run, clock.now(), output.width, output.glyphs))
        if refusal:
            output.say(f"django-pipelines refused to start it: {refusal}", style="dim")
        yield run


def _run(pipeline: type[Any], run_id: str, output: Output) -> str:
    """Run the pipeline, showing progress; returns why it was refused, if it was."""
    from pipelines.runners.eager import Runner

    from otel_storage.cli.demo_pipelines import DemoReporter

    name = pipeline.get_id()
    if not output.err.is_terminal:
        output.say(f"Running {name} ...")
    columns = (TextColumn("Running {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("tasks"))
    with Progress(*columns, console=output.err, transient=True, disable=not output.err.is_terminal) as progress:
        task = progress.add_task(name, total=0)

        def on_change(record: PipelineStorageObject, status: Status) -> None:
            if record.content_type_name != TASK_RESULT:
                return
            if status is Status.PENDING:
                progress.update(task, total=(progress.tasks[0].total or 0) + 1)
            elif status in FINAL:
                progress.advance(task)

        try:
            pipeline().start(run_id, {}, Runner(), DemoReporter(on_change))
        except OtelStorageError:
            raise
        except Exception as error:  # noqa: BLE001 - what the host raises for a bad configuration is a bare Exception
            return str(error)
    return ""


def _spans(storage: OtelPipelineStorage, runs: list[Node]) -> Spans:
    """See that the spans are sent, or why they are not."""
    count = sum(map(_span_count, runs))
    endpoint = storage.delivery.endpoint
    if not any(run.facts["trace_id"] for run in runs):
        return Spans("off", 0, endpoint, "")
    error = _deliver(storage)
    status = storage.records.outbox.status()
    if error or status.waiting:
        return Spans("waiting", count, endpoint, one_line(error or status.error))
    if status.refused:
        return Spans("refused", count, endpoint, one_line(status.refusal))
    return Spans("delivered", count, endpoint, "")


def _deliver(storage: OtelPipelineStorage) -> str:
    """Send what the storage's own thread has not sent yet; returns why that failed, if it did.

    A flush would try again until its time is over; here the first failure tells enough.
    """
    errors: list[str] = []

    def send() -> None:
        try:
            errors.append(storage.delivery.deliver_due().error)
        except Exception as error:  # noqa: BLE001 - what the database raised belongs to the thread that waits
            errors.append(str(error))

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    sender.join(_PATIENCE)
    return errors[0] if errors else f"no answer in {_PATIENCE:.0f} seconds"


def _span_count(node: Node) -> int:
    return (node.start is not None) + sum(map(_span_count, node.children))


def _commands(url: str | None, runs: list[Node], spans: Spans) -> dict[str, list[str]]:
    located = url_arguments(url)
    is_elsewhere = spans.endpoint != COLLECTOR_ENDPOINT
    elsewhere = [f"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT={COLLECTOR_ENDPOINT}"] if is_elsewhere else []
    return {
        "show": ["otel-storage", "show", *located, runs[1].facts["run_id"]],
        "collector": _collector_command(),
        "deliver": [*elsewhere, "otel-storage", "deliver", *located],
    }


def _collector_command() -> list[str]:
    """What starts something to receive spans and show traces: all that there is, where its files are at hand."""
    if not COMPOSE_FILE.is_file():
        return CONTAINER_COMMAND
    here = Path.cwd()
    file = COMPOSE_FILE.relative_to(here) if COMPOSE_FILE.is_relative_to(here) else COMPOSE_FILE
    return ["docker", "compose", "-f", str(file), "up", "-d"]


def _links(runs: list[Node]) -> list[str]:
    """Where each run's trace is seen."""
    base = os.environ.get("OTEL_STORAGE_TRACES_URL", "").rstrip("/") or TRACES_URL
    return [f"{base}/trace/{run.facts['trace_id']}" for run in runs if run.facts["trace_id"]]


def _summarise(
    storage: OtelPipelineStorage, runs: list[Node], spans: Spans, commands: dict[str, list[str]], output: Output
) -> None:
    """Say where everything is now, and what to do next."""
    output.lines([Text(), Text("What is where", style="bold")])
    output.lines(_facts(storage, runs, spans, output))
    output.say("")
    if spans.state == "waiting":
        output.say("To receive and see them, start a collector with a trace viewer, e.g. Jaeger:")
        output.say_command(commands["collector"])
        output.say("then deliver what waits:")
        output.say_command(commands["deliver"])
        output.say("and open:")
    if spans.state == "delivered":
        output.say("Where the traces go to Jaeger, open:")
    if spans.state in ("waiting", "delivered"):
        for link in _links(runs):
            output.say_command([link])
    output.say("To see a run again:")
    output.say_command(commands["show"])


def _facts(storage: OtelPipelineStorage, runs: list[Node], spans: Spans, output: Output) -> Iterator[Text]:
    label_width = 8
    room = output.width - label_width
    for number, run in enumerate(runs):
        label = "" if number else "traces"
        trace_id = run.facts["trace_id"] or "no trace"
        line = Text.assemble((text.pad(label, label_width), "dim"), trace_id)
        if room >= len(trace_id) + len(run.name) + 2:
            line.append(f"  {run.name}", style="dim")
        yield line
    yield from _folded("state", storage.records.url, label_width, room)
    told = {
        "delivered": f"all {spans.count} delivered to {spans.endpoint}",
        "waiting": f"{spans.count} wait in the database for {spans.endpoint}: {spans.reason}",
        "refused": f"{spans.endpoint} refused some for good: {spans.reason}",
        "off": "none: telemetry is switched off (OTEL_SDK_DISABLED, OTEL_TRACES_EXPORTER or OTEL_TRACES_SAMPLER)",
    }[spans.state]
    yield from _folded("spans", told, label_width, room)


def _folded(label: str, value: str, label_width: int, width: int) -> Iterator[Text]:
    """The value in as many lines as it takes: an address is not cut."""
    words = Text(value).wrap(Console(width=width), width)
    for number, line in enumerate(words):
        line.rstrip()
        yield Text.assemble((text.pad("" if number else label, label_width), "dim"), line)


@contextmanager
def _waiting(output: Output, words: str) -> Iterator[None]:
    """Show that something is under way; on a terminal only."""
    if not output.err.is_terminal:
        yield
        return
    with output.err.status(Text(words)):
        yield
