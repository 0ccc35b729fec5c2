"""The results of a run: every row of it, and what they cost."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.host_pages.conftest import Site
from tests.host_pages.reading import Result, results

STATUSES = {
    "PENDING": ("result-pending", "Pending"),
    "RUNNING": ("result-primary", "Running"),
    "DONE": ("result-success", "Done"),
    "RUNTIME_ERROR": ("result-danger", "Runtime Error"),
    "CANCELLED": ("result-cancelled", "Cancelled"),
}
"""How the host shows a status."""

SHAPES = [(1, 1, 1), (1, 10, 100), (20, 10, 10), (5000, 1, 2)]


def read(site: Site, run_id: str, status: int = 286) -> list[Result]:
    """The rows of a run's results list; the status code of a final run tells the page to stop polling."""
    page = site.get(f"{run_id}/results/list/")
    assert page["status"] == status
    return results(page["html"])


def comparable(rows: list[Result]) -> Counter[tuple[Any, ...]]:
    """The rows without what differs from run to run.

    The host's own storage shows pipeline results in the order they started, backwards, and no status of a task result,
    which the template asks for by a name that only ours knows. How long something took is left out but for whether it
    was started.
    """
    return Counter(
        (row.depth, row.kind, row.colour, row.title, row.duration == "None")
        + (() if row.kind == "TaskResult" else (row.status,))
        for row in rows
    )


@pytest.fixture
def shop(site: Site, orm_site: Site) -> tuple[Site, Site]:
    """Both sites, with regions and orders in them."""
    for each in (site, orm_site):
        each.create("region", ["north", "south"])
        each.create("order", ["fine", "broken", "good"])
        each.create("parcel", ["small", "large"])
    return site, orm_site


@pytest.mark.parametrize("pipeline", ["Export", "Broken", "Regional", "Shipping", "Totals"])
def test_the_same_rows_as_the_host_s_own_storage(shop: tuple[Site, Site], pipeline: str) -> None:
    """Each row is there, with the text, the nesting and the colour that the host's own storage gives it."""
    ours, theirs = (read(each, each.run(pipeline)) for each in shop)

    assert comparable(ours) == comparable(theirs)


@pytest.mark.parametrize("pipeline", ["Export", "Broken", "Regional", "Shipping"])
def test_every_record_has_its_row(shop: tuple[Site, Site], pipeline: str) -> None:
    """The rows are the run's records, each once under its id, in their order and with the status they have."""
    site, _ = shop
    run_id = site.run(pipeline)
    records = site.records(run_id)
    # The host leaves a level out that has one record alone.
    if len(records["PipelineResult"]) == 1:
        records["PipelineResult"] = []
    single = {parent for parent, n in Counter(r["parent"] for r in records["TaskResult"]).items() if n == 1}
    records["TaskExecution"] = [r for r in records["TaskExecution"] if r["id"] not in single]

    rows = read(site, run_id)

    for kind, expected in records.items():
        shown = [row for row in rows if row.kind == kind]
        assert [row.id for row in shown] == [record["id"] for record in expected]
        assert [(row.colour, row.status) for row in shown] == [STATUSES[record["status"]] for record in expected]


def test_a_run_that_is_not_final_is_polled_on(site: Site) -> None:
    """While a run is not final the page answers 200, and shows its running and pending tasks."""
    site.create("region", ["north"])
    run_id = site.shape(1, 2, 0, final=False)

    [first, second] = read(site, run_id, status=200)

    assert (first.status, first.duration) == ("Pending", "None")
    assert (second.status, second.duration) == ("Pending", "None")


def test_an_unknown_run(site: Site) -> None:
    """An unknown run is not found; the frame of its page is shown all the same, as in the host."""
    assert site.get("unknown/results/list/")["status"] == 404
    assert site.get("unknown/results/")["status"] == 200


def test_a_run_of_a_bad_configuration(site: Site) -> None:
    """A run of a bad configuration has no row, and is final."""
    run_id = site.run_badly_configured()

    assert read(site, run_id) == []
    assert site.execution(run_id)["status"] == "CONFIG_ERROR"


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_what_the_page_costs(site: Site, shape: tuple[int, int, int]) -> None:
    """At most six queries of ours, and two for each model, whatever the size of the run; every row is there."""
    pipeline_results, tasks, per_task = shape
    site.create("region", [f"r{n}" for n in range(pipeline_results)])
    site.create("order", [f"o{n}" for n in range(per_task)])
    run_id = site.shape(*shape)

    page = site.get(f"{run_id}/results/list/")

    assert page["status"] == 286
    assert len(page["ours"]) <= 6
    of_models = [query for query in page["django"] if "shop_" in query or "content_type" in query]
    # The host's way is one for the type and one for the object; ours one for a thousand objects.
    assert len(of_models) <= 2 + max(2, pipeline_results / 1000)
    rows = results(page["html"])
    kinds = Counter(row.kind for row in rows)
    assert kinds["TaskResult"] == pipeline_results * tasks * per_task
    assert kinds["TaskExecution"] == (0 if per_task == 1 else pipeline_results * tasks)
    assert kinds["PipelineResult"] == (0 if pipeline_results == 1 else pipeline_results)
    expected = [
        f"task_{t} (shop.Load) for region r{r} | order o{o}"
        for r in range(pipeline_results)
        for t in range(tasks)
        for o in range(per_task)
    ]
    assert [row.title for row in rows if row.kind == "TaskResult"] == expected


def test_objects_that_are_gone(shop: tuple[Site, Site]) -> None:
    """The row of an object that was deleted shows nothing for it, as with the host's own storage; others are whole."""
    shown = []
    for each in shop:
        run_id = each.run("Regional")
        each.delete("order", "broken")
        each.delete("region", "south")
        shown.append(read(each, run_id))

    ours, theirs = shown
    assert comparable(ours) == comparable(theirs)
    titles = [row.title for row in ours]
    assert "load (shop.Load) for region north | order fine" in titles
    assert "load (shop.Load) for region north |" in titles
    assert "load (shop.Load) for | order fine" in titles


def test_objects_that_are_gone_cost_nothing_more(site: Site) -> None:
    """Where all objects of a run were deleted the page still asks for them once."""
    site.create("region", ["north", "south"])
    site.create("order", [f"o{n}" for n in range(20)])
    run_id = site.shape(2, 2, 20)
    for n in range(20):
        site.delete("order", f"o{n}")

    page = site.get(f"{run_id}/results/list/")

    assert len([query for query in page["django"] if "shop_" in query or "content_type" in query]) == 2
    assert len(results(page["html"])) == 2 + 4 + 80
