"""Records as OpenTelemetry spans: what a run's trace is made of, and its way to an OTLP endpoint.

``ids``, ``attributes``, ``messages``, ``privacy``, ``run_trace`` and ``spans`` are pure: they turn stored records into
spans and do no I/O. The rest carries the spans out. Nothing here imports the SQL storage.
"""
