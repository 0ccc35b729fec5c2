"""Guards against a slow-down: ratios and counts, measured small, beside those that were recorded.

A machine's speed is in no ratio, but its disk's and its load's share in the two sides is: a ratio may be as low as
:data:`MARGIN` of the recorded one, and has :data:`ATTEMPTS` to get there, as noise passes and a slow-down does not.
A count of queries or statements, which is a whole number, must not grow at all.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.running import Measured, run

RECORDED = Path(__file__).with_name("recorded.json")
"""By benchmark and engine, each figure's value; ``python -m tests.benchmarks --record`` writes it."""
SCALE = Scale(repeat=5, factor=0.02)
MARGIN = 0.5
ATTEMPTS = 3
RECORDINGS = 5
"""The median of so many is recorded."""

Values = dict[str, float]


def record(names: Sequence[str], urls: Sequence[str | None]) -> Iterator[str]:
    """Measure and record, and tell between what the figures were; those of other benchmarks and engines stay."""
    found: dict[tuple[str, str], list[Values]] = {}
    for _ in range(RECORDINGS):
        for one in run(names, urls, SCALE):
            found.setdefault((one.benchmark, one.engine), []).append(_values(one))
    recorded = read()
    for (benchmark, engine), values in found.items():
        medians = recorded.setdefault(benchmark, {})[engine] = {}
        for name in values[0]:
            least, *_, most = each = sorted(once[name] for once in values)
            medians[name] = round(statistics.median(each), 3)
            yield f"{engine}, {name}: {least:.3g} to {most:.3g}, {medians[name]:.3g} is recorded"
    RECORDED.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")


def read() -> dict[str, dict[str, Values]]:
    """The recorded figures."""
    recorded: dict[str, dict[str, Values]] = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    return recorded


def check(names: Sequence[str], urls: Sequence[str | None]) -> list[str]:
    """What is slower than recorded: measured again as long as it is, :data:`ATTEMPTS` times at most."""
    recorded = read()
    # A benchmark without a guarded figure is recorded as empty, and is not run.
    names = [name for name in names if name not in recorded or any(recorded[name].values())]
    slow: dict[str, list[str]] = {}
    for _ in range(ATTEMPTS):
        slow = {}
        for one in run(names, urls, SCALE):
            slow.setdefault(one.benchmark, []).extend(slower(one, recorded.get(one.benchmark, {}).get(one.engine, {})))
        names = [name for name, complaints in slow.items() if complaints]
        if not names:
            break
    return [complaint for complaints in slow.values() for complaint in complaints]


def slower(measured: Measured, recorded: Mapping[str, float]) -> Iterator[str]:
    """Say of each guarded figure what is wrong with it, if anything is."""
    for figure in measured.figures:
        if not figure.is_guarded:
            continue
        known = recorded.get(_name(figure))
        where = f"{_name(figure)}, {measured.engine}"
        if known is None:
            yield f"{where}: nothing is recorded: python -m tests.benchmarks --record --only {measured.benchmark}"
        elif is_worse(figure, known):
            yield f"{where}: {figure.value:.3g}, and {known:.3g} is recorded"


def is_worse(figure: Figure, recorded: float) -> bool:
    """Whether the figure is worse than the recorded one by more than noise."""
    if figure.at_least is not None:
        return figure.value < recorded * MARGIN
    if float(figure.value).is_integer() and float(recorded).is_integer():
        return figure.value > recorded
    return figure.value > recorded / MARGIN


def _values(measured: Measured) -> Values:
    return {_name(figure): figure.value for figure in measured.figures if figure.is_guarded}


def _name(figure: Figure) -> str:
    return f"{figure.work}: {figure.name}"
