"""Spans a second from the outbox to their acknowledgement, beside OpenTelemetry's SDK with the same spans.

``python -m tests.benchmarks.delivery [--url URL]``, in a checkout. The receiver is a process of its own that decodes
nothing, see :mod:`tests.benchmarks.receiving`. The SDK is given the very spans that the sender made, in its batches,
but with resources and scopes of its own classes, as spans have that it makes: it hashes those anew for each span.
"""

from __future__ import annotations

import gc
import os
import random
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import click
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, set_span_in_context
from sqlalchemy import Connection, insert, select, update

from otel_storage import OtelPipelineStorage, PipelineTaskStatus
from otel_storage.sql.database import schema
from otel_storage.testing.pipelines import Pipeline, Runner, Task
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.measuring import Databases, NullReporter, databases, print_ratios
from tests.benchmarks.receiving import receiver

WORK = "delivery"
SPANS_A_SECOND = 4_000
MOST_OF_THE_SDK = {"sqlite": 1.8, "postgresql": 2.5}
SENDERS = 2

_ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_SEED = 6


@click.command()
@click.option("--url", help="A PostgreSQL or MariaDB; a SQLite file if left out.")
@click.option("--repeat", default=5, show_default=True, help="How often each is run; the median counts.")
@click.option("--factor", default=1.0, show_default=True, help="What the number of runs is multiplied by.")
@click.option("--json", "as_json", is_flag=True)
def main(url: str | None, repeat: int, factor: float, as_json: bool) -> None:
    """Measure the delivery of what runs left in the outbox."""
    with databases(url) as made:
        figures = list(measure(made, Scale(repeat, factor)))
        rows = [
            {
                "name": figure.name,
                "value": figure.value,
                "target": _target(figure),
                "verdict": figure.verdict,
            }
            for figure in figures
        ]
        columns = {"name": "what", "value": "value", "target": "target", "verdict": ""}
        print_ratios(f"Delivery from {made.engine}", rows, columns, as_json)


def measure(made: Databases, scale: Scale) -> Iterator[Figure]:
    """Deliver the same backlog in turns: by one sender, by two, and its spans by the SDK alone."""
    with receiver() as endpoint, _variable(_ENDPOINT_VARIABLE, endpoint), closing(_Backlog(made, scale)) as backlog:
        batches = backlog.batches()
        count = sum(map(len, batches))
        one, two, sent_by_sdk, made_by_sdk = _seconds(
            scale.repeat,
            lambda: backlog.deliver(count),
            lambda: backlog.deliver_by_several(count),
            lambda: _send(batches),
            lambda: _make_and_send(batches),
        )
    engine = made.engine
    yield Figure(WORK, engine, "spans a second, one sender", count / one, at_least=SPANS_A_SECOND)
    yield Figure(
        WORK,
        engine,
        "x the SDK's encoding and sending",
        one / sent_by_sdk,
        at_most=MOST_OF_THE_SDK.get(engine),
        is_guarded=True,
    )
    yield Figure(WORK, engine, "x the SDK's making, encoding and sending", one / made_by_sdk, is_guarded=True)
    yield Figure(WORK, engine, "spans a second, the SDK's encoding and sending", count / sent_by_sdk)
    yield Figure(WORK, engine, "spans a second, two senders", count / two)
    yield Figure(WORK, engine, "x as fast with two senders", one / two)


Contender = Callable[[], float]
"""Does it once, and returns the seconds that it took."""


def _seconds(repeat: int, *contenders: Contender) -> list[float]:
    """The median of each, taken in turns; the first time of each, which warms up, does not count."""
    taken = [[contender() for contender in contenders] for _ in range(repeat + 1)][1:]
    return [statistics.median(seconds) for seconds in zip(*taken, strict=True)]


# The data to send


