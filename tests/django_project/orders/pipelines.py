"""The pipelines of the shops' orders; the host finds this module by its name."""

import csv
import logging
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.db.models import Sum
from opentelemetry import trace
from pipelines.base import ModelPipeline, Pipeline
from pipelines.tasks.base import ModelTask, Task
from pydantic import BaseModel, Field, ValidationError

from .models import Order, Shop, StagedOrder

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

FILES = Path(__file__).parent / "data"

EUROS = {"EUR": Decimal(1), "GBP": Decimal("1.17"), "USD": Decimal("0.92")}
"""What a currency's unit is worth. Gold has no rate, and a shop that sells for gold cannot be loaded."""


class Day(BaseModel):
    """What an import is started with. The host gives it to every task, so that each of them must declare it."""

    day: date


class Line(BaseModel):
    """What a line of a file must be."""

    number: str
    amount: Decimal = Field(gt=0)


class Extract(Task):
    """Reads the day's file."""

    InputType = Day
    title = "Read the day's file"

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Stage every line."""
        with tracer.start_as_current_span("read file") as span:
            with (FILES / f"{cleaned_data.day}.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            span.set_attribute("shop.lines", len(rows))
        StagedOrder.objects.filter(run_id=run_id).delete()
        StagedOrder.objects.bulk_create(
            StagedOrder(run_id=run_id, shop_code=row["shop"], number=row["number"], amount=row["amount"])
            for row in rows
        )


class Validate(Task):
    """Finds the lines that cannot be loaded."""

    InputType = Day
    title = "Check every line"

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Note the problem at every such line."""
        for line in StagedOrder.objects.filter(run_id=run_id):
            try:
                Line(number=line.number, amount=line.amount)
            except ValidationError as error:
                line.problem = error.errors()[0]["msg"]
                line.save(update_fields=["problem"])
                logger.warning("%s is left out: %s", line, line.problem)


class Load(ModelTask):
    """Loads the orders of each shop."""

    InputType = Day
    title = "Load each shop's orders"

    class Meta:
        model = Shop

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Convert the amounts, and keep the orders that are new."""
        shop = self.task_object
        with tracer.start_as_current_span("convert") as span:
            span.set_attribute("shop.currency", shop.currency)
            if shop.currency not in EUROS:
                raise LookupError(f"no exchange rate for {shop.currency}: orders of {shop} cannot be loaded")
            lines = StagedOrder.objects.filter(run_id=run_id, shop_code=shop.code, problem="")
            orders = [
                Order(
                    shop=shop,
                    number=line.number,
                    day=cleaned_data.day,
                    euros=round(Decimal(line.amount) * EUROS[shop.currency], 2),
                )
                for line in lines
            ]
        Order.objects.bulk_create(orders, ignore_conflicts=True)


class Tidy(Task):
    """Removes what was staged."""

    InputType = Day
    title = "Tidy up"

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Remove this run's lines."""
        StagedOrder.objects.filter(run_id=run_id).delete()


class Total(Task):
    """Adds up a shop's orders."""

    title = "Add up the shop's orders"

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Store the shop's turnover."""
        shop = self.pipeline_object
        shop.turnover = shop.orders.aggregate(total=Sum("euros"))["total"] or 0
        shop.save(update_fields=["turnover"])


class Rank(Task):
    """Compares a shop with the others."""

    title = "Compare it with the others"

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Log the shop's rank."""
        shop = Shop.objects.get(pk=self.pipeline_object.pk)
        better = Shop.objects.filter(turnover__gt=shop.turnover).count()
        logger.info("%s is number %d of %d", shop, better + 1, Shop.objects.count())


class ImportOrders(Pipeline):
    """A day's orders of all shops: one run, in which one shop cannot be loaded."""

    extract = Extract()
    validate = Validate()
    load = Load()
    tidy = Tidy()

    class Meta:
        verbose_name = "Import orders"


class ShopTurnover(ModelPipeline):
    """The turnover of every shop: one pipeline result for each of them."""

    total = Total()
    rank = Rank()

    class Meta:
        verbose_name = "Turnover of the shops"
        model = Shop
