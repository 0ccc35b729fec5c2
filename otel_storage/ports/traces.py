"""The data that a run stores about its trace: telemetry decides on it, and a storage keeps it unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_sampled(trace: Mapping[str, Any] | None) -> bool:
    """Whether spans are made of the run; a run that was built without telemetry has no ``trace``."""
    return trace is not None and bool(trace.get("sampled"))
