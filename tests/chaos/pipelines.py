"""The pipelines that writers run; the host's classes can be imported only once Django is set up."""

from __future__ import annotations

import random
import time
from typing import Any

from pipelines.base import Pipeline
from pipelines.tasks.base import Task
from pydantic import BaseModel


class _Meta:
    """Where the classes belong, which are in no app."""

    app_label = "chaos"


class Work(Task):
    """Takes a moment."""

    Meta = _Meta

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Take it."""
        time.sleep(random.uniform(0, 0.004))


class Each(Work):
    """Takes a moment for each of three objects."""

    Meta = _Meta

    @classmethod
    def get_iterator(cls) -> list[int]:
        """The objects."""
        return [1, 2, 3]


class FailsForTwo(Each):
    """Fails for the second of them."""

    Meta = _Meta

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Fail, or take a moment."""
        super().run(pipeline_id, run_id, cleaned_data)
        if self.task_object["obj"] == 2:
            raise ValueError("object 2 is broken")


class FailsInTheSecond(Work):
    """Fails for the second object of the pipeline: the run is final while the third goes on."""

    Meta = _Meta

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Fail, or take a moment."""
        super().run(pipeline_id, run_id, cleaned_data)
        if self.pipeline_object["obj"] == "second":
            raise LookupError("the second region is gone")


class Number(BaseModel):
    """Input that must be a number."""

    number: int


class Checked(Work):
    """Refuses input that is none."""

    InputType = Number

    Meta = _Meta


class Succeeds(Pipeline):
    """Two results of two tasks; all is well."""

    extract = Work()
    load = Each()

    Meta = _Meta

    @classmethod
    def get_iterator(cls) -> list[str]:
        """The regions."""
        return ["north", "south"]


class Short(Pipeline):
    """A pipeline with one task."""

    work = Work()

    Meta = _Meta


class Fails(Pipeline):
    """The second of three tasks fails for one object, so that the others are cancelled."""

    extract = Work()
    load = FailsForTwo()
    publish = Each()

    Meta = _Meta


class SecondFails(Pipeline):
    """The second of three results fails."""

    work = FailsInTheSecond()
    check = Work()

    Meta = _Meta

    @classmethod
    def get_iterator(cls) -> list[str]:
        """The regions."""
        return ["first", "second", "third"]


class Validated(Pipeline):
    """Refuses its input now and then."""

    check = Checked()

    Meta = _Meta


class BadlyConfigured(Pipeline):
    """Names a parent that is not there, so that it is never started."""

    extract = Work()
    ordering = {"extract": ["nothing"]}  # noqa: RUF012 - as the host declares it

    Meta = _Meta


PIPELINES: dict[str, type[Any]] = {
    each.__name__: each for each in (Succeeds, Short, Fails, SecondFails, Validated, BadlyConfigured)
}
