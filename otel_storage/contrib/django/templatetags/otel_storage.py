"""``{% trace_url run_id as url %}``: the address of a run's trace."""

from __future__ import annotations

import logging
from typing import Any

from django import template

from otel_storage.results import helpers

logger = logging.getLogger("otel_storage")

_logged: set[str] = set()


def trace_url(run_id: Any) -> str:
    """The address of the run's trace; empty without a trace, or if no ``trace_url`` is configured.

    An error does not break the page; it is logged once.
    """
    try:
        execution = helpers.get_pipeline_execution(run_id)
        # Records of other storages may lack the method.
        get_trace_url = getattr(execution, "get_trace_url", None)
        return (get_trace_url() or "") if get_trace_url is not None else ""
    except Exception as error:
        cause = type(error).__qualname__
        if cause not in _logged:
            _logged.add(cause)
            logger.warning("pages are shown without links to traces", exc_info=True)
        return ""


register = template.Library()
register.simple_tag(trace_url)
