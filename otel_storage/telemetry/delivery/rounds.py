"""The background thread of a process: sends what is due, and what other processes left behind."""

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
"""Seconds of a round of the thread, about, that finished records are counted for: the process has other work."""

COUNTING_ASIDE = 0.5
"""Seconds of a round that a process sends by itself."""

LONGEST_PAUSE = 10.0
"""Seconds that the thread leaves a failing endpoint alone, at most, unless a flush asks."""


class Delivery:
    """Sends what is in the outbox, by a thread of this process or not at all.

    Args:
        outbox: Where the references are.
        sender: Sends them.
        clock: The outbox's clock.
        threaded: Whether this process sends by a thread of its own; else another process does, and this one sends only
            by :meth:`deliver_due`.
        describe: Says where the spans go, without credentials, as long as there is no exporter to ask.
        serves_children: Whether a forked child may send too; an exporter given as an instance serves one process.
        counting: Adds finished records to the totals, a bit of it in every round; None if others do.
        at_end: Called when the thread ends: it may have outlived :meth:`close`.
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
        """What the last flush waits for: references up to an id that were due by a time."""
        self._failures = 0
        _deliveries.add(self)

    @property
    def endpoint(self) -> str:
        """Where the spans go, without credentials."""
        return self._sender.endpoint or self._describe()

    def start(self) -> None:
        """Start the thread, if this process is to have one and it does not run."""
        is_running = self._thread is not None and self._thread.is_alive()
        if self.threaded and not self._is_closed and not is_running:
            self._thread = threading.Thread(
                target=_run, args=(weakref.ref(self), self._signal), name="otel-storage-delivery", daemon=True
            )
            self._thread.start()
            # Here, not where atexit is told: Celery may be imported long after this module, and a child that has
            # something to send starts a thread.
            host.at_celery_child_exit(_at_exit)

    def notify(self) -> None:
        """Say that there is something to send; takes no time."""
        if not self.threaded:
            return
        if self._thread is None or not self._thread.is_alive():
            self.start()
        self._signal.wake()

    def flush(self, timeout: float = 30.0) -> bool:
        """Send what is due now, and wait for it.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            True when all that was due at the call is acknowledged. Runs that have not settled, and what other
            processes hold a lease on, do not count. Without a thread it waits for the process that sends.
        """
        deadline = time.monotonic() + timeout
        if not self.threaded or self._is_closed:
            return self._wait_for_others(deadline)
        self.start()
        return self._signal.request_round(deadline)

    def deliver_due(
        self, on_progress: Callable[[DeliveryReport], None] | None = None, *, retry_now: bool = True
    ) -> DeliveryReport:
        """Send all that is due, in the thread that calls.

        Args:
            on_progress: Called after every request, with the report so far.
            retry_now: Send what is due later too, be it for a replay or the next attempt, and look again at the runs
                that are held.

        Raises:
            Exception: what the database raised.
        """
        with self._sending, without_instrumentation():
            if retry_now:
                self.outbox.hasten()
            report = self._send_due(on_progress)
            self._count(COUNTING_ASIDE)
            return report

    def watch(self) -> None:
        """Say that sending is all that this process does.

        Called before the first :meth:`deliver_due`, and between two of them as often as one likes.
        """
        with self._sending, without_instrumentation():
            self._heartbeat.watching()

    def close(self, timeout: float = EXIT_TIMEOUT) -> bool:
        """Send what is due, for ``timeout`` seconds at most, and stop; a failure ends it at once.

        Returns:
            Whether all that was due is acknowledged; True without a thread.
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
        """Begin anew in a forked child: the thread, and what it held, stayed with the parent."""
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
        """One round of the thread; returns the seconds to leave a failing endpoint or database alone, 0 if none is."""
        requested = signal.requested
        try:
            with self._sending:
                if requested > self._hastened_for:
                    # Once for each flush: one that has given up must not keep the others from their pause.
                    self._hastened_for = requested
                    self.outbox.hasten(tried_only=True)
                    self._meant = self.outbox.last_id(), self._clock()
                elif signal.is_closed:
                    # What failed a moment ago is left to the next process.
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
                return GATHER_INTERVAL  # a flush waits for what failed a moment ago, and is not due yet
        except Exception as error:  # noqa: BLE001 - telemetry never fails its host; said once per cause
            signal.is_drained = False
            self.complain(error)
            return self._pause()
        signal.complete(requested, is_drained=not report.refused)
        if not signal.is_closed:
            self._count_aside()
        return 0

    def complain(self, error: Exception) -> None:
        """Log what keeps spans from being sent, unless it was said since some were."""
        self._say(f"{type(error).__name__}: {error}")

    def stop(self) -> None:
        """End of the thread."""
        self._sender.close()
        self._at_end()

    def _send_due(
        self,
        on_progress: Callable[[DeliveryReport], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> DeliveryReport:
        """One round, which others see."""
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
        """Count what finished: whoever sends lives, and so the totals never fall far behind."""
        if self._counting is not None:
            self._counting.count(seconds=seconds)

    def _count_aside(self) -> None:
        """Count after a round of the thread: what fails there is not the spans' affair, nor who waits for them."""
        try:
            self._count(COUNTING)
        except Exception as error:  # noqa: BLE001 - telemetry never fails its host; said once per cause
            cause = f"{type(error).__name__}: {error}"
            if self._uncounted.is_new(cause):
                logger.warning("finished runs cannot be counted now, and will be later: %s", cause)
        else:
            self._uncounted.end()

    def _pause(self) -> float:
        """Twice as long after each failed round: new spans are no reason to ask a dead endpoint again."""
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
    """The thread: until the delivery is closed, or nobody has it any more."""
    with without_instrumentation():
        while (delivery := reference()) is not None:
            is_last = signal.is_closed
            with no_fork():
                pause = delivery.work(signal)
            if is_last:
                delivery.stop()
                return
            if signal.is_closed:
                continue  # with this one, which nobody else may have by now: it is to be stopped
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
