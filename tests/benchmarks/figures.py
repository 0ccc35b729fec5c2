"""What a benchmark finds: a figure, and what it is to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from tests.benchmarks.measuring import Databases


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of one run of a benchmark: a median, or a ratio of medians from the same run."""

    work: str
    """The measured work, e.g. ``status changes, eager``."""
    engine: str
    """``sqlite``, ``postgresql``, or ``-`` where no database takes part."""
    name: str
    """What the value is, e.g. ``x the host's ORM storage``, ``x the Core floor``, ``spans a second``, ``ms``,
    ``queries``."""
    value: float
    at_least: float | None = None
    """The target, where more is better."""
    at_most: float | None = None
    """The target, where less is better."""
    is_guarded: bool = False
    """Whether a recorded value guards it against a slow-down: ratios and counts only, never times."""

    @property
    def verdict(self) -> Literal["met", "missed", ""]:
        """Whether the target is met; empty where there is none."""
        if self.at_least is None and self.at_most is None:
            return ""
        is_met = (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )
        return "met" if is_met else "missed"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much work is done: the full scale is that of the targets, a small one that of a test."""

    repeat: int = 5
    """How often each is run, interleaved with what it is compared with; the median counts."""
    factor: float = 1.0
    """The factor of the full sizes."""

    def of(self, size: int) -> int:
        """The size at this scale, at least 1."""
        return max(1, round(size * self.factor))


Benchmark = Callable[[Databases, Scale], Iterator[Figure]]
"""Measures on one engine."""
