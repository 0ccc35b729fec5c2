"""Django's settings in the processes of the storm.

==================  ============================================================
``CHAOS_STORAGE``   the arguments of the storage, as JSON
``CHAOS_FOLDER``    where the processes write down what they see
``CHAOS_REDIS``     Celery's broker; empty where there is none
``CHAOS_PREFIX``    what its keys begin with
==================  ============================================================
"""

import json
import os

from tests.chaos.broker import QUEUE

INSTALLED_APPS = ["django.contrib.contenttypes", "pipelines", "tests.chaos"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

PIPELINES_PIPELINES_RESULTS_STORAGE = (
    "otel_storage.OtelPipelineStorage",
    json.loads(os.environ["CHAOS_STORAGE"]),
)
PIPELINES_PIPELINE_REPORTER = "tests.chaos.reporting.JournalReporter"

CELERY_BROKER_URL = os.environ["CHAOS_REDIS"]
CELERY_RESULT_BACKEND = CELERY_BROKER_URL
CELERY_BROKER_TRANSPORT_OPTIONS = {"global_keyprefix": os.environ["CHAOS_PREFIX"]}
CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = CELERY_BROKER_TRANSPORT_OPTIONS
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_DEFAULT_QUEUE = QUEUE
# The host's tasks are in no module `tasks` of an app.
CELERY_IMPORTS = ["pipelines.runners.celery.tasks"]
CELERY_RESULT_EXPIRES = 3600
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
