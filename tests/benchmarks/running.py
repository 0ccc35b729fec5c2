"""Runs the benchmarks, each on each engine in a process of its own."""

from __future__ import annotations

import importlib
import multiprocessing
import pkgutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL

import tests.benchmarks
from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.measuring import Databases, databases

WITHOUT_DATABASE = {"importing"}
"""Benchmarks in which no database takes part: one engine is enough."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one benchmark found on one engine."""

    benchmark: str
    engine: str
    figures: Sequence[Figure]


def benchmarks() -> list[str]:
    """The names of the modules that measure something."""
    names = (module.name for module in pkgutil.iter_modules(tests.benchmarks.__path__))
    return [name for name in names if not name.startswith(("test_", "__")) and hasattr(_module(name), "measure")]


def run(names: Sequence[str], urls: Sequence[str | None], scale: Scale) -> Iterator[Measured]:
    """Run the benchmarks on each engine in turn; None is SQLite, in a file.

    A process serves one benchmark: neither what the one before left in memory nor what it imported matters to the next.
    What takes long to make, a long history, is made once for all.
    """
    with ExitStack() as stack:
        shared = [stack.enter_context(databases(url)) for url in urls]
        for name in names:
            for made in shared[:1] if name in WITHOUT_DATABASE else shared:
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                    figures, histories = process.submit(_measure, name, made, scale).result()
                made.adopt(histories)
                yield Measured(name, "-" if name in WITHOUT_DATABASE else made.engine, figures)


def _measure(name: str, shared: Databases, scale: Scale) -> tuple[list[Figure], dict[int, URL]]:
    with databases(shared.server, shared) as made:
        return list(_module(name).measure(made, scale)), made.histories


def _module(name: str) -> Any:
    return importlib.import_module(f"tests.benchmarks.{name}")
