"""The two suites: all rules of each."""

from __future__ import annotations

from otel_storage.testing.conformance.building import BuildingRules, StrictBuildingRules
from otel_storage.testing.conformance.changes import ChangeRules, StrictChangeRules
from otel_storage.testing.conformance.cleanup import CleanupRules, StrictCleanupRules
from otel_storage.testing.conformance.digest import DigestRules, StrictDigestRules
from otel_storage.testing.conformance.lookups import LookupRules, StrictLookupRules
from otel_storage.testing.conformance.records import RecordRules, StrictRecordRules
from otel_storage.testing.conformance.saving import SavingRules, StrictSavingRules
from otel_storage.testing.conformance.sequences import SequenceRules, StrictSequenceRules
from otel_storage.testing.conformance.transitions import StrictTransitionRules, TransitionRules


class StorageConformance(
    BuildingRules,
    LookupRules,
    SequenceRules,
    RecordRules,
    TransitionRules,
    SavingRules,
    DigestRules,
    CleanupRules,
    ChangeRules,
):
    """The rules that the host's pages, runners and reporters rely on: the minimum for a storage."""


class StrictStorageConformance(
    StorageConformance,
    StrictBuildingRules,
    StrictLookupRules,
    StrictSequenceRules,
    StrictRecordRules,
    StrictTransitionRules,
    StrictSavingRules,
    StrictDigestRules,
    StrictCleanupRules,
    StrictChangeRules,
):
    """Every promise of :mod:`otel_storage.results.base`: nothing is half written, no race lost, no value raises."""
