"""A text that cannot be masked stays in the process, and the span that it belongs to leaves without it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from otel_storage.runtime.complaints import Complaints

P = ParamSpec("P")

WITHHELD = "withheld: it could not be masked"
"""Stands for a text that could not be masked."""

_logger = logging.getLogger(__name__)
_complaints = Complaints()


def withheld_on_error(mask: Callable[P, str]) -> Callable[P, str]:
    """Let a function that masks a text return :data:`WITHHELD` instead of raising.

    The error is logged once per place and kind. Its own words are not: they may repeat the text.
    """

    @wraps(mask)
    def masked(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            return mask(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - a fault in masking must cost neither the text's secrets nor the span
            cause = f"{type(error).__name__} in {mask.__name__}, line {_line(error)}"
            if _complaints.is_new(cause):
                _logger.error("a text cannot be masked and is withheld: %s", cause)
            return WITHHELD

    return masked


def _line(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "unknown" if trace is None else f"{trace.tb_lineno} of {trace.tb_frame.f_globals.get('__name__')}"
