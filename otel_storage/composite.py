"""OtelPipelineStorage: a storage that makes every run a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from sqlalchemy import URL

from otel_storage.ports.outbox import Settling
from otel_storage.results import clock as clocks
from otel_storage.results import config
from otel_storage.results.base import HostRecord, PipelineStorage
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.sql.storage import SqlPipelineStorage

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from otel_storage.results.clock import Clock
    from otel_storage.telemetry.delivery.rounds import Delivery
    from otel_storage.telemetry.otlp.exporter import AcknowledgedExporter
    from otel_storage.watch.storage import StorageWatch

Method = TypeVar("Method", bound=Callable[..., Any])

Seconds = float | timedelta


COPIES_PATIENCE = 5.0
"""The most seconds that a run of a wrapped storage waits for the database of its copies."""


def _forwarded(method: Method) -> Method:
    """Forwards a method to the wrapped storage's method of the same name."""
    name = method.__name__

    @wraps(method)
    def forward(self: OtelPipelineStorage, *args: Any, **kwargs: Any) -> Any:
        found = getattr(self.storage, name)(*args, **kwargs)
        if self._watch is not None and isinstance(found, HostRecord):
            self._watch.see(found)
        return found

    return cast("Method", forward)


def _told(method: Method) -> Method:
    """Forwards a method whose changes telemetry must see: to our storage, or to the watch of any other storage."""
    name = method.__name__

    @wraps(method)
    def forward(self: OtelPipelineStorage, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._teller, name)(*args, **kwargs)

    return cast("Method", forward)


