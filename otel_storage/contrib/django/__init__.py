"""A Django app: system checks, management commands, and the host's results page with a link to the run's trace.

Put ``"otel_storage.contrib.django"`` into ``INSTALLED_APPS``, before ``"pipelines"``.
"""
