"""The mechanism of delivery, broken on purpose: each of these must make the suite fail.

They are applied in the processes of the storm, never in the package.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def settle_first() -> None:
    """Remove the references before the endpoint has acknowledged their spans."""
    from otel_storage.telemetry.delivery import sending

    request = sending.Sender._request

    def settle_and_request(sender: Any, items: Any, round_: Any) -> Any:
        renew, sender._outbox.renew = sender._outbox.renew, lambda *_: True
        try:
            sender._outbox.settle(round_.token, [unit.claim.reference_id for unit, _ in items])
            return request(sender, items, round_)
        finally:
            sender._outbox.renew = renew

    _patch(sending.Sender, "_request", settle_and_request)


def reference_later() -> None:
    """Write the reference after the commit of the final state, in a transaction of its own."""
    from otel_storage.sql.database.postgresql import PostgresqlPolicy
    from otel_storage.sql.outbox import transitions
    from otel_storage.sql.records import reporting

    advance, write_references = reporting.advance, transitions.write_references
    put_off: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def put_off_references(_connection: Any, *args: Any, **kwargs: Any) -> bool:
        put_off.append((args, kwargs))
        return False

    def advance_and_reference(record: Any, *args: Any, **kwargs: Any) -> Any:
        put_off.clear()
        winners = advance(record, *args, **kwargs)
        if winners and put_off:
            later, named = put_off[-1]
            # A busy machine takes as long between two commits.
            time.sleep(0.005)
            record.records.database.write(lambda connection: write_references(connection, *later, **named))
        return winners

    _patch(transitions, "write_references", put_off_references)
    _patch(PostgresqlPolicy, "refers_at_once", False)
    _patch(reporting, "advance", advance_and_reference)


def ignore_partial_success() -> None:
    """Take an answer that rejects spans for one that accepts them all."""
    from otel_storage.telemetry.otlp import session
    from otel_storage.telemetry.otlp.acknowledgement import ACCEPTED

    _patch(session, "_success", lambda *_: (ACCEPTED, ""))


MUTATIONS: dict[str, Callable[[], None]] = {
    "settle-first": settle_first,
    "reference-later": reference_later,
    "ignore-partial-success": ignore_partial_success,
}


def apply(name: str) -> None:
    """Break the mechanism in this process, if a name is given."""
    if name:
        MUTATIONS[name]()


def _patch(place: Any, name: str, broken: Any) -> None:
    """Replace what must be there: a mutation that patches nothing proves nothing."""
    assert hasattr(place, name), f"{place.__name__} has no {name} any more: mend the mutation"
    setattr(place, name, broken)
