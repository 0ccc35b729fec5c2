"""OtelPipelineStorage: a storage that makes every run a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from sqlalchemy import URL

from otel_storage.results import clock as clocks
from otel_storage.results import config
from otel_storage.results.base import PipelineStorage
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.results.outbox import Settling
from otel_storage.sql.storage import SqlPipelineStorage

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from otel_storage.results.clock import Clock
    from otel_storage.telemetry.delivery import Delivery
    from otel_storage.telemetry.exporting import AcknowledgedExporter

Method = TypeVar("Method", bound=Callable[..., Any])

Seconds = float | timedelta


def _forwarded(method: Method) -> Method:
    """The method of the same name of the wrapped storage."""
    name = method.__name__

    @wraps(method)
    def forward(self: OtelPipelineStorage, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.storage, name)(*args, **kwargs)

    return cast("Method", forward)


class OtelPipelineStorage(PipelineStorage):
    """Keeps the records of pipeline runs in a storage, and makes every run an OpenTelemetry trace.

    The records are the storage's own. A record that becomes final leaves a reference to it in the transaction that
    makes it so; its span is sent, by a thread of this process or by ``otel-storage deliver --watch``, until the
    endpoint has acknowledged it.

    Args:
        storage: None for a :class:`~otel_storage.sql.storage.SqlPipelineStorage` on ``url``; or one, as an instance, a
            dotted path of its class, or a pair of a path and keyword arguments.
        url: The database of a storage that is made here; see ``SqlPipelineStorage``.
        exporter: None for OTLP as OpenTelemetry's standard variables (``OTEL_EXPORTER_OTLP_*``) say; or a
            ``SpanExporter``, as an instance (which serves this process alone), a path, or a pair.
        delivery: ``"thread"`` to send by a background thread of each process, ``"external"`` to leave it to another:
            ``otel-storage deliver --watch``.
        service_name: The service that runs are traced under; None takes ``OTEL_SERVICE_NAME``, else ``pipelines``.
        capture: What may leave the process beside states, identities and error messages: any of ``"input_data"``,
            ``"config"``, ``"objects"`` and ``"messages"`` (of validation errors).
        trace_url: Where people see a trace, e.g. ``http://jaeger:16686/trace/{trace_id}``: an address in which
            ``{trace_id}`` and ``{run_id}`` are filled in. Records give it by ``get_trace_url()``.
        run_url: Where people see a run, e.g. ``https://ops.example.com/pipelines/{run_id}/results/``. It is an
            attribute of the run's root span.
        settle_quiet: Seconds that a final run with PENDING records waits, without a change, for its parent spans to be
            sent.
        settle_after: Seconds that a final run waits so for a task result that is RUNNING.
        max_age: Seconds after which a span that cannot be delivered is no longer tried.
        durable: See ``SqlPipelineStorage``.
        clock: Gives the time now, aware and in UTC.

    Raises:
        ConfigurationError: an argument cannot be used; the message names it.
    """

    def __init__(
        self,
        storage: PipelineStorage | str | tuple[str, dict[str, Any]] | None = None,
        *,
        url: str | URL | None = None,
        exporter: SpanExporter | str | tuple[str, dict[str, Any]] | None = None,
        delivery: Literal["thread", "external"] = "thread",
        service_name: str | None = None,
        capture: Iterable[str] = (),
        trace_url: str | None = None,
        run_url: str | None = None,
        settle_quiet: Seconds = 30,
        settle_after: Seconds = 86_400,
        max_age: Seconds = 7 * 86_400,
        durable: bool = False,
        clock: Clock = clocks.now,
    ) -> None:
        if delivery not in ("thread", "external"):
            raise ConfigurationError(f'delivery is {delivery!r:.50}; use "thread" or "external"')
        settling = Settling(_duration(settle_quiet, "settle_quiet"), _duration(settle_after, "settle_after"))
        age = _duration(max_age, "max_age")
        if age <= settling.after:
            raise ConfigurationError("max_age must be longer than settle_after: final runs wait so long to be sent")
        if exporter is not None and _is_path(exporter):
            config.import_path(config.split(exporter, "exporter")[0], "exporter")
        self.storage = _storage(storage, url, durable, clock)
        """The storage that keeps the records."""
        self._owns_storage = self.storage is not storage
        self._exporter = exporter
        self.delivery = self._delivery(settling, age, threaded=delivery == "thread")
        """What sends the spans."""
        from otel_storage.telemetry.recording import Recording

        self.storage.listener = Recording(
            self.delivery.notify, service_name=service_name, capture=capture, trace_url=trace_url, run_url=run_url
        )
        self.delivery.start()

    build_pipeline_execution = _forwarded(PipelineStorage.build_pipeline_execution)
    get_pipeline_digest = _forwarded(PipelineStorage.get_pipeline_digest)
    get_pipeline_executions = _forwarded(PipelineStorage.get_pipeline_executions)
    get_pipeline_execution = _forwarded(PipelineStorage.get_pipeline_execution)
    get_pipeline_results = _forwarded(PipelineStorage.get_pipeline_results)
    get_pipeline_result = _forwarded(PipelineStorage.get_pipeline_result)
    get_task_executions = _forwarded(PipelineStorage.get_task_executions)
    get_task_execution = _forwarded(PipelineStorage.get_task_execution)
    get_task_results = _forwarded(PipelineStorage.get_task_results)
    get_task_result = _forwarded(PipelineStorage.get_task_result)
    cleanup = _forwarded(PipelineStorage.cleanup)

    def flush(self, timeout: float = 30.0) -> bool:
        """Send the spans that are due, and wait for it at most ``timeout`` seconds.

        Returns:
            True when all that was due at the call is acknowledged. Runs whose parents wait for the records below them
            do not count, nor does what another process is sending. With ``delivery="external"`` it waits for the
            process that sends, and is False if none does.
        """
        return self.delivery.flush(timeout)

    def close(self) -> None:
        """Send what is due, for 5 seconds at most, stop sending, and close a storage that was made here."""
        self.delivery.close()
        self.storage.listener = None
        if self._owns_storage:
            self.storage.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.storage!r})"

    def _delivery(self, settling: Settling, max_age: timedelta, *, threaded: bool) -> Delivery:
        # Imported here, as what exports is: a process that only reads needs none of it.
        from otel_storage.telemetry.delivery import Delivery
        from otel_storage.telemetry.run_trace import is_disabled
        from otel_storage.telemetry.sending import Sender, SendingRules

        rules = SendingRules(max_age=max_age, settling=settling)
        sender = Sender(self.storage.outbox, self._open_exporter, rules, self.storage.clock)
        return Delivery(
            self.storage.outbox,
            sender,
            self.storage.clock,
            threaded=threaded and not is_disabled(),
            describe=self._describe,
            serves_children=self._exporter is None or _is_path(self._exporter),
        )

    def _open_exporter(self) -> AcknowledgedExporter:
        from otel_storage.telemetry.exporting import open_exporter

        return open_exporter(self._exporter)

    def _describe(self) -> str:
        if self._exporter is None:
            # OpenTelemetry's exporters connect to nothing before they export.
            exporter = self._open_exporter()
            exporter.shutdown()
            return exporter.description
        if _is_path(self._exporter):
            return config.split(self._exporter, "exporter")[0]
        return f"{type(self._exporter).__module__}.{type(self._exporter).__qualname__}"


def _is_path(spec: object) -> bool:
    return isinstance(spec, (str, tuple, list))


def _storage(storage: Any, url: str | URL | None, durable: bool, clock: Clock) -> SqlPipelineStorage:
    if storage is None:
        return SqlPipelineStorage(url, durable=durable, clock=clock)
    if url is not None or durable:
        raise ConfigurationError("give url and durable to the storage itself, in its keyword arguments")
    if isinstance(storage, (str, tuple, list)):
        cls, kwargs = config.storage_class(storage, "storage")
        storage = config.instantiate(cls, kwargs, "storage", f"{cls.__module__}.{cls.__qualname__}")
    if not isinstance(storage, SqlPipelineStorage):
        raise ConfigurationError(
            f"storage: a {type(storage).__qualname__} cannot be wrapped yet; use otel_storage.SqlPipelineStorage"
        )
    if storage.listener is not None:
        raise ConfigurationError("storage: this one is wrapped by an OtelPipelineStorage already; give each its own")
    return storage


def _duration(value: Seconds, name: str) -> timedelta:
    if isinstance(value, timedelta):
        duration = value
    else:
        try:
            duration = timedelta(seconds=value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigurationError(f"{name} must be a number of seconds or a timedelta: {error}") from error
    if duration < timedelta(0):
        raise ConfigurationError(f"{name} must not be negative")
    return duration
