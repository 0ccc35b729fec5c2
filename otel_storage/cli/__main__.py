"""``python -m otel_storage.cli`` is ``otel-storage``."""

from __future__ import annotations

from otel_storage.cli import main

main()
