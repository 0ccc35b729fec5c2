"""OTLP: its settings, the exporter, and the meaning of an answer."""
