"""What a WSGI server serves: ``gunicorn shop.wsgi``."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

from .tracing import trace_process

trace_process()

from django.core.wsgi import get_wsgi_application  # noqa: E402 - Django's instrumentation comes first

application = get_wsgi_application()
