"""The decision about a run's trace, which is made when the run is built and stored with the run.

Every sender uses the stored decision instead of its own environment, so a span is the same from every sender at any
time.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.environment_variables import (
    OTEL_ATTRIBUTE_COUNT_LIMIT,
    OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT,
    OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT,
    OTEL_LINK_ATTRIBUTE_COUNT_LIMIT,
    OTEL_RESOURCE_ATTRIBUTES,
    OTEL_SDK_DISABLED,
    OTEL_SERVICE_NAME,
    OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT,
    OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT,
    OTEL_SPAN_EVENT_COUNT_LIMIT,
    OTEL_SPAN_LINK_COUNT_LIMIT,
    OTEL_TRACES_SAMPLER,
    OTEL_TRACES_SAMPLER_ARG,
)
from opentelemetry.sdk.resources import OTELResourceDetector
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.version import __version__ as sdk_version
from opentelemetry.semconv.attributes.service_attributes import SERVICE_NAME
from opentelemetry.semconv.attributes.telemetry_attributes import (
    TELEMETRY_SDK_LANGUAGE,
    TELEMETRY_SDK_NAME,
    TELEMETRY_SDK_VERSION,
)

from otel_storage.privacy.lines import in_utf8
from otel_storage.privacy.masking import VALUE_BYTES
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.telemetry.spans import ids

logger = logging.getLogger("otel_storage")

VERSION = 1
"""The version of the JSON format in which a run's trace decision is stored."""

DEFAULT_SERVICE_NAME = "pipelines"

CAPTURE_NAMES = frozenset({"config", "input_data", "messages", "objects"})
"""The names that ``capture`` accepts: data that may leave the process.

``input_data``: what runs are started with. ``config``: the tasks' configuration. ``objects``: what pipelines and tasks
iterate over, as JSON; without it only app, model and key of Django's model objects leave. ``messages``: validation
messages in full; without it only where and what kind the errors are. Secrets are masked in all of them.
"""

OTEL_TRACES_EXPORTER = "OTEL_TRACES_EXPORTER"
"""A variable of the SDK, which has no constant for its name."""

AttributeValue = str | bool | int | float

