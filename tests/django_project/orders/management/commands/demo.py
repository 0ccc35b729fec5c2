"""``manage.py demo``: from nothing to a site with runs to look at."""

from __future__ import annotations

import os
import uuid
from argparse import ArgumentParser
from datetime import date
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.urls import reverse
from pipelines.config import Config
from pipelines.registry import pipeline_registry
from pipelines.results.helpers import get_pipeline_execution, get_pipeline_results_storage
from pipelines.runners.eager import Runner

from ...models import Shop

DAY = date(2026, 1, 31)
SHOPS = {"harbour": "EUR", "station": "GBP", "market": "USD", "mint": "XAU"}
RUNS = {"orders.ImportOrders": {"day": DAY.isoformat()}, "orders.ShopTurnover": {}}
USER = PASSWORD = "demo"


class Command(BaseCommand):
    """Prepares the site, runs its pipelines once, and serves it."""

    help = "Prepare the site's databases, run its pipelines once, say where to look, and serve the site on 127.0.0.1."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the port, and whether to serve."""
        parser.add_argument("--port", type=int, default=8000, help="Where the site is served. Default: 8000.")
        parser.add_argument("--no-serve", action="store_true", help="Leave when the pipelines have run.")

    def handle(self, *args: Any, port: int, no_serve: bool, **options: Any) -> None:
        """Do it all; doing it again adds runs."""
        self._prepare()
        runs = {pipeline_id: self._run(pipeline_id) for pipeline_id in RUNS}
        self._say(runs, f"http://127.0.0.1:{port}")
        if not no_serve:
            # No reloader: it would start a second process, which would run the pipelines again.
            call_command("runserver", f"127.0.0.1:{port}", use_reloader=False)

    def _prepare(self) -> None:
        self.stdout.write("Preparing the databases ...")
        call_command("migrate", verbosity=0)
        get_pipeline_results_storage().storage.upgrade()
        for code, currency in SHOPS.items():
            Shop.objects.get_or_create(code=code, defaults={"currency": currency})
        users = get_user_model().objects
        if not users.filter(username=USER).exists():
            users.create_superuser(USER, password=PASSWORD)

    def _run(self, pipeline_id: str) -> str:
        self.stdout.write(f"Running {pipeline_id} ...")
        run_id = str(uuid.uuid4())
        pipeline_registry.get_by_id(pipeline_id)().start(
            run_id=run_id,
            input_data=RUNS[pipeline_id],
            runner=Runner(),
            reporter=Config().PIPELINES_DEFAULT_PIPELINE_REPORTER,
        )
        return run_id

    def _say(self, runs: dict[str, str], site: str) -> None:
        self.stdout.write("")
        for pipeline_id, run_id in runs.items():
            execution = get_pipeline_execution(run_id)
            self.stdout.write(self.style.MIGRATE_HEADING(f"{pipeline_id}: {execution.get_status().value}"))
            self.stdout.write(f"  run    {run_id}")
            self.stdout.write(f"  trace  {execution.get_trace_id() or 'none: telemetry is switched off'}")
            self.stdout.write(f"  page   {site}{reverse('pipelines:results', args=[run_id])}")
        self.stdout.write("")
        self.stdout.write(f"pipelines  {site}{reverse('pipelines:list')}")
        self.stdout.write(f"log in as  {USER}, password {PASSWORD}")
        if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
            self.stdout.write("spans      wait in the database: set OTEL_EXPORTER_OTLP_ENDPOINT, and they are sent")
