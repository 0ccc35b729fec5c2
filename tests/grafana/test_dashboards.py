"""Dashboards that can be read at a glance: laid out, described, with units, and with links that lead somewhere."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from grafana import alerts, build, sources
from grafana.panels import COLUMNS, METRICS

Json = dict[str, Any]

DASHBOARDS: dict[str, Json] = {dashboard.file: dashboard.as_json() for dashboard in build.dashboards()}
PANELS = [(f"{name}: {panel['title']}", panel) for name, board in DASHBOARDS.items() for panel in board["panels"]]
SHOWN = [(where, panel) for where, panel in PANELS if panel["type"] != "row"]

BUILT_IN = {"__all", "__data", "__value", "__url_time_range", "__range", "__interval", "__rate_interval"}
"""Variables that are Grafana's own."""

VARIABLE = re.compile(r"\$\{?(\w+)")


def overlaps(panels: list[Json]) -> list[str]:
    """Which panels leave the grid or cover another."""
    taken: dict[tuple[int, int], str] = {}
    found = []
    for panel in panels:
        place = panel["gridPos"]
        if place["x"] < 0 or place["x"] + place["w"] > COLUMNS:
            found.append(f"{panel['title']} leaves the grid")
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                if (x, y) in taken:
                    found.append(f"{panel['title']} covers {taken[x, y]}")
                taken[x, y] = panel["title"]
    return found


@pytest.mark.parametrize("name", DASHBOARDS)
def test_layout(name: str) -> None:
    """No panel covers another or leaves the grid, every line is full, ids are unique."""
    panels = DASHBOARDS[name]["panels"]
    area = sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in panels)
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    repeated = sum((COLUMNS - panel["gridPos"]["w"]) * panel["gridPos"]["h"] for panel in panels if "repeat" in panel)

    assert overlaps(panels) == []
    assert area + repeated == COLUMNS * height
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_overlaps_are_seen() -> None:
    """The check finds what it is for."""
    panels = [{"title": str(x), "gridPos": {"x": x, "y": 0, "w": 12, "h": 4}} for x in (0, 11, 13)]

    assert {"11 covers 0", "13 covers 11", "13 leaves the grid"} == set(overlaps(panels))


@pytest.mark.parametrize(("where", "panel"), SHOWN, ids=[where for where, _ in SHOWN])
def test_panels_explain_themselves(where: str, panel: Json) -> None:
    """Every panel has a title, a description that is a sentence, and says something where there is nothing to show."""
    assert panel["title"][0].isupper() or panel["title"][0].isdecimal()
    assert len(panel["description"]) > 20
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["noValue"]


@pytest.mark.parametrize(("where", "panel"), SHOWN, ids=[where for where, _ in SHOWN])
def test_figures_have_units(where: str, panel: Json) -> None:
    """A figure has a unit, in a table each column of figures; colours of a stat have a lowest one."""
    if panel["datasource"] != METRICS:
        return
    config = panel["fieldConfig"]
    if panel["type"] != "table":
        assert config["defaults"]["unit"]
        assert config["defaults"]["thresholds"]["steps"][0]["value"] is None
        return
    [organize] = [t["options"] for t in panel["transformations"] if t["id"] == "organize"]
    with_unit = {
        override["matcher"]["options"]
        for override in config["overrides"]
        if any(one["id"] == "unit" for one in override["properties"])
    }
    values = {shown for name, shown in organize["renameByName"].items() if name.startswith("Value")}
    assert values <= with_unit
    # The hidden queries are those that no column shows.
    queries = {f"Value #{target['refId']}" for target in panel["targets"]} if len(panel["targets"]) > 1 else set()
    assert queries <= set(organize["renameByName"])


def test_every_metrics_panel_takes_the_chosen_data_source() -> None:
    """No panel asks a data source that people cannot choose."""
    for where, panel in SHOWN:
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"], where
            assert target["datasource"]["uid"] in ("${metrics}", "${traces}"), where


