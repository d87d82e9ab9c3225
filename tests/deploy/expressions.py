"""Every expression that Prometheus or Grafana is given, and the series and labels that a server exposes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from service.telemetry.metrics import Telemetry

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus/rules.yml"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/acclimate.json").read_text())
ADDED = {"job", "instance", "le"}
"""Labels that Prometheus, and histograms, add."""


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """Return the rules of a kind, `record` or `alert`, by name."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule[kind]: rule for group in groups for rule in group["rules"] if kind in rule}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def on_dashboard() -> dict[str, str]:
    """Return the dashboard's expressions by where they stand, with values for its variables."""
    found = {f"{p['title']}, {t['refId']}": t["expr"] for p in panels() for t in p["targets"]}
    found |= {annotation["name"]: annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]}
    return {where: _filled(expression) for where, expression in found.items()}


def _filled(expression: str) -> str:
    values = {"$__rate_interval": "1m", "$__range": "15m", "$model": ".*"}
    for name, value in values.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def in_rules() -> dict[str, str]:
    return {name: rule["expr"] for kind in ("record", "alert") for name, rule in rules(kind).items()}


def series_names(expression: str) -> set[str]:
    """Return the names of the server's own series in an expression."""
    return set(re.findall(r"(?<![\w:])acclimate_\w+(?!\w|:)", expression))


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each series with braces, and the labels in them."""
    for name, inside in re.findall(r"(?<![\w:])(acclimate_\w+)\{([^}]*)\}", expression):
        yield name, set(re.findall(r"(\w+)\s*[=!]", inside))


def exposed() -> dict[str, set[str]]:
    """Return the labels of every series that a server can expose, by name."""
    found = {}
    for metric in Telemetry().registry._collector_to_names:
        for family in metric.collect():
            found |= {name: set(metric._labelnames) for name in _names(family, metric)}
    return found


def _names(family: Any, metric: Any) -> list[str]:
    if family.type == "counter":
        return [f"{family.name}_total"]
    if family.type == "histogram":
        below_zero = metric._kwargs["buckets"][0] < 0  # then the library exposes no sum
        return [f"{family.name}_{part}" for part in ("bucket", "count", *(() if below_zero else ("sum",)))]
    return [family.name]
