"""Records as OpenTelemetry spans: what a run's trace is made of, and its way to an OTLP endpoint.

``spans`` is pure: it turns stored records into spans and does no I/O. ``otlp`` knows the endpoint, ``delivery`` sends
what the outbox holds. Nothing here imports the SQL storage.
"""