_LIMIT_VARIABLES = (
    OTEL_ATTRIBUTE_COUNT_LIMIT,
    OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT,
    OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT,
    OTEL_LINK_ATTRIBUTE_COUNT_LIMIT,
    OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT,
    OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT,
    OTEL_SPAN_EVENT_COUNT_LIMIT,
    OTEL_SPAN_LINK_COUNT_LIMIT,
)
_RESOURCE_VARIABLES = (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a span's size."""

    value_bytes: int = VALUE_BYTES
    """Longest attribute value, in bytes of UTF-8."""
    attributes: int | None = 128
    """The most attributes of a span; None for any number."""
    event_attributes: int | None = 128
    """The most attributes of an event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanLink:
    """The span that was current and recording when the run was built."""

    trace_id: int
    span_id: int
    trace_flags: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTrace:
    """The decision about the trace of one run."""

    sampled: bool
    """Whether the run's spans are sent at all."""
    resource: Mapping[str, AttributeValue] = field(default_factory=dict)
    scope_version: str = ""
    """This package's version when the run was built."""
    capture: tuple[str, ...] = ()
    """The names in ``CAPTURE_NAMES`` that apply, sorted."""
    limits: Limits = Limits()
    link: SpanLink | None = None
    url: str | None = None
    """The address where people find the run."""

    def as_json(self) -> dict[str, Any]:
        """The decision as JSON values, for :meth:`from_json`."""
        return {
            "version": VERSION,
            "sampled": self.sampled,
            "resource": dict(self.resource),
            "scope_version": self.scope_version,
            "capture": list(self.capture),
            "limits": {
                "value_bytes": self.limits.value_bytes,
                "attributes": self.limits.attributes,
                "event_attributes": self.limits.event_attributes,
            },
            "link": None
            if self.link is None
            else {
                "trace_id": ids.format_trace_id(self.link.trace_id),
                "span_id": ids.format_span_id(self.link.span_id),
                "trace_flags": self.link.trace_flags,
            },
            "url": self.url,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> RunTrace:
        """The decision that was stored.

        Raises:
            ValueError: an unknown version of this package stored the decision.
        """
        if stored.get("version") != VERSION:
            raise ValueError(
                f"the run's trace was decided by another version of otel-storage ({stored.get('version')!r:.20}, "
                f"not {VERSION}): send it with that version"
            )
        link = stored["link"]
        return cls(
            sampled=stored["sampled"],
            resource=stored["resource"],
            scope_version=stored["scope_version"],
            capture=tuple(stored["capture"]),
            limits=Limits(**stored["limits"]),
            link=link
            and SpanLink(**{**link, "trace_id": int(link["trace_id"], 16), "span_id": int(link["span_id"], 16)}),
            url=stored["url"],
        )


def check_capture(names: Iterable[str]) -> frozenset[str]:
    """The names, if each of them is one of ``CAPTURE_NAMES``.

    Raises:
        ConfigurationError: a name is unknown; the message lists the valid ones.
    """
    known = ", ".join(repr(name) for name in sorted(CAPTURE_NAMES))
    if isinstance(names, str):
        raise ConfigurationError(
            f"capture is a collection of names, such as ({names!r:.40},), not a string; there are {known}"
        )
    chosen = frozenset(names)
    unknown = sorted(repr(name)[:40] for name in chosen - CAPTURE_NAMES)
    if unknown:
        raise ConfigurationError(f"capture does not know {', '.join(unknown)}; there are {known}")
    return chosen


def decide(
    run_id: str, *, service_name: str | None = None, capture: Iterable[str] = (), url: str | None = None
) -> RunTrace | None:
    """Decide on the trace of a new run, by the arguments and OpenTelemetry's variables.

    ``OTEL_TRACES_SAMPLER`` decides on the run as on a root span. An invalid variable causes one warning, and its
    default applies.

    Args:
        run_id: The run's id.
        service_name: ``service.name``; else ``OTEL_SERVICE_NAME``, else that of ``OTEL_RESOURCE_ATTRIBUTES``, else
            ``pipelines``.
        capture: What may leave the process, of ``CAPTURE_NAMES``.
        url: Where people find the run.

    Returns:
        None where telemetry is disabled, by ``OTEL_SDK_DISABLED=true`` or ``OTEL_TRACES_EXPORTER=none``.
    """
    if is_disabled():
        return None
    ratio = _ratio(os.environ.get(OTEL_TRACES_SAMPLER), os.environ.get(OTEL_TRACES_SAMPLER_ARG))
    return RunTrace(
        sampled=ids.is_sampled(ids.trace_id(run_id), ratio),
        resource=_resource(service_name, _environment(_RESOURCE_VARIABLES)),
        scope_version=_package_version(),
        capture=tuple(sorted(capture)),
        limits=_limits(_environment(_LIMIT_VARIABLES)),
        link=_current_link(),
        url=url,
    )


def is_disabled() -> bool:
    """Whether OpenTelemetry's variables disable traces."""
    if os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
        return True
    exporters = {name.strip().lower() for name in os.environ.get(OTEL_TRACES_EXPORTER, "").split(",")} - {""}
    return exporters == {"none"}


def _environment(names: Sequence[str]) -> tuple[str | None, ...]:
    return tuple(map(os.environ.get, names))


# Cached by the variables' values: the second argument only serves as part of the cache key.


@lru_cache(maxsize=64)
def _resource(service_name: str | None, _environment: tuple[str | None, ...]) -> dict[str, AttributeValue]:
    # OTLP refuses a text that is not UTF-8, and the exporters then leave out the attribute.
    detected = {
        in_utf8(key): in_utf8(value)
        for key, value in OTELResourceDetector().detect().attributes.items()
        if isinstance(value, str)
    }
    return {
        TELEMETRY_SDK_LANGUAGE: "python",
        TELEMETRY_SDK_NAME: "opentelemetry",
        TELEMETRY_SDK_VERSION: sdk_version,
        **detected,
        SERVICE_NAME: in_utf8(service_name or "") or detected.get(SERVICE_NAME) or DEFAULT_SERVICE_NAME,
    }


@lru_cache(maxsize=8)
def _limits(_environment: tuple[str | None, ...]) -> Limits:
    try:
        limits = SpanLimits()
    except ValueError as error:
        logger.warning("%s; the default limits of spans apply", error)
        return Limits()
    longest = limits.max_span_attribute_length
    return Limits(
        value_bytes=VALUE_BYTES if longest is None else min(VALUE_BYTES, longest),
        attributes=limits.max_span_attributes,
        event_attributes=limits.max_event_attributes,
    )


@lru_cache(maxsize=8)
def _ratio(sampler: str | None, argument: str | None) -> float:
    """The share of runs that is sampled; a run has no parent, so a parent-based sampler uses its root sampler."""
    name = (sampler or "").strip().lower().removeprefix("parentbased_")
    if name in ("", "always_on"):
        return 1.0
    if name == "always_off":
        return 0.0
    if name == "traceidratio":
        return _share(argument)
    logger.warning(
        "%s=%s is not supported, so every run is sampled; use always_on, always_off or traceidratio, "
        "with or without the prefix parentbased_",
        OTEL_TRACES_SAMPLER,
        sampler,
    )
    return 1.0


def _share(argument: str | None) -> float:
    if argument is None or not argument.strip():
        return 1.0
    try:
        share = float(argument)
    except ValueError:
        share = math.nan
    if 0 <= share <= 1:
        return share
    logger.warning("%s=%s is not a number from 0 to 1: every run is sampled", OTEL_TRACES_SAMPLER_ARG, argument)
    return 1.0


@lru_cache(maxsize=1)
def _package_version() -> str:
    try:
        return metadata.version("otel-storage")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "0"


def _current_link() -> SpanLink | None:
    span = trace.get_current_span()
    context = span.get_span_context()
    if not (span.is_recording() and context.is_valid):
        return None
    return SpanLink(trace_id=context.trace_id, span_id=context.span_id, trace_flags=int(context.trace_flags))
