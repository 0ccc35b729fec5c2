"""Addresses of runs and traces."""

from __future__ import annotations

from typing import Any

import pytest

from otel_storage.results.exceptions import ConfigurationError
from otel_storage.telemetry.spans.links import UrlTemplate

FIELDS = frozenset({"run_id", "trace_id"})


@pytest.mark.parametrize(
    ("template", "url"),
    [
        ("http://jaeger:16686/trace/{trace_id}", "http://jaeger:16686/trace/ab12"),
        ("https://ops/traces/{run_id}?t={trace_id}", "https://ops/traces/a%2Fb%20c?t=ab12"),
        (
            'https://grafana/explore?left={"queries":[{"query":"{trace_id}"}],"x":{}}',
            'https://grafana/explore?left={"queries":[{"query":"ab12"}],"x":{}}',
        ),
        ("https://ops/{other}/{run_id}", "https://ops/{other}/a%2Fb%20c"),
    ],
)
def test_ids_are_filled_in(template: str, url: str) -> None:
    """The ids are quoted and put in their places; all other braces stay."""
    assert UrlTemplate(template, "trace_url", FIELDS).fill(run_id="a/b c", trace_id="ab12") == url


@pytest.mark.parametrize(
    ("template", "mend"),
    [
        ("jaeger/trace/{trace_id}", "begins with http:// or https://"),
        ("/traces/{trace_id}", "begins with http:// or https://"),
        ("javascript:alert({trace_id})", "begins with http:// or https://"),
        ("http://jaeger/a b/{trace_id}", "begins with http:// or https://"),
        (7, "begins with http:// or https://"),
        ("http://jaeger/trace/", "{run_id} or {trace_id}"),
        ("http://jaeger/trace/{id}", "{run_id} or {trace_id}"),
    ],
)
def test_what_is_no_address_is_refused(template: Any, mend: str) -> None:
    """The error names the argument and what mends it."""
    with pytest.raises(ConfigurationError) as caught:
        UrlTemplate(template, "trace_url", FIELDS)

    assert str(caught.value).startswith("trace_url must ")
    assert mend in str(caught.value)
