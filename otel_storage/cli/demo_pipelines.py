"""The pipelines that ``otel-storage demo`` runs: a shop's orders, small enough to be worked on in a second.

Import it once Django is set up: django-pipelines registers each class as it is defined.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

from pipelines.base import Pipeline
from pipelines.reporters.base import PipelineReporter
from pipelines.tasks.base import Task

from otel_storage.results.base import PipelineStorageObject
from otel_storage.results.status import PipelineTaskStatus as Status

APP = "demo"

REGIONS = ("north", "south", "west")
CHECKS = ("amounts", "customers", "duplicates")
CURRENCIES = ("EUR", "GBP", "XAU", "USD")
RATES = {"EUR": 1.0, "GBP": 1.17, "USD": 0.86}

Order = dict[str, Any]
_orders: dict[tuple[str, str], list[Order]] = {}
"""What a task has read for those after it, by run id and region."""


class DemoReporter(PipelineReporter):  # type: ignore[misc]
    """Tells a function of every change of state."""

    def __init__(self, on_change: Callable[[PipelineStorageObject, Status], None]) -> None:
        """Report to ``on_change``."""
        self._on_change = on_change

    def report(self, context_object: PipelineStorageObject, status: Status, message: str) -> None:
        """Pass the change on."""
        self._on_change(context_object, status)


class DemoTask(Task):  # type: ignore[misc]
    """What the tasks have in common."""

    class Meta:
        """Not a task by itself."""

        abstract = True
        app_label = APP

    seconds: ClassVar[float] = 0.03
    """How long the shop's imaginary database takes to answer."""

    @property
    def region(self) -> str:
        """The object the pipeline instance was started with."""
        return self.pipeline_object["obj"] if self.pipeline_object else "all regions"

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Wait for the database, then work."""
        time.sleep(self.seconds)
        self.work(run_id)

    def work(self, run_id: str) -> None:
        """What the task does."""


class Extract(DemoTask):
    """Reads a region's orders."""

    seconds = 0.12

    class Meta:
        """Where the task belongs."""

        app_label = APP

    def work(self, run_id: str) -> None:
        """Read 200 orders."""
        _orders[run_id, self.region] = [
            {"id": number, "customer": f"C{number % 37:03}", "amount": 5 + number * 13 % 240}
            for number in range(1, 201)
        ]


class Validate(DemoTask):
    """Checks the orders, one check at a time."""

    seconds = 0.05

    class Meta:
        """Where the task belongs."""

        app_label = APP

    @classmethod
    def get_iterator(cls) -> tuple[str, ...]:
        """One task result per check."""
        return CHECKS

    def work(self, run_id: str) -> None:
        """Run the check on every order."""
        orders = _orders[run_id, self.region]
        passed = {
            "amounts": all(order["amount"] > 0 for order in orders),
            "customers": all(order["customer"] for order in orders),
            "duplicates": len({order["id"] for order in orders}) == len(orders),
        }
        if not passed[self.task_object["obj"]]:
            raise ValueError(f"the orders of {self.region} fail the check of their {self.task_object['obj']}")


class Load(DemoTask):
    """Adds the orders up."""

    seconds = 0.08

    class Meta:
        """Where the task belongs."""

        app_label = APP

    def work(self, run_id: str) -> None:
        """Add the amounts up."""
        sum(order["amount"] for order in _orders.pop((run_id, self.region)))


class Convert(DemoTask):
    """Converts invoices to euros, one currency at a time."""

    seconds = 0.1

    class Meta:
        """Where the task belongs."""

        app_label = APP

    @classmethod
    def get_iterator(cls) -> tuple[str, ...]:
        """One task result per currency; for one of them there is no rate."""
        return CURRENCIES

    def work(self, run_id: str) -> None:
        """Look the rate up."""
        currency = self.task_object["obj"]
        if currency not in RATES:
            raise LookupError(f"no exchange rate for {currency}: invoice 1042 cannot be converted to EUR")


class Post(DemoTask):
    """Posts the invoices to the ledger."""

    class Meta:
        """Where the task belongs."""

        app_label = APP


class Notify(DemoTask):
    """Tells accounting."""

    class Meta:
        """Where the task belongs."""

        app_label = APP


class OrdersByRegion(Pipeline):  # type: ignore[misc]
    """Succeeds: three regions, and three checks in each."""

    extract = Extract()
    validate = Validate()
    load = Load()

    class Meta:
        """Where the pipeline belongs."""

        app_label = APP

    @classmethod
    def get_iterator(cls) -> tuple[str, ...]:
        """One pipeline result per region."""
        return REGIONS


class MonthlyInvoices(Pipeline):  # type: ignore[misc]
    """Fails in the middle: what comes after is cancelled."""

    extract = Extract()
    convert = Convert()
    post = Post()
    notify = Notify()

    class Meta:
        """Where the pipeline belongs."""

        app_label = APP


class WeeklyReport(Pipeline):  # type: ignore[misc]
    """Badly configured: ``load`` is to wait for a task that does not exist."""

    extract = Extract()
    load = Load()

    ordering: ClassVar[dict[str, list[str]]] = {"load": ["transform"]}

    class Meta:
        """Where the pipeline belongs."""

        app_label = APP


PIPELINES: tuple[type[Any], ...] = (OrdersByRegion, MonthlyInvoices, WeeklyReport)
"""In the order they are run."""
