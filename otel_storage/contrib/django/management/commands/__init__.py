"""``manage.py otel_storage_...``: the commands of ``otel-storage``, for the project's own storage."""
