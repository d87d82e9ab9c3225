"""A real Prometheus, configured as shipped, reads a real server with keys under traffic that shows all there is."""

import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.settings import EMBEDDED
from tests.bundles import tripwire_bundle
from tests.deploy.expressions import DEPLOY, RULES, exposed, in_rules, on_dashboard, rules
from tests.deploy.prometheus import Prometheus, program, promtool, running
from tests.deploy.traffic import Traffic
from tests.serving import Server, serving, wait_ready

pytestmark = pytest.mark.e2e
SECONDS = 60
"""For all figures to be there: rates need two scrapes, and detectors some requests."""
PROVOKED = {"AcclimateHarmFound", "AcclimateStepsNotFinite", "AcclimateStreamFrozen", "AcclimateSnapshotsRefused"}
"""Alerts that fire at once; all others wait for minutes, and unit tests show them."""
SETTINGS = {"ACCLIMATE_PROBE_EVERY": "2", "ACCLIMATE_SOURCE_CHECK_EVERY": "1"}


@dataclass
class Watched:
    """What was seen.

    Attributes:
        prometheus: It runs still.
        metrics: The server's own exposition at the end.
        empty: Expressions that had no value by then, by where they stand.
    """

    prometheus: Prometheus
    metrics: str
    empty: dict[str, str]


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Iterator[Watched]:
    program("prometheus")
    folder = tmp_path_factory.mktemp("watched")
    keys = {scope: secrets.token_urlsafe() for scope in ("admin", "read")}
    lines = [f"{sha256(key.encode()).hexdigest()} {scope} {scope}\n" for scope, key in keys.items()]
    (folder / "keys").write_text("".join(lines))
    bundles = ["--bundle", str(EMBEDDED), "--bundle", str(tripwire_bundle(folder / "tripwire"))]
    with serving(folder, *bundles, "--keys-file", str(folder / "keys"), environment=SETTINGS) as server:
        wait_ready(server)
        config = configured(folder / "prometheus", server, keys["read"])
        with running(config, folder / "prometheus-data") as prometheus:
            headers = {"Authorization": f"Bearer {keys['admin']}"}
            with server.client(headers=headers) as client:
                empty = send_until_seen(Traffic(client), prometheus)
                metrics = client.get("/metrics").text
            yield Watched(prometheus, metrics, empty)


def configured(folder: Path, server: Server, key: str) -> Path:
    """Put the shipped configuration beside a key; only the target and the times are others."""
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.compose.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [server.address]}]
    folder.mkdir()
    shutil.copy(RULES, folder)
    (folder / "key").write_text(key + "\n")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return folder / "prometheus.yml"


def send_until_seen(traffic: Traffic, prometheus: Prometheus) -> dict[str, str]:
    """Send rounds until every expression has a value, for so long; return those without."""
    records = {name: rule["expr"] for name, rule in rules("record").items()}
    recorded = {f"{name}, recorded": name for name in records}
    empty, ends = {**records, **recorded, **on_dashboard()}, time.monotonic() + SECONDS
    while empty and time.monotonic() < ends:
        traffic.round()
        empty = {where: each for where, each in empty.items() if not prometheus.values(each)}
    return empty


def test_promtool_finds_no_fault_in_the_metrics(watched):
    promtool("check", "metrics", given=watched.metrics)


def test_every_series_of_the_server_has_samples(watched):
    seen = {sample.name for family in text_string_to_metric_families(watched.metrics) for sample in family.samples}

    assert exposed().keys() <= seen


def test_prometheus_reads_the_server_by_its_key(watched):
    (target,) = watched.prometheus.ask("targets")["activeTargets"]

    assert (target["health"], target["lastError"]) == ("up", "")


def test_every_panel_shows_something_and_every_figure_is_recorded(watched):
    assert watched.empty == {}


@pytest.mark.parametrize("where", in_rules())
def test_a_rules_expression_is_evaluated_without_fault(watched, where):
    watched.prometheus.values(in_rules()[where])

    groups = watched.prometheus.ask("rules")["groups"]
    (rule,) = [rule for group in groups for rule in group["rules"] if rule["name"] == where]
    assert (rule["health"], rule.get("lastError", "")) == ("ok", "")


def test_alerts_that_the_traffic_provokes_fire_and_say_which_server_and_model(watched):
    alerts = watched.prometheus.ask("alerts")["alerts"]
    firing = {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    assert firing - {"AcclimateGuardKeepsGoingBack"} == PROVOKED  # that one fires if the rounds were many
    for alert in alerts:
        said = alert["annotations"]["summary"]
        assert alert["labels"]["instance"] in said
        assert not any(fault in said for fault in ("{{", "<no value>", "<error")), said
