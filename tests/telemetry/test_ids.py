"""Ids are functions of the run and the record; a change of them would make every resend another span."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_storage.telemetry.spans import ids

V4 = "0f8fad5b-d9cb-469f-a165-70867728950e"
V7 = "0190163d-8694-739b-a26d-d0e5c0f2ba47"


@pytest.mark.parametrize("run_id", [V4, V7, V4.replace("-", ""), V4.upper()])
def test_the_trace_id_of_a_random_uuid_is_the_uuid(run_id: str) -> None:
    """A run id pasted into a trace viewer opens the trace."""
    assert ids.trace_id(run_id) == uuid.UUID(run_id).int
    assert ids.format_trace_id(ids.trace_id(run_id)) == run_id.replace("-", "").lower()


@pytest.mark.parametrize(
    ("run_id", "expected"),
    [
        ("nightly-2024-05-01", "b5473f121cefab5f4e8a12290d9bb5de"),
        ("0f8fad5b-d9cb-169f-a165-70867728950e", "a7b4ec1be9dac27970d7c9b8eddebfa3"),  # version 1
        ("", "8d16582cb7183233fbf7072a26b5f82d"),
    ],
)
def test_the_trace_id_of_any_other_run_id_is_a_known_hash(run_id: str, expected: str) -> None:
    """The hash never changes."""
    assert ids.format_trace_id(ids.trace_id(run_id)) == expected


@pytest.mark.parametrize(
    "run_id",
    [
        "0f8fad5b-d9cb-469f-c165-70867728950e",  # Microsoft's variant
        "0f8fad5b-d9cb-069f-a165-70867728950e",  # no version
        "00000000-0000-0000-0000-000000000000",
        f"{{{V4}}}",
        f"urn:uuid:{V4}",
        f"{V4}\n",
        "0f8fad5bd9cb-469f-a165-70867728950e",
        "\udcff",
    ],
)
def test_what_is_no_random_uuid_is_hashed(run_id: str) -> None:
    """Only versions 4 and 7 in the two usual forms have the randomness that trace ids need."""
    assert ids.format_trace_id(ids.trace_id(run_id)) != run_id.replace("-", "")
    assert 0 < ids.trace_id(run_id) < 2**128


@pytest.mark.parametrize(
    ("kind", "record_id", "expected"),
    [
        ("PipelineExecution", 1, "9f128546a73d18b9"),
        ("PipelineResult", 1, "2e86af193992023a"),
        ("TaskExecution", 1, "182f47cd1fa21eb5"),
        ("TaskResult", 1, "3c67b7767457a6d7"),
    ],
)
def test_span_ids_are_known_hashes(kind: str, record_id: int, expected: str) -> None:
    """The hash never changes, and depends on the kind."""
    assert ids.format_span_id(ids.span_id(kind, record_id)) == expected


@given(st.text(), st.integers())
def test_ids_are_never_zero_and_fit(run_id: str, record_id: int) -> None:
    """Zero is no valid id, https://www.w3.org/TR/trace-context/."""
    assert 0 < ids.trace_id(run_id) < 2**128
    assert 0 < ids.span_id("TaskResult", record_id) < 2**64


def test_sampling_is_known_and_even_over_uuids() -> None:
    """Two of a UUID's low 64 bits are fixed: a sampler that looks at those keeps none at 0.4, and all at 0.8."""
    assert [ids.is_sampled(number, 0.5) for number in range(1, 7)] == [False, True, True, True, False, False]
    runs = [
        uuid.UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC834 % 2**128, version=4).int for number in range(4000)
    ]
    for ratio in (0.1, 0.4, 0.8):
        assert abs(sum(ids.is_sampled(run, ratio) for run in runs) / 4000 - ratio) < 0.04


@given(st.integers(min_value=1, max_value=2**128 - 1), st.floats(min_value=0, max_value=1))
def test_a_higher_ratio_samples_more(trace_id: int, ratio: float) -> None:
    """What is sampled stays so at every higher ratio; nothing at 0, everything at 1."""
    assert not ids.is_sampled(trace_id, 0)
    assert ids.is_sampled(trace_id, 1)
    if ids.is_sampled(trace_id, ratio):
        assert ids.is_sampled(trace_id, (1 + ratio) / 2)
