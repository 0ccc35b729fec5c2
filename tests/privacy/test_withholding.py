"""Masking costs a text at most, and never a span."""

from __future__ import annotations

import logging
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_storage.composite import OtelPipelineStorage
from otel_storage.ports.snapshots import Failure
from otel_storage.privacy import masking, withholding
from otel_storage.privacy.masking import as_json, scrub
from otel_storage.privacy.withholding import WITHHELD
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.telemetry.spans.messages import public_message, public_stacktrace
from otel_storage.testing.conformance.fixtures import Builder
from otel_storage.testing.pipelines import RecordingReporter

RUNTIME_ERROR = PipelineTaskStatus.RUNTIME_ERROR

FRAGMENTS = (
    *(
        "PRIVATE KEY",
        "-----BEGIN RSA PRIVATE KEY-----",
        "-----END PRIVATE KEY-----",
        "://",
        "@",
        ":",
        "password",
        "=",
        "(",
    ),
    *(
        "token",
        "bearer ",
        "Basic ",
        "eyJ",
        "AKIA",
        "4111 1111 1111 1111",
        "'",
        '"',
        "\\",
        "{",
        "}",
        "]",
        "\n",
        " ",
        "x",
        "é",
    ),
    *("1 validation error for x\n", '[{"type":', '"loc"', "[type=a, input_value=", "Cookie: ", "jwt", "\ud800", "\x00"),
)
"""What the patterns of masking look for, in parts."""


@given(st.lists(st.sampled_from(FRAGMENTS)).map("".join))
def test_no_text_raises(text: str) -> None:
    """Any text is masked by itself; nothing of it has to be withheld."""
    scrub(text)
    for message in (
        public_message(RUNTIME_ERROR, text, False, 500),
        public_stacktrace(RUNTIME_ERROR, Failure(type="X", message=text, stacktrace=text), False, 500),
        as_json({text: text}),
    ):
        assert WITHHELD not in message


def test_a_marker_without_its_pair() -> None:
    """A text that names a private key and has none stays as it is."""
    assert scrub("cannot read PRIVATE KEY file") == "cannot read PRIVATE KEY file"


def test_a_fault_of_masking_withholds_the_text_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The spans of the failed task and of its run are sent; the log says once where the fault is, without the text."""

    def fail(text: str) -> str:
        raise LookupError(text)

    monkeypatch.setattr(masking, "_scrub_cards", fail)
    withholding._complaints.end()
    exporter = InMemorySpanExporter()
    with (
        caplog.at_level(logging.ERROR, withholding.__name__),
        closing(OtelPipelineStorage(url="sqlite://", exporter=exporter, delivery="external")) as storage,
    ):
        storage.records.upgrade()
        made = Builder(storage).line()
        made[3].report_status_change(RecordingReporter(), RUNTIME_ERROR, message="seeded secret")
        assert storage.delivery.deliver_due().error == ""

    spans = exporter.get_finished_spans()
    assert len(spans) == 4
    assert {span.status.description for span in spans} == {WITHHELD}
    [said] = caplog.messages
    assert "LookupError" in said
    assert "seeded secret" not in said
