"""The dashboard and how Grafana is told of it: no Grafana runs here, so what it wants is checked in its files."""

from itertools import combinations

import pytest
import yaml

from tests.deploy.expressions import DASHBOARD, DEPLOY, panels

PROVISIONING = DEPLOY / "grafana/provisioning"
ROWS = [
    "Traffic",
    "Adaptation",
    "Drift",
    "Guards",
    "Accuracy without labels",
    "Forgetting",
    "Saturation",
    "Memory",
    "Over streams",
]
UNITS = {"none", "short", "reqps", "percentunit", "s", "bytes", "cpm", "suffix: nats"}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def walk(value):
    yield value
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from walk(child)


def test_the_dashboard_has_a_lasting_name_and_its_variables():
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}

    assert (DASHBOARD["uid"], DASHBOARD["title"]) == ("acclimate", "Acclimate")
    assert "id" not in DASHBOARD  # Grafana gives it one
    assert variables.keys() == {"datasource", "model"}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["model"]["query"]["query"] == "label_values(acclimate_requests_total, model)"


def test_every_datasource_is_the_chosen_one():
    named = [value["datasource"] for value in walk(DASHBOARD) if isinstance(value, dict) and "datasource" in value]

    assert len(named) > len(panels())
    assert all(each == DATASOURCE for each in named)


def test_rows_come_from_what_is_sent_to_what_it_costs():
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == ROWS


def test_panels_lie_beside_each_other_and_none_is_small():
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]

    for a, b in combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert all(panel["gridPos"]["w"] >= 8 for panel in panels() if panel["type"] != "stat")
    for name in ("id", "title"):
        assert len({panel[name] for panel in DASHBOARD["panels"]}) == len(places)


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_has_a_unit_and_says_what_it_shows_in_one_sentence(panel):
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["description"].endswith(".")
    assert ". " not in panel["description"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_grafana_finds_the_dashboard_and_prometheus_where_compose_puts_them():
    services = yaml.safe_load((DEPLOY / "watching.yaml").read_text())["services"]
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/acclimate.yaml").read_text())["providers"]
    (source,) = yaml.safe_load((PROVISIONING / "datasources/prometheus.yaml").read_text())["datasources"]
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]

    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    assert home == f"{provider['options']['path']}/acclimate.json"
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    assert (source["type"], source["uid"]) == ("prometheus", "acclimate-prometheus")
    assert source["url"] == f"http://prometheus:{services['prometheus']['ports'][0].rpartition(':')[2]}"
