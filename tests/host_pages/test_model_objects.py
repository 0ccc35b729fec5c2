"""The model objects of records: fresh for a task that runs, shared and loaded at once for a page."""

from __future__ import annotations

import pytest

from tests.host_pages.conftest import Site


@pytest.fixture
def keys(site: Site) -> tuple[list[int], list[int]]:
    """The keys of two regions and two orders."""
    return (
        [int(key) for key in site.create("region", ["north", "south"])],
        [int(key) for key in site.create("order", ["a", "b"])],
    )


@pytest.mark.parametrize("curious", [False, True], ids=["", "a reporter asks first"])
def test_a_task_sees_what_the_tasks_before_it_changed(
    site: Site, keys: tuple[list[int], list[int]], curious: bool
) -> None:
    """The first task changes the rows of its objects, the second finds them changed, and no two share an instance.

    That is so whether or not a reporter has asked all records for their objects when they were built.
    """
    if curious:
        ended = site.run_with_curious_reporter("Totals")
        run_id = ended["run_id"]
        # The objects were had when the records were waiting, running and done.
        assert set(ended["asked"]) == {"PENDING", "RUNNING", "DONE"}
    else:
        run_id = site.run("Totals")
    assert site.execution(run_id)["status"] == "DONE"

    seen = site.seen()

    regions, orders = keys
    # Each task adds one to its region and its order; two tasks for two orders, for two regions.
    expected = [
        {"task": task, "region": [region, 2 * step + position], "order": [order, 2 * turn + step]}
        for turn, region in enumerate(regions)
        for step, task in enumerate(("first", "second"))
        for position, order in enumerate(orders)
    ]
    assert [{name: noted[name] for name in ("task", "region", "order")} for noted in seen] == expected
    for which in (0, 1):
        assert len({noted["instances"][which] for noted in seen}) == len(seen) == 8
    assert site.totals("region") == [4, 4]
    assert site.totals("order") == [4, 4]


def test_what_records_give(site: Site, keys: tuple[list[int], list[int]]) -> None:
    """One record gives one instance; those that are only read share it with others, and load it together.

    One that is reported on loads its own anew, and keeps it; what is gone raises the model's own error, on each
    access, for its own record alone; a model that is gone, and a key that is none, spoil no other object.
    """
    assert site.check_model_objects(site.run("Totals")) == {
        "same instance each time": True,
        "same instance on the pipeline result and below": True,
        "queries for all": 2,
        "queries for all once more": 0,
        "kept where it is listed again": True,
        "loaded for who is there": [True],
        "another one that was set": ["order a", "order b"],
        "fresh once reported on": True,
        "and kept": True,
        "its own": True,
        "not in a batch": "order a",
        "queries for it": 1,
        "gone": ["shop.Order.DoesNotExist: Order matching query does not exist."] * 2,
        "queries for what is gone": 1,
        "others": ["order b", "order b", "order b"],
        "the model is gone": ["ObjectDoesNotExist: there is no model shop.ghost in this project"] * 2,
        "no key": "ValueError",
        "beside them": "order b",
    }
