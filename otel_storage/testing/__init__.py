"""Tools for users' tests: an OTLP receiver that can be told to misbehave.

The names are imported on first use, so that a test that sends no spans needs none of the OTLP packages.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otel_storage.testing.receiver import (
        Answer,
        DropAcknowledgement,
        Exchange,
        Fault,
        Fraction,
        OtlpReceiver,
        PartialSuccess,
        ReceivedEvent,
        ReceivedLink,
        ReceivedRequest,
        ReceivedSpan,
        RefuseSpan,
        Respond,
        Slow,
        Times,
    )

__all__ = [
    "Answer",
    "DropAcknowledgement",
    "Exchange",
    "Fault",
    "Fraction",
    "OtlpReceiver",
    "PartialSuccess",
    "ReceivedEvent",
    "ReceivedLink",
    "ReceivedRequest",
    "ReceivedSpan",
    "RefuseSpan",
    "Respond",
    "Slow",
    "Times",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("otel_storage.testing.receiver"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
