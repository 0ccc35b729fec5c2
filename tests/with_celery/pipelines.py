"""The pipelines that tests run in Celery; the host finds this module by its name."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from celery import shared_task
from celery.signals import worker_init, worker_process_init
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from pipelines.base import Pipeline
from pipelines.results.helpers import get_pipeline_results_storage
from pipelines.tasks.base import Task

tracer = trace.get_tracer(__name__)


@worker_process_init.connect(weak=False)
def trace_code(**_: Any) -> None:
    """Trace the tasks' own code, without any instrumentation, if ``TEST_TRACE_CODE`` is set."""
    if os.environ.get("TEST_TRACE_CODE"):
        provider = TracerProvider(resource=Resource({"service.name": "code"}))
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)


@worker_init.connect(weak=False)
def make_storage(**_: Any) -> None:
    """Make the storage before the children are forked, if ``TEST_STORAGE_FIRST`` is set."""
    if os.environ.get("TEST_STORAGE_FIRST"):
        get_pipeline_results_storage().get_pipeline_digest()


def first_time(name: str) -> bool:
    """Whether nobody has asked for that name before, in any process."""
    try:
        (Path(os.environ["SHOP_DATA_DIR"]) / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class Work(Task):
    """Does something, traced."""

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Do it."""
        with tracer.start_as_current_span("work"):
            time.sleep(0.002)


class Each(Work):
    """Does something for three objects."""

    @classmethod
    def get_iterator(cls) -> list[int]:
        """The objects."""
        return [1, 2, 3]


class FailsForTwo(Each):
    """Fails for one of them."""

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Do it, or not."""
        with tracer.start_as_current_span("work"):
            if self.task_object["obj"] == 2:
                raise ValueError("object 2 is broken")


@shared_task
def published() -> None:
    """A Celery task that a pipeline's task publishes."""
    with tracer.start_as_current_span("published work"):
        pass


class Publishes(Task):
    """Publishes a Celery task of its own."""

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Publish it."""
        published.delay()


class Exits(Work):
    """Leaves by ``sys.exit()``, which the host does not report."""

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Leave."""
        sys.exit(1)


class Dies(Each):
    """Is killed with its process, for one of its objects."""

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Die, or do it."""
        if self.task_object["obj"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        super().run(pipeline_id, run_id, cleaned_data)


class DiesOnce(Work):
    """Is killed with its process the first time that it runs in a run."""

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Die, or do it."""
        if first_time(run_id):
            os.kill(os.getpid(), signal.SIGKILL)
        super().run(pipeline_id, run_id, cleaned_data)


class Races(Task):
    """Ends at once for eight objects, and fails for two of them."""

    @classmethod
    def get_iterator(cls) -> range:
        """The objects."""
        return range(8)

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Fail, or not."""
        if self.task_object["obj"] % 4 == 2:
            raise ValueError("two of eight")


class _Regional(Pipeline):
    class Meta:
        abstract = True

    @classmethod
    def get_iterator(cls) -> list[str]:
        """The regions."""
        return ["north", "south"]


class Succeeds(_Regional):
    """Two results of two tasks; all is well."""

    extract = Work()
    load = Each()


class Fails(Pipeline):
    """The second of three tasks fails for one object."""

    extract = Work()
    load = FailsForTwo()
    publish = Each()


class PublishesOne(Pipeline):
    """Its code uses Celery for something of its own."""

    publish = Publishes()


class IsLeft(Pipeline):
    """Its task leaves by ``sys.exit()``."""

    leave = Exits()


class LosesChild(Pipeline):
    """A child of the pool is killed while it runs."""

    extract = Work()
    load = Dies()
    publish = Work()


class LosesChildOnce(Pipeline):
    """A child of the pool is killed, and its task delivered again."""

    load = DiesOnce()


class Race(Pipeline):
    """Eight children of the pool report to the same parents, some that they failed."""

    load = Races()
