"""The optional services beside the server's own, which tests/project/test_dockerfile.py looks at."""

import re

import pytest
import yaml

from tests.deploy.expressions import DEPLOY

WATCHING = yaml.safe_load((DEPLOY / "watching.yaml").read_text())
SERVICES = WATCHING["services"]
MADE_BY_THE_OPERATOR = {"./prometheus/key"}


def test_compose_includes_them_and_starts_them_only_by_profile():
    assert yaml.safe_load((DEPLOY / "compose.yaml").read_text())["include"] == ["watching.yaml"]
    assert {name: service["profiles"] for name, service in SERVICES.items()} == {
        "prometheus": ["prometheus", "grafana"],
        "grafana": ["grafana"],
    }


@pytest.mark.parametrize("name", SERVICES)
def test_they_have_no_right_that_they_can_do_without(name):
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("name", SERVICES)
def test_what_they_mount_is_there_and_cannot_be_written(name):
    for volume in SERVICES[name]["volumes"]:
        source, _, mode = volume.split(":") if volume.count(":") == 2 else (*volume.split(":"), "rw")
        if source.startswith("."):
            assert mode == "ro"
            assert (DEPLOY / source).exists() or source in MADE_BY_THE_OPERATOR
        else:
            assert source in WATCHING["volumes"]


def test_a_key_beside_the_configuration_is_not_committed():
    assert "/key" in (DEPLOY / "prometheus/.gitignore").read_text().splitlines()
