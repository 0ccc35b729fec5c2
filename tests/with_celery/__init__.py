"""Whole runs in Celery: prefork workers, a Redis, the host, a real receiver; an app of the example site."""
