"""A sender in a process of its own: ``python -m tests.limits.sending URL LEASE`` sends what is due."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from datetime import timedelta

from otel_storage.results import clock
from otel_storage.sql.storage import SqlPipelineStorage
from otel_storage.telemetry.delivery.sending import Sender, SendingRules
from otel_storage.telemetry.otlp.exporter import open_exporter

if __name__ == "__main__":
    url, lease = sys.argv[1:]
    with closing(SqlPipelineStorage(url)) as storage:
        rules = SendingRules(lease=timedelta(seconds=float(lease)))
        sender = Sender(storage.outbox, lambda: open_exporter(None), rules, clock.now)
        report = sender.send_due()
        sender.close()
    json.dump({"sent": report.sent, "settled": report.settled, "error": report.error}, sys.stdout)
