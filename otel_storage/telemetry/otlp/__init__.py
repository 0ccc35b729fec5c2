"""OTLP: its settings, the exporter, and what an answer means."""
