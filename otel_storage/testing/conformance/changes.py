"""The rule that any sequence of changes comes to what the contract says: the suites' state machine."""

from __future__ import annotations

from typing import ClassVar

from otel_storage.results.base import PipelineStorage
from otel_storage.testing.clock import ManualClock
from otel_storage.testing.conformance.fixtures import Extras, StorageFixtures


class ChangeRules(StorageFixtures):
    """The results of changes in any order."""

    machine: ClassVar[str] = "StorageMachine"
    """The class in :mod:`~otel_storage.testing.conformance.machine` that says what is asked of the storage."""
    sequences: ClassVar[int] = 25
    """How many sequences of changes are tried: fewer for a slow storage."""

    def test_changes_in_any_order(
        self, storage: PipelineStorage, other_storage: PipelineStorage, clock: ManualClock | None, extras: Extras
    ) -> None:
        """After any building, reporting, saving and removing by any process, each record is as the contract says."""
        # Imported here: the other rules need no Hypothesis.
        from otel_storage.testing.conformance import machine

        subject = machine.Subject(storage, other_storage, clock=clock, extras=extras)
        machine.check_changes(getattr(machine, self.machine), subject, examples=self.sequences)


class StrictChangeRules(ChangeRules):
    """The same by records that others have overtaken, and of all that the contract promises."""

    machine = "StrictStorageMachine"
