"""The site's pipelines; the host finds them by the name of this module."""

from __future__ import annotations

from typing import Any

from pipelines.base import ModelPipeline, Pipeline
from pipelines.tasks.base import ModelTask, Task, TaskConfig
from pydantic import BaseModel

from tests.host_pages.shop.models import Order, Parcel, Region

seen: list[dict[str, Any]] = []
"""What tasks saw of their model objects, in the order they ran."""


class ShapeConfig(TaskConfig):
    """How many objects a task is started with, and which of them it fails for."""

    objects: int = 0
    fails_for: str = ""


class Quick(Task):
    """A task with no object."""

    title = "A quick task"

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Do nothing."""


class Fails(Task):
    """A task that fails."""

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Fail."""
        raise ValueError("the file is broken")


class Load(ModelTask):
    """A task for orders."""

    ConfigType = ShapeConfig

    class Meta:
        model = Order

    def get_iterator(self) -> Any:
        """The first orders; None for no object."""
        objects = self.cleaned_config.objects
        return self.get_queryset().order_by("pk")[:objects] if objects else None

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Fail for one order."""
        if self.task_object is not None and self.task_object.name == self.cleaned_config.fails_for:
            raise LookupError(f"{self.task_object} has no price")


class Ship(ModelTask):
    """A task for objects whose key is a UUID, which it stores as text."""

    class Meta:
        model = Parcel

    @staticmethod
    def get_serializable_task_object(obj: Any) -> Any:
        """The object's identity, in the shortest form its key has."""
        return {**ModelTask.get_serializable_task_object(obj), "pk": obj.pk.hex}

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Do nothing."""


class AddOne(ModelTask):
    """A task that changes its pipeline's object and its own, in the database."""

    class Meta:
        model = Order

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Add one to both totals, and note what was seen before."""
        see(self)
        for changed in (self.pipeline_object, self.task_object):
            changed.total += 1
            changed.save()


class AddAnother(AddOne):
    """The task after it, which must see what that has changed."""

    class Meta:
        model = Order


class Sum(BaseModel):
    """What a run of :class:`Typed` is started with."""

    amount: int


class Typed(Task):
    """A task that wants input."""

    InputType = Sum

    def run(self, pipeline_id: str, run_id: str, cleaned_data: Any) -> None:
        """Do nothing."""


class Export(Pipeline):
    """A pipeline with one task and no object."""

    extract = Quick()


class Cleanup(Pipeline):
    """Never run."""

    sweep = Quick()


class Broken(Pipeline):
    """Fails in its second of three tasks."""

    extract = Quick()
    convert = Fails()
    publish = Quick()


class Regional(ModelPipeline):
    """Over regions: a single task, one for each of three orders that fails for one, and one that is cancelled."""

    check = Quick()
    load = Load(config={"objects": 3, "fails_for": "broken"})
    publish = Load(config={"objects": 2})

    class Meta:
        model = Region


class Shipping(Pipeline):
    """A task for each parcel."""

    ship = Ship()


class Totals(ModelPipeline):
    """Two tasks that change the same rows."""

    first = AddOne()
    second = AddAnother()

    class Meta:
        model = Region


class WithInput(Pipeline):
    """A task that wants input."""

    typed = Typed()


def see(task: Any) -> None:
    """Note what the task's objects are like."""
    seen.append(
        {
            "task": task.pipeline_task,
            "region": (task.pipeline_object.pk, task.pipeline_object.total),
            "order": (task.task_object.pk, task.task_object.total),
            "instances": (id(task.pipeline_object), id(task.task_object)),
        }
    )
    # Kept, so that no two instances can have one id.
    _kept.append((task.pipeline_object, task.task_object))


_kept: list[Any] = []
_shapes: dict[tuple[int, int, int], Any] = {}


def shape(results: int, tasks: int, per_task: int) -> Any:
    """A pipeline over so many regions, of so many tasks over so many orders each."""
    key = (results, tasks, per_task)
    if key not in _shapes:
        body: dict[str, Any] = {f"task_{n}": Load(config={"objects": per_task}) for n in range(tasks)}
        body["get_queryset"] = lambda _self: Region.objects.order_by("pk")[:results]
        body["Meta"] = type("Meta", (), {"model": Region})
        _shapes[key] = pipeline(f"Shape{results}x{tasks}x{per_task}", body, ModelPipeline)
    return _shapes[key]


def pipeline(name: str, body: dict[str, Any], base: type[Any] = Pipeline) -> Any:
    """A pipeline that is made when it is needed."""
    return type(name, (base,), {**body, "__module__": __name__})
