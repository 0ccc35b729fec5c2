"""The list of pipelines, and the pages of a pipeline's runs."""

from __future__ import annotations

import pytest

from tests.host_pages.conftest import Site
from tests.host_pages.reading import table

HOUR = 3600.0
DAY = 24 * HOUR


def figures(site: Site) -> dict[str, list[str]]:
    """The cells of each pipeline on the list, by its id: tasks, successful and failed runs, last run, runtime."""
    page = site.get("")
    assert page["status"] == 200
    return {row[0].rpartition(" ")[2]: row[1:-1] for row in table(page["html"])}


def test_figures(site: Site) -> None:
    """Runs and failures are counted, the last run is the latest start, and the runtime the mean of those that ended."""
    for ago, lasted in ((3 * DAY, 60.0), (2 * HOUR + 60, 190.0)):
        site.set_times(site.run("Export"), ago, lasted)
    for ago, lasted in ((30 * HOUR, DAY + 3 * HOUR), (5 * DAY, 3 * HOUR)):
        site.set_times(site.run("Broken"), ago, lasted)

    listed = figures(site)

    # The host writes all runs where it says "Success".
    assert listed["shop.Export"] == ["1", "2/0", "2 hours ago", "2m 5s"]
    assert listed["shop.Broken"] == ["3", "2/2", "1 day, 6 hours ago", "15h"]
    assert listed["shop.Cleanup"] == ["1", "0/0", "Never", "N/A"]


def test_a_run_that_has_not_ended(site: Site) -> None:
    """A run that has not ended counts as a run, and does not change the average runtime."""
    site.create("region", ["north"])
    waiting = site.shape(1, 1, 0)
    site.set_times(waiting, HOUR, None)

    assert figures(site)["shop.Shape1x1x0"] == ["1", "1/0", "an hour ago", "N/A"]


@pytest.mark.slow
def test_pages_of_runs(site: Site) -> None:
    """Thirty runs a page, newest first: the first, a middle and the last page, with the cells of each run."""
    runs = [site.run("Export") for _ in range(70)]
    started = {run_id: site.set_times(run_id, HOUR + number, 125.0) for number, run_id in enumerate(runs)}
    newest_first = runs[::-1]

    rows: list[list[str]] = []
    for number, expected in ((1, newest_first[:30]), (2, newest_first[30:60]), (3, newest_first[60:])):
        page = site.get("shop.Export/runs/", page=number)
        assert page["status"] == 200
        rows = table(page["html"])
        assert [row[0] for row in rows] == [f"shop.Export - {run_id}" for run_id in expected]
        assert [row[1:] for row in rows] == [["1", started[run_id], "2m 5s", "DONE"] for run_id in expected]
        # How many there are, and the page: whatever its number.
        assert len(page["ours"]) == 2
        assert "(70)" in page["html"]
    assert [row[0] for row in table(site.get("shop.Export/runs/", page="last")["html"])] == [row[0] for row in rows]
    assert site.get("shop.Export/runs/", page=4)["status"] == 404
    assert table(site.get("shop.Cleanup/runs/")["html"]) == []


def test_runs_that_failed_are_red(site: Site) -> None:
    """A failed run's row is marked, which the host's own storage never does; one that has not started says so."""
    site.run("Broken")
    page = site.get("shop.Broken/runs/")
    assert page["html"].count("table-danger") == 1
    assert table(page["html"])[0][4] == "RUNTIME_ERROR"
    site.create("region", ["north"])
    site.shape(1, 2, 0)
    [row] = table(site.get("shop.Shape1x2x0/runs/")["html"])
    assert row[1:] == ["2", "NOT STARTED", "N/A", "DONE"]


@pytest.mark.parametrize("path", ["", "shop.Export/runs/", "shop.Export/start/", "run/results/", "run/results/list/"])
def test_strangers_are_turned_away(site: Site, path: str) -> None:
    """A user who is not staff is sent to the login."""
    page = site.get(path, staff=False)

    assert page["status"] == 302
    assert "login" in page["location"]


def test_the_same_rows_as_the_host_s_own_storage(site: Site, orm_site: Site) -> None:
    """Pipelines, tasks, runs and statuses are those that the host's own storage shows for the same runs."""
    for each in (site, orm_site):
        each.create("region", ["north", "south"])
        each.create("order", ["fine", "broken", "good"])
        for name in ("Export", "Regional"):
            each.run(name)

    ours, theirs = (
        # Leave out the pipelines of other tests, which exist in one of the two sites only.
        [(name, cells[0]) for name, cells in figures(each).items() if "Shape" not in name and "Bad" not in name]
        for each in (site, orm_site)
    )
    assert ours == theirs
    for name in ("Export", "Regional"):
        ours_runs, their_runs = (table(each.get(f"shop.{name}/runs/")["html"]) for each in (site, orm_site))
        assert [[row[0].split()[0], row[1], row[4]] for row in ours_runs] == [
            [row[0].split()[0], row[1], row[4]] for row in their_runs
        ]