class _Backlog:
    """A database with runs that have ended and whose spans wait, which can be made so again."""

    def __init__(self, made: Databases, scale: Scale) -> None:
        self._url = made.fresh()
        self._storage = OtelPipelineStorage(url=self._url, delivery="external", service_name="shop")
        self._storage.records.upgrade()
        _run_all(self._storage, scale)
        with self._storage.records.database.read() as connection:
            self._references = [dict(row._mapping) for row in connection.execute(select(schema.outbox))]

    def close(self) -> None:
        """Close the storage."""
        self._storage.close()

    def batches(self) -> list[Sequence[ReadableSpan]]:
        """The spans that are sent, as they are sent."""
        keeper = Keeper()
        self._empty()
        with closing(OtelPipelineStorage(url=self._url, delivery="external", exporter=keeper)) as storage:
            self._put_back()
            storage.delivery.deliver_due()
        return keeper.batches

    def deliver(self, count: int) -> float:
        """Deliver all, by a sender of this process."""
        self._put_back()
        _settle_memory()
        began = time.perf_counter()
        report = self._storage.delivery.deliver_due(retry_now=False)
        seconds = time.perf_counter() - began
        assert (report.sent, report.error) == (count, "")
        return seconds

    def deliver_by_several(self, count: int) -> float:
        """Deliver all, by several senders, each a process of its own; from the first's start to the last's end."""
        self._put_back()
        with ExitStack() as stack:
            senders = [stack.enter_context(_SenderProcess(self._url)) for _ in range(SENDERS)]
            began = time.perf_counter()
            for sender in senders:
                sender.start()
            sent = [sender.sent() for sender in senders]
            seconds = time.perf_counter() - began
        # A sender may stop early: the other one held all references, or the runs had not settled. Send the rest.
        sent.append(self._storage.delivery.deliver_due().sent)
        assert sum(sent) == count
        return seconds

    def _empty(self) -> None:
        self._storage.records.database.write(lambda connection: connection.execute(schema.outbox.delete()))

    def _put_back(self) -> None:
        """Make everything unsent again; what a run's spans are made from is to be found again too."""

        def work(connection: Connection) -> None:
            for table in (schema.pipeline_execution, schema.pipeline_result, schema.task_execution):
                unsettled = dict.fromkeys(("span_start", "span_end", "span_status", "span_outcome"))
                connection.execute(update(table).values(unsettled))
            connection.execute(insert(schema.outbox), self._references)

        self._storage.records.database.write(work)


