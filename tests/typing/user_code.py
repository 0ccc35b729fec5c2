"""What a user's module may look like: it must pass ``mypy --strict``, and run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from sqlalchemy import create_engine

from otel_storage import (
    OtelPipelineStorage,
    OtelStorageError,
    PipelineExecution,
    PipelineStorage,
    PipelineStorageObject,
    PipelineTaskStatus,
    SqlPipelineStorage,
    StatusChange,
    TaskResult,
)
from otel_storage.results import helpers
from otel_storage.results.protocols import PipelineLike, Reporter, TaskLike


@dataclass
class Load:
    """A task that loads shops."""

    pipeline_task: str = "load"
    task_id: str = "shop.Load"
    cleaned_config: Mapping[str, int] = field(default_factory=dict)

    def get_iterator(self) -> Iterable[str] | None:
        """The shops."""
        return ["a", "b"]

    def get_serializable_task_object(self, obj: str | None) -> str | None:
        """A shop is text."""
        return obj


class Orders:
    """A pipeline of one task."""

    id = "shop.Orders"

    def __init__(self) -> None:
        self.tasks: dict[str, TaskLike] = {"load": Load(cleaned_config={"batch": 10})}

    def get_iterator(self) -> None:
        """Once, with no object."""

    def get_serializable_pipeline_object(self, obj: object) -> None:
        """There is none."""


class Messages:
    """A reporter."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def report_context_object(
        self, context_object: PipelineStorageObject, status: PipelineTaskStatus, message: str
    ) -> None:
        """Keep the message."""
        self.messages.append(f"{context_object.content_type_name} {context_object.get_id()}: {message}")


class Names(SpanExporter):
    """An exporter."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Keep the names."""
        self.names += [span.name for span in spans]
        return SpanExportResult.SUCCESS


def storages(url: str) -> list[PipelineStorage]:
    """Every way to make one."""
    return [
        SqlPipelineStorage(url, durable=True),
        SqlPipelineStorage(engine=create_engine(url), clock=lambda: datetime.now(UTC)),
        OtelPipelineStorage(url=url, delivery="external"),
        OtelPipelineStorage(SqlPipelineStorage(url), exporter=Names(), delivery="external"),
        OtelPipelineStorage(
            "otel_storage.SqlPipelineStorage",
            exporter=("opentelemetry.sdk.trace.export.ConsoleSpanExporter", {"service_name": "shop"}),
            delivery="external",
        ),
        OtelPipelineStorage(
            ("otel_storage.SqlPipelineStorage", {"url": url}),
            exporter="opentelemetry.sdk.trace.export.ConsoleSpanExporter",
            delivery="external",
            service_name="shop",
            capture={"config", "messages"},
            settle_quiet=timedelta(seconds=10),
            settle_after=3600,
            max_age=86_400.0,
        ),
    ]


def run(storage: OtelPipelineStorage) -> tuple[list[str], timedelta]:
    """Build a run, advance its records and read them."""
    reporter = Messages()
    checked: Reporter = reporter
    pipeline: PipelineLike = Orders()
    execution: PipelineExecution = storage.build_pipeline_execution(
        pipeline, "run", runner=object(), reporter=checked, input_data={"day": 1}
    )
    for result in storage.get_task_results(run_id=execution.get_run_id()):
        advance(result, reporter)
    for pipeline_result in execution.get_pipeline_results():
        for task_execution in pipeline_result.get_task_executions():
            task_execution.report_status_change(reporter, PipelineTaskStatus.DONE, message="all of it")
    found = storage.get_pipeline_execution("run")
    if found is None:
        raise LookupError("run")
    changes: Sequence[StatusChange] = found.get_status_changes()
    trace_id: str | None = found.get_trace_id()
    first, rest = storage.get_task_results()[0], storage.get_task_results()[1:]
    texts = [
        f"{changes[-1].at:%Y} {changes[-1].message}",
        f"{trace_id or '':.4}",
        first.get_pipeline_task() + rest[0].get_task_id(),
        *(message for message in reporter.messages if "DONE" in message),
    ]
    totals = {name: item.total_success for name, item in storage.get_pipeline_digest().items()}
    sent: bool = storage.flush(timeout=10)
    removed: Sequence[str] = storage.cleanup(before=datetime.now(UTC))
    return [*texts, *totals, str(sent), *removed], found.get_duration() or timedelta(0)


def advance(result: TaskResult, reporter: Reporter) -> None:
    """Run and finish one task result."""
    result.report_status_change(reporter, PipelineTaskStatus.RUNNING)
    result.report_status_change(reporter, PipelineTaskStatus.DONE, propagate=False)
    if result.get_status().has_advanced(PipelineTaskStatus.DONE):
        raise OtelStorageError("it is final")


def by_helpers() -> list[str]:
    """The same through the helpers."""
    execution = helpers.build_pipeline_execution(Orders(), "helped", object(), Messages(), None)
    count: int = helpers.get_task_results(run_id=execution.get_run_id()).count()
    missing = helpers.get_task_result("no id")
    return [str(count), "none" if missing is None else missing.get_status().value]
