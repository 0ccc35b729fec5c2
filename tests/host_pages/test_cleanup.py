"""The command that removes old runs, and their logs."""

from __future__ import annotations

from tests.host_pages.conftest import Site

MINUTE = 60.0
DAY = 24 * 60 * MINUTE


def test_runs_inside_and_outside_the_limit(site: Site) -> None:
    """Of runs minutes to either side of the limit the older ones go, with their logs: the zone is not mistaken."""
    for days, arguments in ((30, ()), (2, ("--days", "2"))):
        site.clear()
        inside = [site.run("Export") for _ in range(2)]
        outside = [site.run("Broken") for _ in range(2)]
        for run_id in inside:
            site.set_times(run_id, days * DAY - 2 * MINUTE, 1.0)
        for run_id in outside:
            site.set_times(run_id, days * DAY + 2 * MINUTE, 1.0)
        recent = site.run("Export")
        assert site.logged_runs() == sorted([*inside, *outside, recent])

        ended = site.manage("clear_tasks_and_logs", *arguments)

        assert ended == {"printed": "", "error": None}
        assert site.logged_runs() == sorted([*inside, recent])
        assert [site.execution(run_id) for run_id in outside] == [None, None]
        assert all(len(site.records(run_id)["TaskResult"]) == 0 for run_id in outside)
        assert all(len(site.records(run_id)["TaskResult"]) == 1 for run_id in inside)


def test_runs_that_never_started(site: Site) -> None:
    """Runs that never started are removed by the time they were built; the host's own storage keeps them for ever."""
    site.create("region", ["north"])
    waiting = site.shape(1, 1, 0, final=False)
    site.set_built(waiting, 31 * DAY)

    site.manage("clear_tasks_and_logs")

    assert site.execution(waiting) is None


def test_nothing_to_remove(site: Site) -> None:
    """The command leaves alone what is not old."""
    run_id = site.run("Export")

    assert site.manage("clear_tasks_and_logs")["error"] is None
    assert site.logged_runs() == [run_id]