class OtelPipelineStorage(PipelineStorage):
    """Keeps the records of pipeline runs in a storage, and makes every run an OpenTelemetry trace.

    Records are the storage's own objects. The transaction that makes a record final also writes a reference to the
    record into the outbox. A thread of this process, or ``otel-storage deliver --watch``, sends the record's span until
    the endpoint acknowledges it. The records of a wrapped storage are watched: just after each of its commits, the data
    for spans is copied into a database beside it.

    Args:
        storage: None for a :class:`~otel_storage.sql.storage.SqlPipelineStorage` on ``url``; or any storage, as an
            instance, a dotted path of its class, or a pair of a path and keyword arguments.
        url: The database of a storage that this class makes; see ``SqlPipelineStorage``.
        outbox_url: The database beside a wrapped storage; the default is that of ``url``.
        exporter: None for OTLP as OpenTelemetry's standard variables (``OTEL_EXPORTER_OTLP_*``) say; or a
            ``SpanExporter``, as an instance (which serves this process alone), a path, or a pair.
        delivery: ``"thread"`` to send by a background thread of each process, ``"external"`` to leave sending to
            another process: ``otel-storage deliver --watch``.
        service_name: The service that runs are traced under; None takes ``OTEL_SERVICE_NAME``, else ``pipelines``.
        capture: What may leave the process beside states, identities and error messages: any of ``"input_data"``,
            ``"config"``, ``"objects"`` and ``"messages"`` (of validation errors).
        trace_url: The address of a trace in a viewer, e.g. ``http://jaeger:16686/trace/{trace_id}``: ``{trace_id}`` and
            ``{run_id}`` are replaced. ``get_trace_url()`` of records returns the address.
        run_url: The address of a run's page, e.g. ``https://ops.example.com/pipelines/{run_id}/results/``. The run's
            root span has the address as an attribute.
        settle_quiet: Seconds that a final run with PENDING records waits, without a change, for its parent spans to be
            sent.
        settle_after: The same for a final run with a RUNNING task result.
        max_age: Seconds after which a span that cannot be delivered expires, and is no longer sent.
        lease: Seconds for which a sender holds references; after that time, other senders can take those of a killed
            sender. A longer timeout of an OTLP exporter is cut to 0.8 of the lease.
        durable, message_limit: See ``SqlPipelineStorage``; for a wrapped storage, they apply to the database beside it.
        clock: Returns the current time, aware and in UTC.

    Raises:
        ConfigurationError: an argument cannot be used; the message names it.
    """

    def __init__(
        self,
        storage: PipelineStorage | str | tuple[str, dict[str, Any]] | None = None,
        *,
        url: str | URL | None = None,
        outbox_url: str | URL | None = None,
        exporter: SpanExporter | str | tuple[str, dict[str, Any]] | None = None,
        delivery: Literal["thread", "external"] = "thread",
        service_name: str | None = None,
        capture: Iterable[str] = (),
        trace_url: str | None = None,
        run_url: str | None = None,
        settle_quiet: Seconds = 30,
        settle_after: Seconds = 86_400,
        max_age: Seconds = 7 * 86_400,
        lease: Seconds = 60,
        durable: bool = False,
        message_limit: int | None = None,
        clock: Clock = clocks.now,
    ) -> None:
        if delivery not in ("thread", "external"):
            raise ConfigurationError(f'delivery is {delivery!r:.50}; use "thread" or "external"')
        settling = Settling(_duration(settle_quiet, "settle_quiet"), _duration(settle_after, "settle_after"))
        age = _duration(max_age, "max_age")
        if age <= settling.after:
            raise ConfigurationError("max_age must be longer than settle_after: a final run may wait that long")
        leased = _duration(lease, "lease")
        if not leased:
            raise ConfigurationError("lease must be longer than 0: it keeps two processes from sending the same spans")
        if exporter is not None and _is_path(exporter):
            config.import_path(config.split(exporter, "exporter")[0], "exporter")
        options: dict[str, Any] = {"durable": True} if durable else {}
        if message_limit is not None:
            options["message_limit"] = message_limit
        self.storage = _storage(storage, url, options, clock)
        """The storage that keeps the records."""
        self.records = _records(self.storage, outbox_url, options, clock)
        """The storage whose tables hold the outbox: the storage itself, or the one beside a wrapped storage."""
        self._owns_storage = self.storage is not storage
        self._exporter = exporter
        self._lease = leased
        self.delivery = self._delivery(settling, age, leased, threaded=delivery == "thread")
        """The delivery of spans."""
        from otel_storage.telemetry.recording import Recording

        recording = Recording(
            self.delivery.notify, service_name=service_name, capture=capture, trace_url=trace_url, run_url=run_url
        )
        self._watch = None if self.records is self.storage else self._watch_storage()
        self._teller = self.records if self._watch is None else self._watch
        self._teller.listener = recording
        if (problem := self.export_problem) is not None:
            self.delivery.complain(problem)
        self.delivery.start()

    build_pipeline_execution = _told(PipelineStorage.build_pipeline_execution)
    get_pipeline_digest = _forwarded(PipelineStorage.get_pipeline_digest)
    get_pipeline_executions = _forwarded(PipelineStorage.get_pipeline_executions)
    get_pipeline_execution = _forwarded(PipelineStorage.get_pipeline_execution)
    get_pipeline_results = _forwarded(PipelineStorage.get_pipeline_results)
    get_pipeline_result = _forwarded(PipelineStorage.get_pipeline_result)
    get_task_executions = _forwarded(PipelineStorage.get_task_executions)
    get_task_execution = _forwarded(PipelineStorage.get_task_execution)
    get_task_results = _forwarded(PipelineStorage.get_task_results)
    get_task_result = _forwarded(PipelineStorage.get_task_result)
    cleanup = _told(PipelineStorage.cleanup)

    @property
    def export_problem(self) -> ConfigurationError | None:
        """Why no span can be sent, judged by OpenTelemetry's variables alone; connects to nothing."""
        from otel_storage.telemetry.otlp.exporter import problem_of
        from otel_storage.telemetry.spans.run_trace import is_disabled

        return None if is_disabled() else problem_of(self._exporter)

    def flush(self, timeout: float = 30.0) -> bool:
        """Send the due spans, and wait at most ``timeout`` seconds for their acknowledgement.

        Returns:
            True if everything that was due at the call is acknowledged. Runs whose parent spans wait for unfinished
            records do not count, nor do references leased to another process. With ``delivery="external"`` this waits
            for the other process, and returns False if no process sends.
        """
        return self.delivery.flush(timeout)

    def close(self) -> None:
        """Send what is due for at most 5 seconds, stop sending, and close the storage if this class made it."""
        self.delivery.close()
        self._teller.listener = None
        if self._watch is not None:
            self._watch.close()
            self.records.close()
        close = getattr(self.storage, "close", None)
        if self._owns_storage and close is not None:
            close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.storage!r})"

    def _delivery(self, settling: Settling, max_age: timedelta, lease: timedelta, *, threaded: bool) -> Delivery:
        # Imported here, like the exporter: a process that only reads needs neither.
        from otel_storage.telemetry.delivery.rounds import Delivery
        from otel_storage.telemetry.delivery.sending import Sender, SendingRules
        from otel_storage.telemetry.spans.run_trace import is_disabled

        rules = SendingRules(max_age=max_age, settling=settling, lease=lease)
        sender = Sender(self.records.outbox, self._open_exporter, rules, self.records.clock)
        closes_records = self._owns_storage or self.records is not self.storage
        return Delivery(
            self.records.outbox,
            sender,
            self.records.clock,
            threaded=threaded and not is_disabled(),
            describe=self._describe,
            serves_children=self._exporter is None or _is_path(self._exporter),
            counting=self.records.totals,
            # A thread that outlives the storage may open connections again: close them.
            at_end=self.records.database.dispose if closes_records else lambda: None,
        )

    def _watch_storage(self) -> StorageWatch:
        # Imported here, because most storages are ours and need no watch.
        from otel_storage.sql.records.record import SqlRecord
        from otel_storage.sql.upkeep.copies import SqlCopies
        from otel_storage.watch.storage import StorageWatch

        database = self.records.database.with_patience(COPIES_PATIENCE)
        copies = SqlCopies(database, self.records.clock, self.records.message_limit)
        return StorageWatch(self.storage, copies, self.records.clock, SqlRecord)

    def _open_exporter(self) -> AcknowledgedExporter:
        from otel_storage.telemetry.otlp.exporter import open_exporter

        return open_exporter(self._exporter, lease=self._lease)

    def _describe(self) -> str:
        if self._exporter is None:
            # Opening is cheap: OpenTelemetry's exporters do not connect before they export.
            exporter = self._open_exporter()
            exporter.shutdown()
            return exporter.description
        if _is_path(self._exporter):
            return config.split(self._exporter, "exporter")[0]
        return f"{type(self._exporter).__module__}.{type(self._exporter).__qualname__}"