@pytest.mark.parametrize("name", DASHBOARDS)
def test_variables_exist(name: str) -> None:
    """Every variable that a query or a link takes is one of the dashboard's, or of Grafana's."""
    dashboard = DASHBOARDS[name]
    known = {variable["name"] for variable in dashboard["templating"]["list"]}
    # $1 is a group of a regular expression.
    used = {found for found in VARIABLE.findall(json.dumps(dashboard)) if not found.isdecimal()}

    assert used <= known | BUILT_IN
    assert known - used <= {"traces"}, "one that nothing uses"


def test_links_lead_to_dashboards_and_their_variables() -> None:
    """A link names a dashboard of ours, and sets variables that it has."""
    variables = {
        board["uid"]: {variable["name"] for variable in board["templating"]["list"]} for board in DASHBOARDS.values()
    }
    links = [
        link["url"]
        for _where, panel in SHOWN
        for override in panel["fieldConfig"]["overrides"]
        for one in override["properties"]
        if one["id"] == "links"
        for link in one["value"]
    ]
    assert len(links) > 4
    explore = [url for url in links if url.startswith("/explore")]
    for url in explore:
        panes = json.loads(dict(parse_qsl(urlsplit(url).query))["panes"])
        [query] = panes["a"]["queries"]
        assert "${__data.fields.Pipeline}" in query.get("tags", query.get("query"))
    links = [url for url in links if url not in explore]
    for url in links + [trace.removeprefix("{{ externalURL }}") for trace in _traces_of_grafana_rules()]:
        parts = urlsplit(url.lstrip("/"))
        folder, uid = parts.path.split("/")
        assert folder == "d"
        assert uid in variables, url
        set_there = {key.removeprefix("var-") for key, _ in parse_qsl(parts.query) if key.startswith("var-")}
        set_there |= set(re.findall(r"\$\{(\w+):queryparam\}", parts.query))
        assert set_there <= variables[uid], url


def _traces_of_grafana_rules() -> list[str]:
    rules = alerts.grafana_rules(alerts.alerts())
    return [
        re.sub(r"\{\{ \.Labels.*?\}\}", "x", rule["annotations"]["trace"])
        for group in rules["groups"]
        for rule in group["rules"]
    ]


def test_a_traces_links_stay_with_its_store() -> None:
    """A dashboard for Tempo links to dashboards for Tempo."""
    for name, board in DASHBOARDS.items():
        uids = re.findall(r'"/d/([a-z-]+)', json.dumps(board))
        assert all(uid.endswith("-tempo") == name.endswith("-tempo.json") for uid in uids), name


def test_dashboards_link_each_other() -> None:
    """Each dashboard has a link to those of its store and to the delivery."""
    tags = {board["uid"]: set(board["tags"]) for board in DASHBOARDS.values()}
    for board in DASHBOARDS.values():
        reached = {uid for uid, has in tags.items() for link in board["links"] if has & set(link["tags"])}
        assert {"otel-storage-delivery", board["uid"]} <= reached
        assert len(reached) >= 3


def test_data_sources_are_those_that_are_provisioned() -> None:
    """Uids are stable, and each that is named is provisioned."""
    provisioned = {source["uid"]: source["type"] for source in sources.data_sources()["datasources"]}
    named = {
        (variable["current"]["value"], variable["query"])
        for board in DASHBOARDS.values()
        for variable in board["templating"]["list"]
        if variable["type"] == "datasource"
    }

    assert named == set(provisioned.items())
    assert set(re.findall(r"datasourceUid': '([\w-]+)'", str(sources.data_sources()))) == set(provisioned)


def test_compose_sets_every_variable_of_provisioning() -> None:
    """Grafana knows no defaults: the shipped compose file sets each variable that provisioning takes."""
    text = "".join(content for name, content in build.files().items() if "/provisioning/" in name)
    compose = (build.ROOT / "collector/compose.yaml").read_text()

    assert set(re.findall(r"(?<!\$)\$([A-Z_]+)", text)) == set(sources.ENVIRONMENT)
    for name in sources.ENVIRONMENT:
        assert f"{name}: ${{{name}:-{sources.ENVIRONMENT[name]}}}" in compose
    assert f"grafana/dashboards:{sources.DASHBOARDS_PATH}:ro" in compose
    assert "grafana/provisioning:/etc/grafana/provisioning:ro" in compose
