"""The seven states of a record, and which may follow which."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from otel_storage.results import host
from otel_storage.results.exceptions import InvalidInput

if TYPE_CHECKING or not host.is_installed():

    class PipelineTaskStatus(Enum):
        """The status of a record: PENDING, RUNNING, or one of five final ones.

        Where django-pipelines is installed this is the host's own class: its runners and pages compare by identity.
        """

        PENDING = "PENDING"
        RUNNING = "RUNNING"
        DONE = "DONE"
        CONFIG_ERROR = "CONFIG_ERROR"
        VALIDATION_ERROR = "VALIDATION_ERROR"
        RUNTIME_ERROR = "RUNTIME_ERROR"
        CANCELLED = "CANCELLED"

        @classmethod
        def choices(cls) -> tuple[tuple[str, str], ...]:
            """(name, value) of each status, as Django's model fields take them."""
            return tuple((status.name, status.value) for status in cls)

        @classmethod
        def failed_statuses(cls) -> list[PipelineTaskStatus]:
            """The final statuses that mean failure; CANCELLED is one of them."""
            return [cls.RUNTIME_ERROR, cls.CONFIG_ERROR, cls.VALIDATION_ERROR, cls.CANCELLED]

        @classmethod
        def success_statuses(cls) -> list[PipelineTaskStatus]:
            """The final statuses that mean success: DONE alone."""
            return [cls.DONE]

        @classmethod
        def final_statuses(cls) -> list[PipelineTaskStatus]:
            """The five statuses that no other may follow."""
            return [*cls.failed_statuses(), *cls.success_statuses()]

        @classmethod
        def non_final_statuses(cls) -> list[PipelineTaskStatus]:
            """PENDING and RUNNING."""
            return [cls.PENDING, cls.RUNNING]

        def has_advanced(self, new_state: PipelineTaskStatus) -> bool:
            """Whether ``new_state`` is later in the life of a record than this one."""
            return self in preceding(new_state)

else:
    PipelineTaskStatus = host.load("status").PipelineTaskStatus


FINAL = frozenset(PipelineTaskStatus.final_statuses())
"""DONE, CONFIG_ERROR, VALIDATION_ERROR, RUNTIME_ERROR and CANCELLED."""

FAILED = frozenset(PipelineTaskStatus.failed_statuses())
"""Every final status but DONE."""

ERRORS = FAILED - {PipelineTaskStatus.CANCELLED}
"""CONFIG_ERROR, VALIDATION_ERROR and RUNTIME_ERROR."""


STATUSES = {key: status for status in PipelineTaskStatus for key in (status, status.value)}
"""Each status, by itself and by its name."""

PRECEDING: dict[PipelineTaskStatus, tuple[PipelineTaskStatus, ...]] = {
    PipelineTaskStatus.PENDING: (),
    PipelineTaskStatus.RUNNING: (PipelineTaskStatus.PENDING,),
    **dict.fromkeys(FINAL, (PipelineTaskStatus.PENDING, PipelineTaskStatus.RUNNING)),
}
"""The statuses that each may follow: none precedes PENDING, and nothing follows a final one."""


def preceding(status: PipelineTaskStatus) -> tuple[PipelineTaskStatus, ...]:
    """The statuses that ``status`` may follow."""
    return PRECEDING[status]


def as_status(value: object) -> PipelineTaskStatus:
    """The status that ``value`` means: a status itself, or its name as a string.

    Raises:
        InvalidInput: ``value`` is none of the seven.
    """
    if isinstance(value, PipelineTaskStatus):
        return value
    name = value.value if isinstance(value, Enum) else value
    if isinstance(name, str) and name in PipelineTaskStatus.__members__:
        return PipelineTaskStatus[name]
    known = ", ".join(PipelineTaskStatus.__members__)
    raise InvalidInput(f"{value!r:.100} is not a status; use one of PipelineTaskStatus: {known}")
