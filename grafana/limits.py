"""Every limit that an alert rule or a dashboard's colour goes by: change one here, then ``python -m grafana.build``.

Durations are PromQL's: ``90s``, ``15m``, ``26h``, ``7d``.
"""

from __future__ import annotations

import re

FAILURE_WINDOW = "5m"
"""How long after a failure its alert goes on firing."""
FAILURE_MEMORY = "6h"
"""For how long nobody may have looked at the metrics, so that a failure meanwhile is still told of."""

RATIO = 0.2
"""The share of failed runs that is too high."""
RATIO_WINDOW = "1h"
RATIO_RUNS = 5
"""The fewest runs of a window that a share is made of."""

LONG_FACTOR = 2
"""How many times a pipeline's usual duration a run may take."""
LONG_QUANTILE = 0.95
"""Which of its successful runs are usual: all but the slowest 5 %."""
LONG_WINDOW = "7d"
"""Whose successful runs; where there are none, all that there ever were."""
LONG_FLOOR = "5m"
"""No run is too long before that."""
LONG_RUNS = 5
"""The fewest successful runs that make something usual."""

OVERDUE_FACTOR = 3
"""After how many times its usual interval a pipeline is overdue."""
OVERDUE_FLOOR = "1h"
"""None is overdue before that."""
OVERDUE_WINDOWS = (("7d", 4), ("1d", 6))
"""Usual is the window divided by its runs, if they are so many: the first window that has them counts."""
OVERDUE: dict[str, str] = {}
"""A limit of its own for a pipeline, by its name, instead of the rule: ``{"shop.Nightly": "26h"}``."""

WAITING = "15m"
"""How long a run may wait for its start."""
ABANDONED = "1d"
"""One that waits for longer never will: no alert goes on about it for ever. The metric has the same limit, so that
such a run hides no other."""
IDLE = "30m"
"""How long a run may be RUNNING while no task of its pipeline is."""
TASK_RUNNING = "6h"
"""How long a task may be RUNNING."""

BACKLOG_AGE = "15m"
"""How long a span may wait to be sent; ``otel-storage status`` has the same default."""
BACKLOG_ENTRIES = 1000
"""A backlog that grows is told of from this size on."""
BACKLOG_WINDOW = "15m"
NO_SENDER = "5m"
"""How long a span may wait while no sender watches."""

DROPPED_WINDOW = "10m"
"""How long after the collector dropped spans its alert goes on firing."""
QUEUE_SHARE = 0.5
"""How full the collector's queue may be."""

METRICS_MISSING = "2m"
"""How long the metrics may be away."""
METRICS_MEMORY = "1d"
"""For how long an installation whose metrics are away is remembered."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(duration: str) -> int:
    """How long a duration of PromQL is: ``seconds("26h")`` is 93600."""
    match = re.fullmatch(r"(\d+)([smhd])", duration)
    if match is None:
        raise ValueError(f"{duration!r} is not a duration such as 90s, 15m, 26h or 7d")
    return int(match[1]) * _UNITS[match[2]]
