"""A site for a pre-fork server, which loads it once, before it forks: its storage, and its sender, are made here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from otel_storage.composite import OtelPipelineStorage
from tests.limits import runs

storage = OtelPipelineStorage(url=os.environ["TESTS_LIMITS_URL"])
runs.run(storage)


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Run a pipeline; answers with the worker's process id and the run id."""
    run_id = runs.run(storage)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {run_id}".encode()]
