"""Settings of the site; what differs between places is in the environment.

=====================  =====================================  ====================================================
variable               default
=====================  =====================================  ====================================================
``SHOP_DATA_DIR``      this project's folder                  where the SQLite files are
``SHOP_SECRET_KEY``    none with ``SHOP_DEBUG=0``             Django's
``SHOP_DEBUG``         ``1``                                  Django's
``SHOP_HOSTS``         ``127.0.0.1,localhost``                Django's ALLOWED_HOSTS
``SHOP_RUNNER``        ``eager``                              ``celery``: pipelines run in workers
``SHOP_REDIS_URL``     ``redis://127.0.0.1:6379/0``           Celery's broker, and its results, which chords need
``SHOP_LOG_LEVEL``     ``WARNING``                            ``INFO``: each change of a pipeline's state too
``SHOP_URL``           ``http://127.0.0.1:8000``              where people reach the site
``SHOP_TRACE_URL``     Jaeger's on this machine               where they see a trace, ``{trace_id}`` in it
``OTEL_STORAGE_URL``   ``otel_storage.db`` in the data's      the database of pipeline runs
=====================  =====================================  ====================================================

The OpenTelemetry endpoint is set as everywhere: ``OTEL_EXPORTER_OTLP_ENDPOINT``.
"""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(os.environ.get("SHOP_DATA_DIR", BASE_DIR))

DEBUG = os.environ.get("SHOP_DEBUG", "1") == "1"
SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "not a secret, for local use" if DEBUG else "")
ALLOWED_HOSTS = os.environ.get("SHOP_HOSTS", "127.0.0.1,localhost").split(",")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_htmx",
    # Before the host's app, whose page it adds the link to a run's trace to.
    "otel_storage.contrib.django",
    "pipelines",
    "orders",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "shop" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA_DIR / "shop.db",
        "OPTIONS": {"timeout": 20},
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGIN_URL = "admin:login"
STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "shop" / "static"]
LANGUAGE_CODE = "en"
TIME_ZONE = "Europe/Berlin"
USE_TZ = True

PIPELINES_PIPELINES_RESULTS_STORAGE = (
    "otel_storage.OtelPipelineStorage",
    {
        # A file of its own: pipelines report their state while the site's transactions are open.
        "url": os.environ.get("OTEL_STORAGE_URL", f"sqlite:///{DATA_DIR / 'otel_storage.db'}"),
        "service_name": "shop-pipelines",
        "trace_url": os.environ.get("SHOP_TRACE_URL", "http://localhost:16686/trace/{trace_id}"),
        "run_url": os.environ.get("SHOP_URL", "http://127.0.0.1:8000") + "/pipelines/{run_id}/results/",
    },
)
PIPELINES_PIPELINE_RUNNER = {
    "eager": "pipelines.runners.eager.Runner",
    "celery": "pipelines.runners.celery.runner.Runner",
}[os.environ.get("SHOP_RUNNER", "eager")]

CELERY_BROKER_URL = os.environ.get("SHOP_REDIS_URL", "redis://127.0.0.1:6379/0")
CELERY_RESULT_BACKEND = CELERY_BROKER_URL
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# The host's tasks are in no module `tasks` of an app.
CELERY_IMPORTS = ["pipelines.runners.celery.tasks"]
CELERY_RESULT_EXPIRES = 3600

LOG_LEVEL = os.environ.get("SHOP_LOG_LEVEL", "WARNING")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {
        "orders": {"level": LOG_LEVEL},
        "otel_storage": {"level": LOG_LEVEL},
        "pipelines": {"level": LOG_LEVEL},
    },
}
