"""Metrics of the runs and of the delivery of their spans: totals -> families -> Prometheus' text, or OTLP."""
