"""What ``import otel_storage`` costs, and what it leaves alone until it is used."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator

from tests.benchmarks.figures import Figure, Scale
from tests.benchmarks.measuring import Databases

LATER = ("grpc", "django", "sqlalchemy")

_IMPORT = """
import sys, time
began = time.perf_counter()
import otel_storage
print(time.perf_counter() - began, *sys.modules)
"""


def measure(databases: Databases, scale: Scale) -> Iterator[Figure]:
    """Import it in fresh processes, whose standard library is imported as far as Python does it by itself."""
    seconds = []
    modules: set[str] = set()
    for _ in range(2 * scale.repeat):
        command = [sys.executable, "-c", _IMPORT]
        taken, *loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        seconds.append(float(taken))
        modules.update(loaded)
    work = "import of otel_storage"
    yield Figure(work, "-", "s", statistics.median(seconds), at_most=0.05)
    early = len(modules.intersection(LATER))
    yield Figure(work, "-", f"of {', '.join(LATER)} imported", early, at_most=0, is_guarded=True)
