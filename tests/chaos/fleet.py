"""The processes of the storm: each has a place, and is followed by another when it is killed."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path


@dataclass
class Place:
    """Where one process follows the other."""

    role: str
    number: int
    work: Callable[[Path, str], None]
    process: ForkServerProcess | None = None
    generation: int = 0
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
    """Those that ended by themselves."""
    killed: set[int] = field(default_factory=set)
    """The ids of the processes that were killed."""

    def add(self, role: str, work: Callable[[Path, str], None], number: int) -> None:
        """Start that number of processes of a role."""
        for index in range(number):
            place = Place(role, index, work)
            self.places.append(place)
            self._start(place)

    def kill(self, role: str, pick: float) -> None:
        """Kill one of the role, at whatever instruction it is, and have another follow."""
        place = self._pick(role, pick)
        process = _process(place)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL and process.pid is not None:
            self.kills[role] += 1
            self.killed.add(process.pid)
        else:
            self._ended(place)
        self._start(place)

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
                self.problems.append(f"a {role} did not end within {patience:g} s of SIGTERM")
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

    def _start(self, place: Place) -> None:
        place.generation += 1
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
        words = self.folder / f"{place.role}.{process.pid}.words"
        said = words.read_text(errors="replace").strip().splitlines()[-1:] if words.exists() else []
        self.problems.append(f"a {place.role} ended by itself with {process.exitcode}: {' '.join(said)[:300]}")


def _process(place: Place) -> ForkServerProcess:
    assert place.process is not None
    return place.process


def _signal(place: Place, number: signal.Signals) -> None:
    process = _process(place)
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, number)
