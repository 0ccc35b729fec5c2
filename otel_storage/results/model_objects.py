"""Django's model objects that pipelines and tasks were started with, loaded one at a time or many at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakSet

from otel_storage.results import host
from otel_storage.runtime.chunks import chunks

# Engines limit the parameters of a statement, so a longer list of keys is split.
_CHUNK = 1000


def deserialize(serializable_object: Any) -> Any:
    """The object that was serialized: Django's model object where app, model and key are stored, else as it is."""
    if not serializable_object:
        return None
    if names_model_object(serializable_object):
        return host.load("utils").get_object(serializable_object)
    return serializable_object


def names_model_object(serializable_object: Any) -> bool:
    """Whether this is a model object's identity, and Django is there to load the object."""
    return is_model_object(serializable_object) and host.is_installed() and host.django_is_configured()


def is_model_object(serializable_object: Any) -> bool:
    """Whether this is how the host serializes a model object: ``pk``, ``app_label`` and ``model_name``."""
    return isinstance(serializable_object, dict) and {"pk", "app_label", "model_name"} <= serializable_object.keys()


class ModelObject:
    """A model object by its identity: loaded when it is first asked for, and kept.

    Args:
        identity: What the host serialized; see :func:`is_model_object`.
        together: The objects it is loaded with; None to load it alone, as the host does.
    """

    __slots__ = ("__weakref__", "_error", "_instance", "_together", "identity")

    def __init__(self, identity: Mapping[str, Any], together: ModelObjects | None = None) -> None:
        self.identity = identity
        self._together = together
        self._instance: Any = None
        self._error: tuple[type[Exception], str] | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether the object was found, or is known to be gone."""
        return self._instance is not None or self._error is not None

    def get(self) -> Any:
        """The object: the same instance each time.

        Raises:
            ObjectDoesNotExist: the object is gone (then it is the model's own ``DoesNotExist``), or its model is.
        """
        if not self.is_loaded and self._together is not None:
            self._together.load(self)
        if self._error is not None:
            error, text = self._error
            raise error(text)
        if self._instance is None:
            # Do not keep an error: the host asks again each time.
            self._instance = deserialize(self.identity)
        return self._instance

    def found(self, instance: Any) -> None:
        """Keep the loaded instance."""
        self._instance, self._together = instance, None

    def gone(self, error: type[Exception], text: str) -> None:
        """Keep that the object does not exist; each access raises this error."""
        self._error, self._together = (error, text), None

    def load_alone(self) -> None:
        """Leave the loading to the host, whose look-up reports the error."""
        self._together = None


class ModelObjects:
    """Model objects that are loaded together: the first access loads all live objects of the same model.

    Objects of one row share one instance.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], WeakSet[ModelObject]] = {}

    def expect(self, identity: Mapping[str, Any]) -> ModelObject:
        """A model object that is loaded together with the others."""
        expected = ModelObject(identity, self)
        self._waiting.setdefault(_model_name(expected), WeakSet()).add(expected)
        return expected

    def load(self, wanted: ModelObject) -> None:
        """Load the object with the others of its model, with one query per thousand objects."""
        name = _model_name(wanted)
        together = self._waiting.get(name, WeakSet())
        model = host.model(*name)
        if model is None:
            for one in together:
                one.gone(host.no_such_object(), f"there is no model {'.'.join(name)} in this project")
        else:
            _load(model, together)
        self._waiting.pop(name, None)


def _load(model: Any, together: Iterable[ModelObject]) -> None:
    by_key: dict[Any, list[ModelObject]] = {}
    for one in together:
        try:
            by_key.setdefault(model._meta.pk.to_python(one.identity["pk"]), []).append(one)
        except Exception:  # noqa: BLE001 - each kind of key refuses a value in its own way; the host's look-up will too
            one.load_alone()
    for part in chunks(list(by_key), _CHUNK):
        instances = {str(instance.pk): instance for instance in model._base_manager.filter(pk__in=part)}
        for key in part:
            for one in by_key[key]:
                if (instance := instances.get(str(key))) is not None:
                    one.found(instance)
                else:
                    one.gone(model.DoesNotExist, f"{model._meta.object_name} matching query does not exist.")


def _model_name(model_object: ModelObject) -> tuple[str, str]:
    return str(model_object.identity["app_label"]), str(model_object.identity["model_name"])
