"""Starting runs: by the page, by the command, and again from a result."""

from __future__ import annotations

import re

import pydantic
import pytest

from tests.host_pages.conftest import Site, SiteError

IS_PYDANTIC_1 = pydantic.VERSION.startswith("1.")
PYDANTIC_2 = "AttributeError: 'FieldInfo' object has no attribute "


def test_the_start_page(site: Site) -> None:
    """The page lists the pipeline's tasks."""
    page = site.get("shop.Export/start/")

    assert page["status"] == 200
    assert "<li>extract: A quick task</li>" in page["html"]


def test_starting_by_the_page(site: Site) -> None:
    """A POST runs the pipeline, stores it in our storage and leads to its results."""
    page = site.post("shop.Export/start/")

    assert page["status"] == 302
    run_id = re.fullmatch(r"/pipelines/(.+)/results/", page["location"])
    assert run_id is not None
    assert site.execution(run_id[1])["status"] == "DONE"
    assert [r["status"] for r in site.records(run_id[1])["TaskResult"]] == ["DONE"]
    assert run_id[1] in site.get(f"{run_id[1]}/results/")["html"]
    assert site.get(f"{run_id[1]}/results/list/")["status"] == 286


def test_a_task_that_wants_input(site: Site, orm_site: Site) -> None:
    """The form asks for the input; with pydantic 2 it is the host that fails, with its own storage too."""
    if IS_PYDANTIC_1:
        assert 'name="amount"' in site.get("shop.WithInput/start/")["html"]
        assert site.post("shop.WithInput/start/")["status"] == 200
        page = site.post("shop.WithInput/start/", amount="7")
        assert site.execution(page["location"].split("/")[-3])["status"] == "DONE"
        return
    told = []
    for each in (site, orm_site):
        for ask in (each.get, each.post):
            with pytest.raises(SiteError) as raised:
                ask("shop.WithInput/start/")
            told.append(str(raised.value))
    assert len(set(told)) == 1
    assert re.match(PYDANTIC_2, told[0])


def test_the_command(site: Site) -> None:
    """``manage.py pipelines`` lists the pipelines, and runs the one that is chosen."""
    names = re.findall(r"shop\.pipelines\.(\w+)'", site.manage("pipelines", stdin="1\nc\n")["printed"])
    number = names.index("Broken") + 1

    ended = site.manage("pipelines", stdin=f"{number}\ne\n")

    assert ended["error"] is None
    assert "shop.Broken will run the following tasks" in ended["printed"]
    assert "Pipeline Completed" in ended["printed"]
    [run_id] = site.logged_runs()
    assert site.execution(run_id)["status"] == "RUNTIME_ERROR"


@pytest.mark.parametrize("typed", ["99\n", "x\n", "1\nc\n", "1\nq\n"])
def test_the_command_cancelled(site: Site, typed: str) -> None:
    """What is no choice, and a change of mind, leave no run."""
    assert site.manage("pipelines", stdin=typed)["error"] == "SystemExit: None"
    assert site.logged_runs() == []


def test_the_command_for_a_task_that_wants_input(site: Site, orm_site: Site) -> None:
    """The command asks for the input; with pydantic 2 it is the host that fails, with its own storage too."""
    names = re.findall(r"shop\.pipelines\.(\w+)'", site.manage("pipelines", stdin="1\nc\n")["printed"])
    typed = f"{names.index('WithInput') + 1}\ne\n7\n"

    ours, theirs = (each.manage("pipelines", stdin=typed) for each in (site, orm_site))

    assert ours["error"] == theirs["error"]
    if IS_PYDANTIC_1:
        assert "Pipeline Completed" in ours["printed"]
    else:
        assert re.match(PYDANTIC_2, ours["error"])


def test_the_rerun_link(site: Site, orm_site: Site) -> None:
    """The host's link calls its own task with arguments that it does not take: with its own storage as with ours."""
    told = []
    for each in (site, orm_site):
        [task_result] = each.records(each.run("Export"))["TaskResult"]
        with pytest.raises(SiteError) as raised:
            each.get(f"task-result/{task_result['id']}/rerun/")
        told.append(str(raised.value))

    assert told[0] == told[1]
    assert re.match(r"TypeError: .*unexpected keyword argument", told[0])


@pytest.mark.parametrize("id_", ["1000000000", "x", "1.5"])
def test_the_rerun_link_of_an_unknown_result(site: Site, id_: str) -> None:
    """The link of an unknown result is not found, also for an id that is no number, where the host's storage fails."""
    assert site.get(f"task-result/{id_}/rerun/")["status"] == 404


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 10, 1), (1, 3, 20), (20, 4, 3)], ids=lambda s: "x".join(map(str, s)))
def test_what_the_celery_runner_costs(site: Site, shape: tuple[int, int, int]) -> None:
    """Its canvas has every task result, and takes five queries of ours or six, whatever the size of the run."""
    site.create("region", [f"r{n}" for n in range(shape[0])])
    site.create("order", [f"o{n}" for n in range(shape[2])])
    run_id = site.shape(*shape, final=False)

    canvas = site.expand(run_id)

    assert canvas["task results"] == [record["id"] for record in site.records(run_id)["TaskResult"]]
    assert len(canvas["ours"]) <= 6
