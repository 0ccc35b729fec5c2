"""What is decided about a run's trace, by arguments and OpenTelemetry's variables, and how it is kept."""

from __future__ import annotations

import json
import logging
import os
import uuid
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results.exceptions import ConfigurationError
from otel_storage.telemetry.spans import run_trace
from otel_storage.telemetry.spans.run_trace import Limits, RunTrace, SpanLink, check_capture

RUN_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def decide(run_id: str = RUN_ID, **arguments: object) -> RunTrace:
    """The decision, where there is one."""
    decided = run_trace.decide(run_id, **arguments)  # type: ignore[arg-type]
    assert decided is not None
    return decided


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """Forget what was read of other tests' environments, so that it is warned of again."""
    for cached in (run_trace._ratio, run_trace._limits, run_trace._resource):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("variable", "value", "disabled"),
    [
        ("OTEL_SDK_DISABLED", "true", True),
        ("OTEL_SDK_DISABLED", " TRUE ", True),
        ("OTEL_SDK_DISABLED", "1", False),
        ("OTEL_SDK_DISABLED", "", False),
        ("OTEL_TRACES_EXPORTER", "none", True),
        ("OTEL_TRACES_EXPORTER", " None, none,", True),
        ("OTEL_TRACES_EXPORTER", "none,otlp", False),
        ("OTEL_TRACES_EXPORTER", "", False),
    ],
)
def test_disabled(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, disabled: bool) -> None:
    """Telemetry is turned off by the two standard variables, read at each call."""
    assert decide() is not None
    monkeypatch.setenv(variable, value)
    assert (run_trace.decide(RUN_ID) is None) == disabled


@pytest.mark.parametrize(
    ("argument", "service_name", "attributes", "expected"),
    [
        ("given", "env", "service.name=attr", "given"),
        (None, "env", "service.name=attr", "env"),
        (None, None, "service.name=attr", "attr"),
        (None, "", "service.name=", "pipelines"),
        (None, None, None, "pipelines"),
    ],
)
def test_service_name(
    monkeypatch: pytest.MonkeyPatch,
    argument: str | None,
    service_name: str | None,
    attributes: str | None,
    expected: str,
) -> None:
    """The argument, then the two variables, then our own default."""
    for name, value in (("OTEL_SERVICE_NAME", service_name), ("OTEL_RESOURCE_ATTRIBUTES", attributes)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert decide(service_name=argument).resource["service.name"] == expected


def test_resource_has_nothing_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resource is the same in every process: it has no service.instance.id, which the SDK makes up in each."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=a%20b,broken")
    assert decide().resource.keys() == {
        "service.name",
        "telemetry.sdk.language",
        "telemetry.sdk.name",
        "telemetry.sdk.version",
        "deployment.environment.name",
    }
    assert decide().resource["deployment.environment.name"] == "a b"


@pytest.mark.parametrize(
    ("sampler", "argument", "expected"),
    [
        (None, None, 200),
        ("always_on", None, 200),
        ("always_off", None, 0),
        ("parentbased_always_on", None, 200),
        ("parentbased_always_off", None, 0),
        ("traceidratio", None, 200),
        ("traceidratio", "0", 0),
        ("ParentBased_TraceIdRatio", " 1.0 ", 200),
    ],
)
def test_sampler(monkeypatch: pytest.MonkeyPatch, sampler: str | None, argument: str | None, expected: int) -> None:
    """A run is a root, so the root sampler decides."""
    if sampler is not None:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    if argument is not None:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    assert sum(decide(str(uuid.uuid4())).sampled for _ in range(200)) == expected


def test_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of the runs is sampled, always the same runs."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.4")
    runs = [f"run-{number}" for number in range(1000)]
    verdicts = [decide(run).sampled for run in runs]
    assert 340 < sum(verdicts) < 460
    assert verdicts == [decide(run).sampled for run in runs]


