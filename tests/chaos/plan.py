"""What goes wrong, and when: a function of the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Action(Enum):
    """Something that is done to the processes."""

    KILL_WRITER = "kill a writer"
    KILL_SENDER = "kill a sender"
    KILL_OPERATOR = "kill the operator"
    KILL_CHILD = "kill a child of the Celery worker"
    KILL_WORKER = "kill the Celery worker, or a child of it"
    PAUSE_SENDER = "stop a sender for longer than its lease"
    RESUME_SENDER = "let it go on"
    KILL_RECEIVER = "kill the receiver"
    CLOSE_RECEIVER = "close the receiver's port"
    FREEZE_RECEIVER = "have the receiver accept, and never answer"
    REFUSE = "have the receiver refuse everything"
    RECOVER = "end the outage of the receiver"
    CALM = "have the receiver behave"
    MISBEHAVE = "have the receiver misbehave now and then"
    STOP_DATABASE = "stop the database at once"
    START_DATABASE = "start it again"


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """An action at a time."""

    at: float
    """Seconds since the beginning."""
    action: Action
    pick: float
    """Which of the processes it is done to: a part of their number, 0 to 1."""


OUTAGES = (Action.KILL_RECEIVER, Action.CLOSE_RECEIVER, Action.FREEZE_RECEIVER, Action.REFUSE)


def make_plan(
    seed: int, seconds: float, *, kills: float, lease: float, restarts_database: bool, has_celery: bool
) -> list[Event]:
    """All that goes wrong within the seconds.

    Args:
        seed: Of the random numbers; the same one makes the same plan.
        seconds: How long it all takes.
        kills: Processes killed a second, on average.
        lease: Seconds that the lease of a sender lasts.
        restarts_database: Whether there is a database server that can be stopped and started.
        has_celery: Whether there are children of a Celery worker to kill.
    """

    def dice(name: str) -> random.Random:
        # A stream for each, so that one does not change the others.
        return random.Random(f"{seed}/{name}")

    events = [
        *_kills(dice("kills"), kills, has_celery, seconds),
        *_pauses(dice("pauses"), lease, seconds),
        *_outages(dice("receiver"), seconds),
    ]
    if has_celery:
        events += _worker_kills(dice("worker"), seconds)
    if restarts_database:
        events += _restarts(dice("database"), seconds)
    return sorted(events, key=lambda event: event.at)


def _kills(dice: random.Random, kills: float, has_celery: bool, seconds: float) -> Iterator[Event]:
    actions = [Action.KILL_WRITER] * 6 + [Action.KILL_SENDER] * 3 + [Action.KILL_OPERATOR]
    if has_celery:
        actions += [Action.KILL_CHILD] * 5
    at = dice.expovariate(kills)
    while at < seconds:
        yield Event(at, dice.choice(actions), dice.random())
        at += dice.expovariate(kills)


def _worker_kills(dice: random.Random, seconds: float) -> Iterator[Event]:
    """Rarer than those of its children: a worker takes its time to begin."""
    at = dice.uniform(6, 12)
    while at < seconds:
        yield Event(at, Action.KILL_WORKER, dice.random())
        at += dice.uniform(10, 20)


def _pauses(dice: random.Random, lease: float, seconds: float) -> Iterator[Event]:
    at = dice.uniform(1, 4)
    while at + lease + 1 < seconds:
        pick = dice.random()
        yield Event(at, Action.PAUSE_SENDER, pick)
        at += lease + dice.uniform(0.2, 1)
        yield Event(at, Action.RESUME_SENDER, pick)
        at += dice.uniform(3, 8)


def _outages(dice: random.Random, seconds: float) -> Iterator[Event]:
    """The receiver's life: it misbehaves, is calm for a while, or is away."""
    at = 0.0
    # Each kind has its turn, in an order of its own.
    waiting: list[Action] = []
    while at < seconds:
        yield Event(at, Action.MISBEHAVE, dice.random())
        at += dice.uniform(1.5, 3.5)
        if at < seconds and dice.random() < 0.5:
            yield Event(at, Action.CALM, dice.random())
            at += dice.uniform(0.5, 1.5)
        waiting = waiting or dice.sample(OUTAGES, len(OUTAGES))
        length = dice.uniform(0.3, 2)
        if at + length >= seconds:
            return
        yield Event(at, waiting.pop(), dice.random())
        at += length
        yield Event(at, Action.RECOVER, dice.random())


def _restarts(dice: random.Random, seconds: float) -> Iterator[Event]:
    at = dice.uniform(1, 3)
    while at + 2 < seconds:
        yield Event(at, Action.STOP_DATABASE, dice.random())
        at += dice.uniform(0.1, 1.5)
        yield Event(at, Action.START_DATABASE, dice.random())
        at += dice.uniform(4, 9)
