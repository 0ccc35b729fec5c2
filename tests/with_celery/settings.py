"""The example site's settings, with this app's pipelines, and what a test says in ``TEST_SETTINGS``, as JSON."""

import json
import os

# The example project's folder is on the path of the processes that use these.
from shop.settings import *  # type: ignore[import-not-found]  # noqa: F403 - all of them, as it is done for tests
from shop.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.with_celery"]
ALLOWED_HOSTS = ["testserver"]
PIPELINES_PIPELINE_REPORTER = "tests.with_celery.reporting.FileReporter"

globals().update(json.loads(os.environ["TEST_SETTINGS"]))
