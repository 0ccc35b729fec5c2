"""The conformance suite that a results storage has to pass.

A storage's test file is a few lines: subclass one of the two classes, and give it a new, empty storage.

    from otel_storage.testing.conformance import StrictStorageConformance

    class TestMyStorage(StrictStorageConformance):
        @pytest.fixture
        def storage(self, tmp_path):
            return MyStorage(tmp_path)

A class may also give ``clock``, the :class:`~otel_storage.testing.clock.ManualClock` that ``storage`` was made with
(without one the suite goes by the real time), and ``other_storage``, a second storage over the same data as another
process would have it (without one it is the same storage).

One rule, ``test_changes_in_any_order``, is a state machine, which needs Hypothesis; see
:mod:`otel_storage.testing.conformance.machine`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from otel_storage.results.extras import to_install

try:
    import pytest
except ImportError as error:
    raise ImportError(f"the conformance suite runs under pytest; {to_install('test')}") from error

if TYPE_CHECKING:
    from otel_storage.testing.conformance.suites import StorageConformance, StrictStorageConformance

__all__ = ["StorageConformance", "StrictStorageConformance"]

# So that a rule that fails says what was compared.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in (
            "fixtures",
            "building",
            "lookups",
            "sequences",
            "records",
            "transitions",
            "saving",
            "digest",
            "cleanup",
            "model",
            "machine",
        )
    )
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("otel_storage.testing.conformance.suites"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