class Keeper(SpanExporter):
    """Keeps what it is given, each span with a resource and a scope of the SDK's own classes."""

    def __init__(self) -> None:
        self.batches: list[Sequence[ReadableSpan]] = []
        self._resources: dict[Resource, Resource] = {}
        self._scopes: dict[InstrumentationScope, InstrumentationScope] = {}

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Keep them."""
        self.batches.append([self._as_the_sdk_has_it(span) for span in spans])
        return SpanExportResult.SUCCESS

    def _as_the_sdk_has_it(self, span: ReadableSpan) -> ReadableSpan:
        resource = self._resources.setdefault(span.resource, Resource(span.resource.attributes))
        scope = span.instrumentation_scope
        assert scope is not None
        scope = self._scopes.setdefault(scope, InstrumentationScope(scope.name, scope.version))
        return ReadableSpan(
            name=span.name,
            context=span.context,
            parent=span.parent,
            resource=resource,
            attributes=dict(span.attributes or {}),
            events=span.events,
            links=span.links,
            kind=span.kind,
            status=span.status,
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=scope,
        )


class _SenderProcess:
    """A process that sends what is due when it is told to."""

    def __init__(self, url: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.delivery_sender"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OTEL_STORAGE_URL": url.render_as_string(hide_password=False)},
        )

    def __enter__(self) -> _SenderProcess:
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def start(self) -> None:
        """Let it send."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def sent(self) -> int:
        """How many spans it has sent, when it is done."""
        return int(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


# The runs


def _model(model: str, number: int) -> dict[str, str]:
    """A model object, as the host serializes it."""
    return {"pk": str(number), "app_label": "shop", "model_name": model}


def _pipeline(name: str, tasks: Sequence[str], per_pipeline: int, per_task: int) -> Pipeline:
    orders = [_model("order", number) for number in range(per_task)] if per_task > 1 else None
    customers = [_model("customer", number) for number in range(per_pipeline)] if per_pipeline > 1 else None

    def identity(value: Any) -> Any:
        return value

    return Pipeline(
        *(Task(task, task_id=f"shop.tasks.{task.title()}", objects=orders, serialize=identity) for task in tasks),
        id=f"shop.{name}",
        objects=customers,
        serialize=identity,
    )


_SHAPES = (
    # How many runs, and what they are like: a few records or many, in one task or in several, for objects or not.
    (200, _pipeline("CheckStock", ("read", "compare"), 1, 1)),
    (30, _pipeline("ImportOrders", ("fetch", "clean", "load", "report"), 1, 25)),
    (15, _pipeline("SendInvoices", ("collect", "render", "send"), 20, 1)),
    (6, _pipeline("Reindex", ("index",), 1, 400)),
)


def _run_all(storage: OtelPipelineStorage, scale: Scale) -> None:
    """Run them as the host's eager runner does: one result after the other, and some of them fail."""
    chance = random.Random(_SEED)  # noqa: S311 - the same runs each time, and no secret
    pipelines = [pipeline for number, pipeline in _SHAPES for _ in range(scale.of(number))]
    chance.shuffle(pipelines)
    reporter = NullReporter()
    for pipeline in pipelines:
        execution = storage.build_pipeline_execution(
            pipeline, str(uuid.UUID(int=chance.getrandbits(128), version=4)), Runner(), reporter, {}
        )
        for pipeline_result in execution.get_pipeline_results():
            for task_execution in pipeline_result.get_task_executions():
                for number, task_result in enumerate(task_execution.get_task_results()):
                    task_result.report_status_change(reporter, PipelineTaskStatus.RUNNING)
                    if chance.random() < 0.03:
                        _fail(task_result, reporter, number)
                    else:
                        task_result.report_status_change(reporter, PipelineTaskStatus.DONE, propagate=False)
            pipeline_result.report_status_change(reporter, PipelineTaskStatus.DONE, propagate=False)
        execution.report_status_change(reporter, PipelineTaskStatus.DONE)


def _fail(task_result: Any, reporter: Any, number: int) -> None:
    """Fail as a task does whose request was refused: with a cause, and a few frames; some tell a password."""
    try:
        _charge(number, depth=6)
    except RuntimeError as error:
        task_result.report_status_change(reporter, PipelineTaskStatus.RUNTIME_ERROR, str(error))


def _charge(number: int, depth: int) -> None:
    if depth:
        _charge(number, depth - 1)
        return
    try:
        raise ConnectionRefusedError(111, "Connection refused")
    except ConnectionRefusedError as error:
        user = "" if number % 4 else "shop:hunter2@"
        raise RuntimeError(
            f"order {number} was not charged: POST https://{user}payments.example.com/charges"
        ) from error


# The SDK


def _send(batches: Sequence[Sequence[ReadableSpan]]) -> float:
    """Encode and send spans that are there, by the SDK's exporter."""
    exporter = OTLPSpanExporter()
    _settle_memory()
    began = time.perf_counter()
    results = [exporter.export(batch) for batch in batches]
    seconds = time.perf_counter() - began
    assert set(results) == {SpanExportResult.SUCCESS}
    exporter.shutdown()  # type: ignore[no-untyped-call]  # the exporter has left its annotations out
    return seconds


def _make_and_send(batches: Sequence[Sequence[ReadableSpan]]) -> float:
    """Make spans as these by the SDK's tracer, and send them by its batch processor."""
    spans = [span for batch in batches for span in batch]
    provider = TracerProvider(resource=spans[0].resource, span_limits=SpanLimits(), shutdown_on_exit=False)
    processor = BatchSpanProcessor(
        OTLPSpanExporter(), max_queue_size=len(spans) + 1, max_export_batch_size=max(map(len, batches))
    )
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("otel_storage")
    _settle_memory()
    began = time.perf_counter()
    for span in spans:
        parent = set_span_in_context(NonRecordingSpan(span.parent)) if span.parent else None
        copy = tracer.start_span(
            span.name, parent, span.kind, span.attributes, span.links, span.start_time, record_exception=False
        )
        for event in span.events:
            copy.add_event(event.name, event.attributes, event.timestamp)
        copy.set_status(span.status)
        copy.end(span.end_time)
    assert processor.force_flush()
    seconds = time.perf_counter() - began
    provider.shutdown()
    return seconds


def _settle_memory() -> None:
    """Keep what others have left, and the spans kept here, from the collector: a sender has none of it."""
    gc.collect()
    gc.freeze()


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _target(figure: Figure) -> str:
    if figure.at_least is not None:
        return f">= {figure.at_least:,.2f}"
    return "" if figure.at_most is None else f"<= {figure.at_most:,.2f}"


if __name__ == "__main__":
    main()
