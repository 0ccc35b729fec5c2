"""The receiver: in a process of its own, which writes down what it takes before it says so, and can be killed."""

from __future__ import annotations

import base64
import os
import random
import signal
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_storage.testing.receiver import (
    DropAcknowledgement,
    Exchange,
    Fault,
    Fraction,
    OtlpReceiver,
    PartialSuccess,
    ReceivedRequest,
    Respond,
    Slow,
)
from tests.chaos import journal
from tests.chaos.images import Id, Image, images
from tests.chaos.ports import free_port

NAME = "received"
FAULTS = "faults"

PATIENCE = 10.0
"""Seconds that the receiver may take to begin."""


class Endpoint:
    """The receiver's process, as those see it who take it away and bring it back, always on one port.

    Args:
        context: Starts processes.
        folder: Where it writes down what it takes.
        seed: Of its dice.
        timeout: Seconds that a sender waits for an answer.
    """

    def __init__(self, context: ForkServerContext, folder: Path, seed: int, timeout: float) -> None:
        self.port = free_port()
        self.kills = 0
        self.outages = 0
        self._context = context
        self._folder = folder
        self._seed = seed
        self._timeout = timeout
        self._mode = "behave"
        self._number = 0
        self._process: ForkServerProcess | None = None
        self._pipe: Connection | None = None
        self._recovery = self._behave_as_before

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process, and wait until the port is open."""
        self._number += 1
        self._pipe, theirs = self._context.Pipe()
        arguments = (theirs, self.port, self._folder, f"{self._seed}/{self._number}", self._timeout)
        self._process = self._context.Process(target=receive, args=arguments, name="receiver")
        self._process.start()
        theirs.close()
        self._tell(self._mode)

    def behave(self) -> None:
        """Lift all faults."""
        self._mode = "behave"
        self._tell(self._mode)

    def misbehave(self) -> None:
        """Have some of the requests go wrong."""
        self._mode = "misbehave"
        self._tell(self._mode)

    def kill(self) -> None:
        """Take the process away, at any instruction."""
        self.outages += 1
        self.kills += 1
        self.end()
        self._recovery = self.start

    def close(self) -> None:
        """Close the port and its connections."""
        self._outage("close")

    def refuse(self) -> None:
        """Answer 503 to everything."""
        self._outage("refuse")

    def freeze(self) -> None:
        """Stop the process: the system accepts connections for it, and nobody answers."""
        self.outages += 1
        process = self._running()
        os.kill(process, signal.SIGSTOP)
        self._recovery = lambda: os.kill(process, signal.SIGCONT)

    def recover(self) -> None:
        """End the outage."""
        recovery, self._recovery = self._recovery, self._behave_as_before
        recovery()

    def end(self) -> None:
        """Kill the process; what it took is written down."""
        if self._process is not None and self._pipe is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = None

    def _outage(self, mode: str) -> None:
        self.outages += 1
        self._tell(mode)

    def _behave_as_before(self) -> None:
        self._tell(self._mode)

    def _running(self) -> int:
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    def _tell(self, mode: str) -> None:
        """Have the process change its ways, and wait until it has."""
        assert self._pipe is not None
        self._pipe.send(mode)
        if not self._pipe.poll(PATIENCE):
            raise TimeoutError(f"the receiver was told to {mode} and did not within {PATIENCE:g} s")
        self._pipe.recv()


def receive(orders: Connection, port: int, folder: Path, seed: str, timeout: float) -> None:
    """Receive as the orders say, until there are none any more: the process."""
    receiver = JournalingReceiver(port, folder)
    receiver.start()
    is_open = True
    told = journal.Journal(folder, FAULTS)
    now_and_then = [Told(fault, told) for fault in faults(seed, timeout)]
    while True:
        try:
            mode = orders.recv()
        except EOFError:
            return
        if mode == "close":
            receiver.stop()
        elif not is_open:
            receiver.start()
        is_open = mode != "close"
        receiver.behave()
        if mode == "refuse":
            receiver.misbehave(Told(Respond(503), told))
        elif mode == "misbehave":
            for fault in now_and_then:
                receiver.misbehave(fault)
        orders.send(mode)


def faults(seed: str, timeout: float) -> Iterator[Fault]:
    """What goes wrong now and then; the first that decides has its way."""
    dice = random.Random(seed)

    def some(part: float, fault: Fault) -> Fraction:
        return Fraction(part, fault, seed=dice.getrandbits(64))

    yield some(0.1, Slow(timeout / 4))
    yield some(0.05, Slow(timeout * 1.5))
    yield some(0.2, OfSeveral(PartialSuccess(1)))
    yield some(0.2, Respond(503))
    yield some(0.2, DropAcknowledgement())
    yield some(0.05, Respond(302))
    yield some(0.05, Close())


@dataclass(frozen=True)
class Told:
    """Applies another fault, and writes down that it did.

    Attributes:
        fault: The fault.
        journal: Where it is written down.
    """

    fault: Fault
    journal: journal.Journal

    def __call__(self, exchange: Exchange) -> bool:
        """Apply the fault, and write its name down if it acted."""
        has_acted = self.fault(exchange)
        if has_acted:
            self.journal.write(_name(self.fault))
        return has_acted


@dataclass(frozen=True)
class Close:
    """Takes nothing, and closes the connection without an answer."""

    def __call__(self, exchange: Exchange) -> bool:
        """Decide to say nothing."""
        return exchange.settle(None)


@dataclass(frozen=True)
class OfSeveral:
    """Applies another fault to requests of several spans alone: one that is rejected by itself is refused for good.

    Attributes:
        fault: The fault.
    """

    fault: Fault

    def __call__(self, exchange: Exchange) -> bool:
        """Apply the fault, if there are several."""
        return len(exchange.spans) > 1 and self.fault(exchange)


def faults_of(folder: Path) -> Counter[str]:
    """How often each fault acted, by its name."""
    return Counter(journal.read(folder, FAULTS))


def _name(fault: Any) -> str:
    if isinstance(fault, (Fraction, OfSeveral)):
        return _name(fault.fault)
    return _NAMES.get(type(fault)) or str(fault.status)


_NAMES = {
    Slow: "slow",
    PartialSuccess: "partial success",
    DropAcknowledgement: "acknowledgement lost",
    Close: "closed",
}


class JournalingReceiver(OtlpReceiver):
    """Writes down every span that it takes, before the answer leaves, and keeps nothing in memory."""

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port)
        self._journal = journal.Journal(folder, NAME)

    def _record(self, request: ReceivedRequest) -> None:
        if not request.accepted_spans:
            return
        taken = {(span.trace_id, span.span_id) for span in request.accepted_spans}
        found = images(ExportTraceServiceRequest.FromString(request.body))
        self._journal.write(*(_as_entry(image) for image in found if image.id in taken))


def received(folder: Path, *, whole: frozenset[Id] = frozenset()) -> Iterator[Image]:
    """Every span that any receiver of the folder took, as often as it did, in that order.

    There may be very many: only those of the ids that are to be ``whole`` have their bytes.
    """
    for trace_id, span_id, parent, start, end, digest, packed in journal.read(folder, NAME):
        id_ = trace_id, span_id
        span = zlib.decompress(base64.b85decode(packed)) if id_ in whole else b""
        yield Image(id_, parent, start, end, digest, span)


def _as_entry(image: Image) -> list[Any]:
    packed = base64.b85encode(zlib.compress(image.span, 1)).decode()
    return [*image.id, image.parent, image.start, image.end, image.digest, packed]
