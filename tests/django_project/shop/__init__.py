"""The site. Its Celery application is made with it, so that tasks find it in web processes too."""

from .celery import app as celery_app

__all__ = ["celery_app"]
