"""The real programs that tests run: where they are, and what happens to a test when one is absent.

A program is where its variable says, ``OTEL_STORAGE_TEST_COLLECTOR`` and so on; without one, it is looked for on PATH.
``.ci/programs`` builds and unpacks them all and prints the variables.
"""

from __future__ import annotations

import os
import shutil

from tests import services

NAMES = {
    "COLLECTOR": ("otelcol-otel-storage",),
    "JAEGER": ("jaeger",),
    "PROMETHEUS": ("prometheus",),
    "PROMTOOL": ("promtool",),
    # Debian calls it otherwise.
    "ALERTMANAGER": ("prometheus-alertmanager", "alertmanager"),
    "AMTOOL": ("amtool",),
}
"""What each is called, by the end of its variable."""


def program(name: str) -> str:
    """The path of a program of :data:`NAMES`; skip or fail where there is none."""
    __tracebackhide__ = True
    variable = f"OTEL_STORAGE_TEST_{name}"
    path = os.environ.get(variable, "")
    if path:
        # A variable that names a missing program is an error, not a reason to skip.
        assert os.access(path, os.X_OK), f"{variable} names no program: {path}"
        return path
    for found in filter(None, map(shutil.which, NAMES[name])):
        return found
    services.missing(f"no {' nor '.join(NAMES[name])}: set {variable} to its path; .ci/programs makes it")
