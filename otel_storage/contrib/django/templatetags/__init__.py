"""``{% load otel_storage %}``."""
