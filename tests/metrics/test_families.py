"""Every metric that we have, and how the figures become its points."""

from __future__ import annotations

import re
from contextlib import closing
from datetime import timedelta

import pytest
from opentelemetry.semconv._incubating.attributes.cicd_attributes import CicdPipelineResultValues

from otel_storage.metrics.families import FAMILIES, Kind, attribute_names
from otel_storage.ports import outcomes
from otel_storage.ports.outbox import OutboxCounts
from otel_storage.ports.totals import BOUNDS, Histogram
from otel_storage.results import host
from otel_storage.results.status import PipelineTaskStatus as Status
from otel_storage.telemetry.spans import attributes
from tests.metrics.conftest import REPORTER, Site

P = "shop.Orders"


def test_names() -> None:
    """Names are in two namespaces and of characters that both formats take; each has a unit and words."""
    assert len({family.name for family in FAMILIES}) == len(FAMILIES) == 17
    for family in FAMILIES:
        assert re.fullmatch(r"(cicd|otel_storage)(\.[a-z_]+)+", family.name)
        assert family.unit == "s" or re.fullmatch(r"\{[a-z]+\}", family.unit)
        assert family.description.endswith(".")
    assert all(re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", name) for name in attribute_names())


def test_results_are_the_conventions() -> None:
    """What a status means is said in the terms of the semantic conventions."""
    for result in (outcomes.SUCCESS, outcomes.FAILURE, outcomes.TIMEOUT, outcomes.CANCELLATION):
        assert CicdPipelineResultValues(result).value == result
    assert attributes.STATUS == "otel_storage.status"


@pytest.mark.parametrize("engine", ["sqlite", "postgresql", "mariadb"])
def test_every_family(engine: str, request: pytest.FixtureRequest) -> None:
    """What each metric says of finished and unfinished runs, on each engine."""
    site = Site(request.getfixturevalue(f"{engine}_url"))
    with closing(site.storage):
        began = site.clock().timestamp()
        site.run()
        failed_at = site.clock().timestamp() + 2.25
        site.run(Status.RUNTIME_ERROR)
        site.run(Status.CANCELLED)
        for result in site.storage.get_task_results(site.build().get_run_id()):
            result.report_status_change(REPORTER, Status.RUNNING)
            break
        site.clock.advance(4)
        site.build()
        site.clock.advance(3)

        errors = site.points("cicd.pipeline.run.errors")
        durations = site.points("cicd.pipeline.run.duration")
        runs = site.points("otel_storage.runs")
        results = site.points("otel_storage.task.results")

        assert errors == {(P, "CONFIG_ERROR"): 0, (P, "RUNTIME_ERROR"): 1, (P, "VALIDATION_ERROR"): 0}
        assert {key: value for key, value in runs.items() if value} == {
            (P, "CANCELLED"): 1,
            (P, "DONE"): 1,
            (P, "RUNTIME_ERROR"): 1,
        }
        assert len(runs) == 5
        assert len(results) == 10
        assert results[P, "load", "RUNTIME_ERROR"] == 1
        assert {key: (value.count, value.total) for key, value in durations.items()} == {
            (P, state, *rest): (1, total)
            for state, total in (("pending", 250_000), ("executing", 2_000_000))
            for rest in (("success",), ("failure", "RUNTIME_ERROR"), ("cancellation",))
        }
        assert site.points("otel_storage.task.result.duration")[P, "load"].total == 6_000_000
        assert site.points("otel_storage.task.result.queue_time")[P, "load"].count == 3
        assert site.points("cicd.pipeline.run.active") == {(P, "pending"): 1, (P, "executing"): 1}
        assert site.points("otel_storage.run.oldest_age") == {(P, "pending"): 3.0, (P, "executing"): 7.0}
        assert site.points("otel_storage.task.results.running") == {(P, "extract"): 1, (P, "load"): 0}
        assert site.points("otel_storage.task.result.oldest_age") == {(P, "extract"): 7.0, (P, "load"): 0.0}
        assert site.points("otel_storage.run.last_started") == {(P,): began + 6.75}
        assert site.points("otel_storage.run.last_completed") == {
            (P, "DONE"): began + 2.25,
            (P, "RUNTIME_ERROR"): failed_at,
            (P, "CANCELLED"): failed_at + 2.25,
        }


def test_a_pipeline_that_only_waits(site: Site) -> None:
    """From its first run on a pipeline and its tasks have a series of every status; of times that never were, none."""
    site.build()

    assert set(site.points("otel_storage.runs").values()) == {0}
    assert set(site.points("otel_storage.task.results").values()) == {0}
    assert set(site.points("otel_storage.task.result.duration")) == {(P, "extract"), (P, "load")}
    assert set(site.points("cicd.pipeline.run.duration")) == {(P, "pending", "success"), (P, "executing", "success")}
    assert site.points("otel_storage.run.last_started") == {}
    assert site.points("otel_storage.run.last_completed") == {}


def test_a_project_that_never_ran(site: Site) -> None:
    """The pipelines that a project registers, and their tasks, have series before they run."""
    families = {one.family.name: one for one in site.reader(pipelines=lambda: {"shop.Stock": ["count"]}).read()}

    assert len(families["otel_storage.runs"].points) == 5
    assert len(families["otel_storage.task.results"].points) == 5


def test_no_project() -> None:
    """Where Django is not set up there are no registered pipelines, and nothing is imported to look."""
    assert isinstance(host.registered_pipelines(), dict)


def test_a_timeout(site: Site) -> None:
    """A run that a time limit ended is a timeout among the durations, and a RUNTIME_ERROR elsewhere."""
    site.run(Status.RUNTIME_ERROR, message="TimeLimitExceeded(3,)")
    site.run(Status.RUNTIME_ERROR, message="no")

    durations = site.points("cicd.pipeline.run.duration")

    assert durations[P, "executing", "timeout", "RUNTIME_ERROR"].count == 1
    assert durations[P, "executing", "failure", "RUNTIME_ERROR"].count == 1
    assert site.points("cicd.pipeline.run.errors")[P, "RUNTIME_ERROR"] == 2


def test_no_more_series_than_asked_for(site: Site) -> None:
    """Pipelines and tasks beyond the limit are one series together, which has all that they have."""
    for number in range(4):
        site.run(pipeline_id=f"shop.P{number}")
        site.reader().read()

    runs = site.points("otel_storage.runs", most_series=4)
    durations = site.points("otel_storage.task.result.duration", most_series=4)

    assert sum(runs.values()) == 4
    assert {key[0] for key in runs if len(key) == 2} == {"shop.P0", "shop.P1"}
    assert runs[True,] == 2
    assert durations[True,] == Histogram(durations["shop.P0", "load"].counts, 2_000_000) + Histogram(
        tuple(count * 5 for count in durations["shop.P0", "load"].counts), 10_000_000
    )
    assert len(site.points("otel_storage.run.last_started", most_series=4)) == 3


def test_series_stay_who_they_are(site: Site) -> None:
    """The pipelines that were known first stay told apart, whatever comes after them."""
    site.run(pipeline_id="shop.Z")
    before = set(site.points("otel_storage.runs", most_series=3))
    site.run(pipeline_id="shop.A")

    after = set(site.points("otel_storage.runs", most_series=3))

    assert after == before | {(True,)}


def test_delivery(site: Site) -> None:
    """The outbox's metrics: why references wait and for how long, who sends, and the last success and failure."""
    site.run()
    site.clock.advance(60)
    senders = site.records.outbox.senders
    at = site.clock()
    senders.seen("a" * 32, is_watching=True, sent=at, failed=at - timedelta(hours=1), error="no")
    senders.seen("b" * 32, is_watching=False, sent=None, failed=None, error="")
    site.clock.advance(200)
    senders.seen("c" * 32, is_watching=True, sent=None, failed=None, error="")
    site.clock.advance(101)

    entries = {state: count for (state,), count in site.points("otel_storage.outbox.entries").items()}

    assert entries == {"due": 3, "retrying": 0, "leased": 0, "held": 0, "open": 0, "refused": 0, "expired": 0}
    assert site.points("otel_storage.outbox.oldest_age") == {(): 361.0}
    assert site.points("otel_storage.delivery.last_success") == {(): at.timestamp()}
    assert site.points("otel_storage.delivery.last_failure") == {(): at.timestamp() - 3600}
    assert site.points("otel_storage.senders") == {(True,): 1, (False,): 0}


def test_nobody_ever_sent(site: Site) -> None:
    """Times that never were are absent, and ages of nothing are 0."""
    assert site.points("otel_storage.delivery.last_success") == {}
    assert site.points("otel_storage.delivery.last_failure") == {}
    assert site.points("otel_storage.outbox.oldest_age") == {(): 0.0}


def test_kinds_add_up() -> None:
    """Counts and histograms of the overflow add up; ages and times do not."""
    assert {family.name for family in FAMILIES if family.kind is Kind.GAUGE} == {
        "otel_storage.run.oldest_age",
        "otel_storage.task.result.oldest_age",
        "otel_storage.run.last_started",
        "otel_storage.run.last_completed",
        "otel_storage.outbox.oldest_age",
        "otel_storage.delivery.last_success",
        "otel_storage.delivery.last_failure",
    }
    assert sorted(BOUNDS) == list(BOUNDS)


def test_a_large_backlog_is_not_counted_each_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at the outbox that takes long serves for a while; one that does not is taken each time."""
    looks: list[OutboxCounts] = []
    look = site.records.outbox.counts

    def counted() -> OutboxCounts:
        looks.append(look())
        return looks[-1]

    monkeypatch.setattr(site.records.outbox, "counts", counted)
    monkeypatch.setattr("otel_storage.sql.totals.reading._LONG_LOOK", 1e9)
    for _ in range(2):
        site.reader().read()
    assert len(looks) == 2

    monkeypatch.setattr("otel_storage.sql.totals.reading._LONG_LOOK", 0.0)
    monkeypatch.setattr("otel_storage.sql.totals.reading._LOOK_SHARE", 1e9)
    for _ in range(3):
        site.reader().read()

    assert len(looks) == 3