@pytest.mark.parametrize(
    ("sampler", "argument"),
    [
        ("jaeger_remote", None),
        ("traceidratio", "many"),
        ("traceidratio", "1.5"),
        ("traceidratio", "nan"),
        ("traceidratio", "-1"),
    ],
)
def test_a_bad_sampler_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, sampler: str, argument: str | None
) -> None:
    """Everything is sampled then: a typing error must not lose traces, nor fill the log."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    if argument is not None:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    with caplog.at_level(logging.WARNING, "otel_storage"):
        assert all(decide(str(uuid.uuid4())).sampled for _ in range(20))
    assert len(caplog.records) == 1
    assert (argument or sampler) in caplog.text


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Limits(value_bytes=2000, attributes=128, event_attributes=128)),
        ({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "50"}, Limits(value_bytes=50)),
        (
            {"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "50", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "70"},
            Limits(value_bytes=70),
        ),
        ({"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "9000"}, Limits(value_bytes=2000)),
        ({"OTEL_ATTRIBUTE_COUNT_LIMIT": "5"}, Limits(attributes=5, event_attributes=5)),
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "5"}, Limits(attributes=5)),
        ({"OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "2"}, Limits(event_attributes=2)),
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": ""}, Limits(attributes=None)),
    ],
)
def test_limits(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: Limits) -> None:
    """Limits are read as the SDK reads them; values are never longer than 2000 bytes."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert decide().limits == expected


def test_a_bad_limit_is_warned_of_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The defaults apply then: building a run does not fail for it."""
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "several")
    with caplog.at_level(logging.WARNING, "otel_storage"):
        assert decide().limits == decide().limits == Limits()
    assert caplog.text.count("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT") == 1


def test_the_environment_is_read_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cached follows the variables."""
    assert decide().resource["service.name"] == "pipelines"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "billing")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    assert decide().resource["service.name"] == "billing"
    assert not decide().sampled


def test_the_current_span_is_linked_if_it_records() -> None:
    """A web request that builds a run, say; a span of another process, or none, is not."""
    assert decide().link is None
    with TracerProvider().get_tracer("test").start_as_current_span("request") as span:
        context = span.get_span_context()
        assert decide().link == SpanLink(
            trace_id=context.trace_id, span_id=context.span_id, trace_flags=context.trace_flags
        )
    with trace.use_span(trace.NonRecordingSpan(context)):
        assert decide().link is None


def test_json_round_trip() -> None:
    """What was stored is what was decided; ``sampled`` is at the top, where SQL looks for it."""
    for decided in (
        RunTrace(sampled=False),
        RunTrace(
            sampled=True,
            resource={"service.name": "é"},
            scope_version="1",
            capture=("config", "messages"),
            limits=Limits(value_bytes=1, attributes=None, event_attributes=0),
            link=SpanLink(trace_id=1, span_id=2**64 - 1, trace_flags=1),
            url="https://x",
        ),
        decide(capture={"objects", "config"}, service_name="x", url="https://y"),
    ):
        stored = json.loads(json.dumps(decided.as_json()))
        assert stored["sampled"] is decided.sampled
        assert stored["version"] == 1
        assert RunTrace.from_json(stored) == decided


def test_json_of_another_version_is_refused() -> None:
    """A sender that does not understand a decision makes no span of it, rather than another one."""
    for stored in ({}, {**decide().as_json(), "version": 2}):
        with pytest.raises(ValueError, match="another version"):
            RunTrace.from_json(stored)


def test_capture_is_sorted() -> None:
    """The JSON of one set of names is the same each time."""
    assert decide(capture={"objects", "config", "messages"}).capture == ("config", "messages", "objects")


def test_check_capture() -> None:
    """The names are checked where they are configured, and the error names those that can be used."""
    assert check_capture([]) == frozenset()
    assert check_capture(["input_data", "config", "objects", "messages"]) == run_trace.CAPTURE_NAMES
    with pytest.raises(ConfigurationError, match=r"'input'.*'config', 'input_data', 'messages', 'objects'"):
        check_capture(["input", "config"])
    with pytest.raises(ConfigurationError, match="not a string"):
        check_capture("config")


def test_names_that_are_not_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte that is not UTF-8 costs a character of a name, and not the attribute."""
    monkeypatch.setitem(os.environb, b"OTEL_SERVICE_NAME", b"svc\xff")
    monkeypatch.setitem(os.environb, b"OTEL_RESOURCE_ATTRIBUTES", b"team\xff=blue\xfe")

    assert decide().resource["service.name"] == "svc?"
    assert decide().resource["team?"] == "blue?"


@pytest.mark.parametrize("name", [5, b"billing", ["billing"]])
def test_a_service_name_that_is_no_text(name: Any) -> None:
    """It is refused when the storage is made, with what it is."""
    with pytest.raises(ConfigurationError, match=f"service_name must be a string, not a {type(name).__name__}"):
        OtelPipelineStorage(url="sqlite://", delivery="external", service_name=name)
