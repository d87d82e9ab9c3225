"""What Prometheus is configured to do, as promtool sees it."""

import re
import shutil

import pytest
import yaml

from tests.deploy.expressions import (
    ADDED,
    DEPLOY,
    RULES,
    exposed,
    in_rules,
    on_dashboard,
    rules,
    selectors,
    series_names,
)
from tests.deploy.prometheus import promtool

PROMETHEUS = DEPLOY / "prometheus"
UNIT_TESTS = PROMETHEUS / "rules_test.yml"
EXPOSED = exposed()
EXPRESSIONS = {**in_rules(), **on_dashboard()}


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus.compose.yml"])
def test_promtool_takes_the_configuration_and_its_rules(name, tmp_path):
    for file in (PROMETHEUS / name, RULES):
        shutil.copy(file, tmp_path)
    (tmp_path / "key").write_text("a-key")

    promtool("check", "config", tmp_path / name)


def test_promtool_takes_the_rules_and_their_unit_tests_hold():
    promtool("check", "rules", RULES)
    promtool("test", "rules", UNIT_TESTS)


def test_both_configurations_differ_in_target_and_key_alone_and_the_commented_key_is_right():
    text = (PROMETHEUS / "prometheus.yml").read_text()
    plain = yaml.safe_load(text)
    with_key = yaml.safe_load(text.replace("# authorization:", "authorization:").replace("#   cred", "  cred"))
    in_compose = yaml.safe_load((PROMETHEUS / "prometheus.compose.yml").read_text())

    assert plain["scrape_configs"][0].pop("static_configs") == [{"targets": ["127.0.0.1:8000"]}]
    assert with_key["scrape_configs"][0].pop("static_configs") == [{"targets": ["127.0.0.1:8000"]}]
    assert in_compose["scrape_configs"][0].pop("static_configs") == [{"targets": ["acclimate:8000"]}]
    assert with_key == in_compose
    assert with_key["scrape_configs"][0].pop("authorization") == {"credentials_file": "key"}
    assert with_key == plain


def test_every_alert_is_seen_to_fire_in_a_unit_test_that_begins_calm():
    fired = set()
    for case in yaml.safe_load(UNIT_TESTS.read_text())["tests"]:
        seen = case["promql_expr_test"]
        names = {
            name for each in seen for s in each["exp_samples"] for name in re.findall(r'alertname="(\w+)"', s["labels"])
        }
        assert not names or (seen[0]["expr"], seen[0]["exp_samples"]) == ("ALERTS", []), case["name"]
        fired |= names

    assert fired == set(rules("alert"))


def test_the_readme_lists_every_alert():
    listed = re.findall(r"^\| (Acclimate\w+) \|", (DEPLOY / "README.md").read_text(), flags=re.MULTILINE)

    assert listed == list(rules("alert"))


@pytest.mark.parametrize("name", rules("alert"))
def test_an_alert_says_how_grave_it_is_what_happened_and_what_to_do(name):
    alert = rules("alert")[name]

    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"].keys() == {"summary", "description"}
    assert "{{ $labels.instance }}" in alert["annotations"]["summary"]
    assert "http" not in alert["annotations"]["description"]


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_an_expression_names_series_and_labels_that_a_server_exposes_or_a_rule_records(where):
    expression = EXPRESSIONS[where]
    grouped = {label for inside in re.findall(r"by \(([^)]*)\)", expression) for label in re.findall(r"\w+", inside)}

    assert series_names(expression) <= EXPOSED.keys()
    assert set(re.findall(r"\w+:acclimate_\w+:\w+", expression)) <= rules("record").keys()
    for name, labels in selectors(expression):
        assert labels <= EXPOSED[name] | ADDED
    assert grouped <= ADDED.union(*(EXPOSED[name] for name in series_names(expression)), {"model", "reason", "action"})


def test_the_unit_tests_feed_series_as_a_server_exposes_them():
    for case in yaml.safe_load(UNIT_TESTS.read_text())["tests"]:
        for given in case["input_series"]:
            name, labels = re.fullmatch(r"(\w+)\{(.*)\}", given["series"]).groups()
            if name != "up":
                assert set(re.findall(r"(\w+)=", labels)) - ADDED == EXPOSED[name], given["series"]