def _is_path(spec: object) -> bool:
    return isinstance(spec, (str, tuple, list))


def _storage(storage: Any, url: str | URL | None, options: dict[str, Any], clock: Clock) -> PipelineStorage:
    if storage is None:
        return SqlPipelineStorage(url, clock=clock, **options)
    if url is not None:
        raise ConfigurationError(
            "url: the given storage has its own database, which the storage's keyword arguments set; outbox_url sets "
            "the database beside it"
        )
    if isinstance(storage, str) and "://" in storage:
        raise ConfigurationError("storage: this is the URL of a database; use url=")
    if isinstance(storage, (str, tuple, list)):
        cls, kwargs = config.storage_class(storage, "storage")
        storage = config.instantiate(cls, kwargs, "storage", f"{cls.__module__}.{cls.__qualname__}")
    expected = config.expected_class()
    if not isinstance(storage, expected):
        raise ConfigurationError(f"storage: {type(storage).__qualname__} does not extend {expected.__name__}")
    if isinstance(storage, OtelPipelineStorage):
        raise ConfigurationError("storage: an OtelPipelineStorage is not wrapped again; give it the storage itself")
    if isinstance(storage, SqlPipelineStorage):
        for name in options:
            raise ConfigurationError(f"{name}: give it to the SqlPipelineStorage itself, in its keyword arguments")
        if storage.listener is not None:
            raise ConfigurationError(
                "storage: another OtelPipelineStorage wraps this storage already; give each a storage of its own"
            )
    return storage


def _records(
    storage: PipelineStorage, outbox_url: str | URL | None, options: dict[str, Any], clock: Clock
) -> SqlPipelineStorage:
    """The storage itself if its records are in our tables, otherwise a new one for the database beside it."""
    if not isinstance(storage, SqlPipelineStorage):
        try:
            return SqlPipelineStorage(outbox_url, clock=clock, **options)
        except ConfigurationError as error:
            raise ConfigurationError(f"outbox_url: {error}") from error
    if outbox_url is not None:
        raise ConfigurationError("outbox_url: a SqlPipelineStorage has its outbox in its own database; leave it out")
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
