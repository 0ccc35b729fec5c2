"""The logs of a run, and the filter that picks those of a record."""

from __future__ import annotations

import re
from html import unescape

import pytest

from tests.host_pages.conftest import Site

KINDS = {"PipelineResult": "Pipeline result", "TaskExecution": "Task execution", "TaskResult": "Task result"}
"""How a log message names a record of the kind."""


def logs(site: Site, run_id: str, **picked: object) -> list[str]:
    """The messages of the logs list, without their times."""
    page = site.get(f"{run_id}/logs/", **picked)
    assert page["status"] == 286
    text = unescape(re.sub(r"<[^>]+>", "\n", page["html"]))
    return [line.strip().split("]: ", 1)[1] for line in text.splitlines() if "]: " in line]


@pytest.fixture
def run_id(site: Site) -> str:
    """A run with several records of each kind, in a site that has another run."""
    site.create("region", ["north", "south"])
    site.create("order", ["fine", "broken", "good"])
    site.run("Regional")
    return str(site.run("Regional"))


def test_all_logs_of_a_run(site: Site, run_id: str) -> None:
    """Unfiltered, each report of the run is there, and none of another run."""
    records = site.records(run_id)
    messages = logs(site, run_id)

    for kind, name in KINDS.items():
        shown = {int(m[1]) for text in messages if (m := re.match(rf"{name} \((\d+)\)", text))}
        assert shown == {record["id"] for record in records[kind]}
    # Every record is reported waiting and ending once; those that were started say so.
    assert len([text for text in messages if "waiting to start" in text]) == 1 + sum(map(len, records.values()))
    assert len(messages) == len(set(messages))


@pytest.mark.parametrize("kind", KINDS)
def test_the_filter_picks_the_record(site: Site, run_id: str, kind: str) -> None:
    """A row's link leads to the logs of its record, and of those below it, and to no other's."""
    records = site.records(run_id)
    below = {"PipelineResult": ["TaskExecution", "TaskResult"], "TaskExecution": ["TaskResult"], "TaskResult": []}
    for record in records[kind]:
        picked = {kind: {record["id"]}}
        for lower, upper in zip(below[kind], [kind, *below[kind]], strict=False):
            picked[lower] = {r["id"] for r in records[lower] if r["parent"] in picked[upper]}
        expected = {f"{KINDS[of]} ({id_})" for of, ids in picked.items() for id_ in ids}

        page = site.get(f"{run_id}/logs-filter/", filter=f"{kind}-{record['id']}")
        [link] = re.findall(r'hx-get="([^"]+)"', page["html"])
        _, _, query = unescape(link).partition("?")
        assert query == f"type={kind}&id={record['id']}"

        messages = logs(site, run_id, **dict(pair.split("=") for pair in query.split("&")))
        assert {text.partition(")")[0] + ")" for text in messages} == expected


def test_an_unknown_record_has_no_logs(site: Site, run_id: str) -> None:
    """A task result that is none, a number or not, and one of another kind's id, have no logs."""
    for id_ in (10**9, "x", "1.5", "-1", 2**70):
        assert logs(site, run_id, type="TaskResult", id=id_) == []
    assert logs(site, run_id, type="Nonsense", id=1) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PipelineResult", "TaskExecution"])
def test_an_unknown_parent_is_no_filter(site: Site, orm_site: Site, run_id: str, kind: str) -> None:
    """The host then asks for all records there are, with its own storage too: the run's own are shown."""
    orm_site.create("region", ["north", "south"])
    orm_site.create("order", ["fine", "broken", "good"])
    orm_run = orm_site.run("Regional")

    ours, theirs = logs(site, run_id, type=kind, id=10**9), logs(orm_site, orm_run, type=kind, id=10**9)

    assert len(ours) > 20
    # The host's own runner reports no success of a task execution, with either.
    assert sorted(re.sub(r"\d+", "N", text) for text in ours) == sorted(re.sub(r"\d+", "N", text) for text in theirs)


def test_a_record_of_another_run_has_no_logs_here(site: Site, run_id: str) -> None:
    """The filter stays within the run."""
    assert logs(site, run_id, type="TaskResult", id=site.records(run_id)["TaskResult"][0]["id"]) != []
    other = site.run("Export")
    assert logs(site, run_id, type="TaskResult", id=site.records(other)["TaskResult"][0]["id"]) == []


def test_the_frame_of_an_unknown_run(site: Site) -> None:
    """Its logs are not found."""
    assert site.get("unknown/logs/")["status"] == 404
