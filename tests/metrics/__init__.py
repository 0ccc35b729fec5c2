"""Metrics: from totals to Prometheus' text, and to OTLP."""
