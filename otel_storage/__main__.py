"""``python -m otel_storage`` is the command ``otel-storage``."""

from __future__ import annotations

from otel_storage.cli import main

main()
