"""Turns records into OpenTelemetry spans, and delivers the spans to an OTLP endpoint.

``spans`` is pure: it turns stored records into spans and does no I/O. ``otlp`` knows the endpoint, ``delivery`` sends
what the outbox holds. Nothing here imports the SQL storage.
"""
