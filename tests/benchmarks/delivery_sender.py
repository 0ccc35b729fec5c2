"""A sender for :mod:`tests.benchmarks.delivery`: a process that says when it is ready, and sends when it is told to."""

from __future__ import annotations

import sys
from contextlib import closing

from otel_storage import OtelPipelineStorage


def main() -> None:
    """Send what is in the database that ``OTEL_STORAGE_URL`` names, and print how many spans that were."""
    with closing(OtelPipelineStorage(delivery="external")) as storage:
        # Imports and connects: what takes its time once is no part of the measurement.
        _ = storage.delivery.endpoint
        storage.records.outbox.last_id()
        print(flush=True)
        sys.stdin.readline()
        print(storage.delivery.deliver_due(retry_now=False).sent, flush=True)


if __name__ == "__main__":
    main()
