"""The processes of the storm: each has a place, and is followed by another when it is killed."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from tests.chaos.roles import words_of

_WORKER_START = 4.0
"""Seconds that a Celery worker has to begin."""

_CELERY_GAVE_UP = "WorkerLostError: Could not start worker processes"
"""What it says that lost a child before it was ready; somebody else starts it again."""


@dataclass
class Place:
    """Where one process follows the other."""

    role: str
    number: int
    work: Callable[[Path, str], None]
    process: ForkServerProcess | None = None
    generation: int = 0
    began: float = 0.0
    is_paused: bool = False


@dataclass
class Fleet:
    """Processes by their places."""

    context: ForkServerContext
    folder: Path
    seed: int
    places: list[Place] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    """How many were killed while they ran, by role."""
    problems: list[str] = field(default_factory=list)
    """Processes that ended by themselves."""
    killed: dict[int, tuple[str, float]] = field(default_factory=dict)
    """The roles of the processes that were killed, and when, by their ids."""

    def add(self, role: str, work: Callable[[Path, str], None], number: int) -> None:
        """Start that number of processes of a role."""
        for index in range(number):
            place = Place(role, index, work)
            self.places.append(place)
            self._start(place)

    def kill(self, role: str, pick: float) -> None:
        """Kill one of the role, at whatever instruction it is, and have another follow.

        Of one that has children, it is one of them as often as all of them and itself.
        """
        place = self._pick(role, pick)
        children = _children(place)
        if children and pick * 1000 % 1 < 0.5:
            self.kill_child(role, pick)
            return
        _signal(place, signal.SIGSTOP)  # so that no other child follows
        self._kill_children(role, _children(place))
        process = _process(place)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL and process.pid is not None:
            self._count(role, process.pid)
        else:
            self._ended(place)
        self._start(place)

    def kill_child(self, role: str, pick: float) -> None:
        """Kill a child of one of the role, if it has any; what follows is up to the parent.

        A Celery worker is left alone at first: it gives up if it loses a child before it is ready.
        """
        place = self._pick(role, pick)
        children = _children(place)
        if children and (role != "worker" or time.monotonic() > place.began + _WORKER_START):
            self._kill_children(role, [children[int(pick * 1_000_000 % 1 * len(children))]])

    def pause(self, role: str, pick: float) -> None:
        """Have one of the role stop where it is."""
        place = self._pick(role, pick)
        place.is_paused = True
        _signal(place, signal.SIGSTOP)

    def resume(self, role: str, pick: float) -> None:
        """Have it go on, unless it was killed meanwhile."""
        place = self._pick(role, pick)
        if place.is_paused:
            place.is_paused = False
            _signal(place, signal.SIGCONT)

    def tend(self) -> None:
        """Replace those that ended by themselves, and remember it: none should."""
        for place in self.places:
            if not _process(place).is_alive():
                self._ended(place)
                self._start(place)

    def stop(self, role: str, patience: float) -> None:
        """Have all of the role end by themselves, within seconds; they have no place any more."""
        places = [place for place in self.places if place.role == role]
        self.places = [place for place in self.places if place.role != role]
        for place in places:
            _signal(place, signal.SIGTERM)
            if place.is_paused:
                _signal(place, signal.SIGCONT)
        deadline = time.monotonic() + patience
        for place in places:
            process = _process(place)
            process.join(max(deadline - time.monotonic(), 0))
            if process.exitcode is None:
                self.problems.append(f"{role} {process.pid} did not end within {patience:g} s of SIGTERM")
                self._have_told(place)
                self._kill_children(role, _children(place))
                process.kill()
                process.join()
            elif process.exitcode not in (0, -signal.SIGTERM):
                self._ended(place)

    def end(self) -> None:
        """Kill whatever still runs."""
        for place in self.places:
            process = _process(place)
            process.kill()
            process.join()
        self.places.clear()

    def _kill_children(self, role: str, children: list[int]) -> None:
        # A child that was killed a moment ago may still exist as a zombie.
        for pid in set(children) - self.killed.keys():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self._count(f"child of a {role}", pid)

    def _count(self, role: str, pid: int) -> None:
        self.kills[role] += 1
        self.killed[pid] = role, time.time()

    def _have_told(self, place: Place) -> None:
        """Have it and its children say what their threads do."""
        for pid in (_process(place).pid, *_children(place)):
            if pid is not None:
                os.kill(pid, signal.SIGUSR1)
        time.sleep(1)

    def _start(self, place: Place) -> None:
        place.generation += 1
        place.began = time.monotonic()
        place.is_paused = False
        seed = f"{self.seed}/{place.role}/{place.number}/{place.generation}"
        place.process = self.context.Process(target=place.work, args=(self.folder, seed), name=place.role)
        place.process.start()

    def _pick(self, role: str, pick: float) -> Place:
        places = [place for place in self.places if place.role == role]
        return places[int(pick * len(places))]

    def _ended(self, place: Place) -> None:
        process = _process(place)
        process.join()
        words = words_of(self.folder, place.role, process.pid or 0)
        said = words.read_text(errors="replace").strip().splitlines()[-1:] if words.exists() else []
        if said and said[0].endswith(_CELERY_GAVE_UP):
            return
        self.problems.append(
            f"{place.role} {process.pid} ended by itself with {process.exitcode}: {' '.join(said)[:300]}"
        )


def _process(place: Place) -> ForkServerProcess:
    assert place.process is not None
    return place.process


def _children(place: Place) -> list[int]:
    """The processes that it has forked."""
    pid = _process(place).pid
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _signal(place: Place, number: signal.Signals) -> None:
    process = _process(place)
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, number)
