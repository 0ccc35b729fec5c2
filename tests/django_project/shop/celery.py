"""The site's Celery application: ``celery -A shop worker``, in this project's folder."""

import os
from typing import Any

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown

from .tracing import stop_tracing, trace_process

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


# Tracing is set up in each child of the pool, after the fork, as its threads would not survive that.
@worker_process_init.connect(weak=False)
def _start(**_: Any) -> None:
    trace_process()


@worker_process_shutdown.connect(weak=False)
def _stop(**_: Any) -> None:
    stop_tracing()
