"""The background thread of a process: sends due spans, including those that other processes left behind."""

from __future__ import annotations

import atexit
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from otel_storage.results import host
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.runtime.complaints import Complaints
from otel_storage.runtime.forking import no_fork
from otel_storage.telemetry.delivery.heartbeat import Heartbeat
from otel_storage.telemetry.delivery.sending import DeliveryReport, Sender
from otel_storage.telemetry.delivery.waking import EXIT_TIMEOUT, GATHER_INTERVAL, POLL_INTERVAL, Signal
from otel_storage.telemetry.otlp.internals import without_instrumentation

if TYPE_CHECKING:
    from otel_storage.ports.outbox import Outbox
    from otel_storage.ports.totals import Counting
    from otel_storage.results.clock import Clock

logger = logging.getLogger("otel_storage")

COUNTING = 0.05
"""Seconds per round, about, in which the thread counts finished records; short, because the process has other work."""

COUNTING_ASIDE = 0.5
"""The same for a process that does nothing but send."""

LONGEST_PAUSE = 10.0
"""The longest pause in seconds after failures, unless a flush asks for a round."""


class Delivery:
    """Sends what is in the outbox, by a thread of this process or not at all.

    Args:
        outbox: The outbox with the references.
        sender: Sends the references' spans.
        clock: The outbox's clock.
        threaded: Whether this process sends by a thread of its own; else another process does, and this one sends only
            by :meth:`deliver_due`.
        describe: Returns the endpoint, without credentials, as long as no exporter is open.
        serves_children: Whether a forked child may send too; an exporter given as an instance serves one process.
        counting: Adds finished records to the totals, some in every round; None if other processes do.
        at_end: Called when the thread ends, possibly after :meth:`close` has returned.
    """

    poll_interval = POLL_INTERVAL

    def __init__(
        self,
        outbox: Outbox,
        sender: Sender,
        clock: Clock,
        *,
        threaded: bool,
        describe: Callable[[], str],
        serves_children: bool = True,
        counting: Counting | None = None,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.outbox = outbox
        self._counting = counting
        self._at_end = at_end
        self.threaded = threaded
        self.sent = 0
        """Spans accepted since this process began."""
        self._heartbeat = Heartbeat(outbox.senders, clock)
        self._sender = sender
        self._clock = clock
        self._describe = describe
        self._serves_children = serves_children
        self._is_closed = False
        self._sending = threading.Lock()
        self._signal = Signal()
        self._thread: threading.Thread | None = None
        self._complaints = Complaints()
        self._uncounted = Complaints()
        self._hastened_for = 0
        self._meant = 0, clock()
        """The target of the last flush: references up to this id that were due by this time."""
        self._failures = 0
        _deliveries.add(self)

    @property
    def endpoint(self) -> str:
        """The endpoint, without credentials."""
        return self._sender.endpoint or self._describe()

    def start(self) -> None:
        """Start the thread, if this process should have one and it is not running."""
        is_running = self._thread is not None and self._thread.is_alive()
        if self.threaded and not self._is_closed and not is_running:
            self._thread = threading.Thread(
                target=_run, args=(weakref.ref(self), self._signal), name="otel-storage-delivery", daemon=True
            )
            self._thread.start()
            # Register here: Celery may be imported long after this module, and a child with something to send calls
            # start().
            host.at_celery_child_exit(_at_exit)

    def notify(self) -> None:
        """Wake the thread because there is something to send; never blocks."""
        if not self.threaded:
            return
        if self._thread is None or not self._thread.is_alive():
            self.start()
        self._signal.wake()

    def flush(self, timeout: float = 30.0) -> bool:
        """Send the due references, and wait until they are acknowledged.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            True if everything that was due at the call is acknowledged. Runs that have not settled do not count, nor do
            references leased to other processes. Without a thread, this waits for another process to send.
        """
        deadline = time.monotonic() + timeout
        if not self.threaded or self._is_closed:
            return self._wait_for_others(deadline)
        self.start()
        return self._signal.request_round(deadline)

    def deliver_due(
        self, on_progress: Callable[[DeliveryReport], None] | None = None, *, retry_now: bool = True
    ) -> DeliveryReport:
        """Send everything that is due, in the calling thread.

        Args:
            on_progress: Called after every request, with the report so far.
            retry_now: Also send references that are due later, for a replay or a next attempt, and check held runs
                again.

        Raises:
            Exception: the database's error.
        """
        with self._sending, without_instrumentation():
            if retry_now:
                self.outbox.hasten()
            report = self._send_due(on_progress)
            self._count(COUNTING_ASIDE)
            return report

    def watch(self) -> None:
        """Report that this process does nothing but send.

        Call it before the first :meth:`deliver_due`, and at any time between two calls.
        """
        with self._sending, without_instrumentation():
            self._heartbeat.watching()

    def close(self, timeout: float = EXIT_TIMEOUT) -> bool:
        """Send what is due for at most ``timeout`` seconds, then stop; a failure stops at once.

        Returns:
            Whether everything that was due is acknowledged; True without a thread.
        """
        if self._is_closed:
            return True
        self._is_closed = True
        thread, self._thread = self._thread, None
        if thread is None:
            self._sender.close()
            return True
        self._signal.close()
        thread.join(timeout)
        return self._signal.is_drained and not thread.is_alive()

    def after_fork(self) -> None:
        """Start afresh in a forked child: the thread, and the locks that it held, exist in the parent only."""
        self._sending = threading.Lock()
        self._signal = Signal()
        self._hastened_for = 0
        self._failures = 0
        self._thread = None
        self._sender.forget_exporter()
        self._heartbeat.after_fork()
        if not self._serves_children and self.threaded:
            self.threaded = False
            logger.info(
                "the exporter is an instance, which serves one process: this child leaves sending to its parent"
            )

    def work(self, signal: Signal) -> float:
        """Run one round; returns the seconds to pause if the endpoint or the database fails, else 0."""
        requested = signal.requested
        try:
            with self._sending:
                if requested > self._hastened_for:
                    # Only once per flush: a flush that has given up must not cancel the pauses of others.
                    self._hastened_for = requested
                    self.outbox.hasten(tried_only=True)
                    self._meant = self.outbox.last_id(), self._clock()
                elif signal.is_closed:
                    # At exit, do not retry references that failed a moment ago: the next process does.
                    self.outbox.hasten(held_only=True)
                report = self._send_due(should_stop=lambda: signal.is_late)
            if report.error:
                signal.is_drained = False
                self._say(f"{self.endpoint}: {report.error}")
                return self._pause()
            if report.sent and self._complaints.end():
                logger.info("spans are delivered to %s again", self.endpoint)
            self._failures = 0
            if requested > signal.completed and self.outbox.has_unsent(*self._meant, leased_too=False):
                return GATHER_INTERVAL  # a flush waits for references that failed a moment ago and are not due yet
        except Exception as error:  # noqa: BLE001 - telemetry never fails its host; each error is logged once
            signal.is_drained = False
            self.complain(error)
            return self._pause()
        signal.complete(requested, is_drained=not report.refused)
        if not signal.is_closed:
            self._count_aside()
        return 0

    def complain(self, error: Exception) -> None:
        """Log why spans cannot be sent, unless that was logged since spans were last sent."""
        self._say(f"{type(error).__name__}: {error}")

    def stop(self) -> None:
        """Clean up at the end of the thread."""
        self._sender.close()
        self._at_end()

    def _send_due(
        self,
        on_progress: Callable[[DeliveryReport], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> DeliveryReport:
        """Send in one round, and report its results to the database."""
        sent_before = 0

        def tell(report: DeliveryReport) -> None:
            nonlocal sent_before
            self._heartbeat.sent(accepted=report.sent > sent_before, error=report.error)
            sent_before = report.sent
            if on_progress is not None:
                on_progress(report)

        try:
            report = self._sender.send_due(tell, should_stop)
        except ConfigurationError as error:
            self._heartbeat.sent(accepted=False, error=str(error))
            raise
        self.sent += report.sent
        return report

    def _count(self, seconds: float) -> None:
        """Count finished records. Every sender does, so the totals never fall far behind."""
        if self._counting is not None:
            self._counting.count(seconds=seconds)

    def _count_aside(self) -> None:
        """Count after a round of the thread; a failure affects neither the spans nor a flush."""
        try:
            self._count(COUNTING)
        except Exception as error:  # noqa: BLE001 - telemetry never fails its host; each error is logged once
            cause = f"{type(error).__name__}: {error}"
            if self._uncounted.is_new(cause):
                logger.warning("finished runs cannot be counted now, and will be later: %s", cause)
        else:
            self._uncounted.end()

    def _pause(self) -> float:
        """The pause in seconds, doubled after each failed round; new spans do not shorten it."""
        self._failures += 1
        longest = min(GATHER_INTERVAL * 2.0 ** min(self._failures, 10), LONGEST_PAUSE)
        return longest * random.uniform(0.7, 1)  # noqa: S311 - a jitter is no secret

    def _say(self, cause: str) -> None:
        if self._complaints.is_new(cause):
            logger.warning("spans wait in the outbox, nothing is lost: %s", cause)

    def _wait_for_others(self, deadline: float) -> bool:
        last_id, due_by = self.outbox.last_id(), self._clock()
        while self.outbox.has_unsent(last_id, due_by):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        return True


def _run(reference: weakref.ref[Delivery], signal: Signal) -> None:
    """The thread's work, until the delivery is closed or garbage-collected."""
    with without_instrumentation():
        while (delivery := reference()) is not None:
            is_last = signal.is_closed
            with no_fork():
                pause = delivery.work(signal)
            if is_last:
                delivery.stop()
                return
            if signal.is_closed:
                continue  # keep this reference, possibly the last one, because the delivery must still be stopped
            del delivery
            signal.wait(pause)


_deliveries: weakref.WeakSet[Delivery] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for delivery in list(_deliveries):
        delivery.after_fork()


def _at_exit(**_: object) -> None:
    deadline = time.monotonic() + EXIT_TIMEOUT
    for delivery in list(_deliveries):
        delivery.close(max(deadline - time.monotonic(), 0))


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
