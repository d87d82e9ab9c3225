"""Generated pages are those of the code, and nothing of the code is missing from them."""

import re

import pytest
import torch

from adapters import create
from adapters.options import json_schema
from adapters.registry import FOLDERS, parts
from service.monitoring.guard import Action, Policy
from service.monitoring.history_tiers import SIGNALS as IN_SERIES
from service.monitoring.suspicion import CAUSES
from service.settings import Settings
from service.telemetry.metrics import ESTIMATES
from tests import models
from tests.conformance.cases import CASES
from tests.project.generated import commands, found, meanings, signals
from tests.project.generated.layers import PACKAGES, layers
from tests.project.generated.pages import GENERATED
from tests.project.pages import DOCS, short

SPEAKING = ["batch+cotta", "batch+ecotta", "batch+rmt", "rotta_bn+rotta", "note_iabn+note", "auto"]


@pytest.mark.parametrize("page", GENERATED, ids=short)
def test_a_generated_page_is_as_the_code_says(page):
    assert page.read_text(encoding="utf-8") == GENERATED[page](), "run: make docs"


def test_every_signal_has_a_meaning():
    known = found.answered() | found.monitored() | found.shown() | set(IN_SERIES) | set(ESTIMATES)

    missing = sorted(known - set(meanings.SIGNALS))
    assert not missing, f"write {missing} down in tests/project/generated/meanings.toml, then run: make docs"
    assert known == set(meanings.SIGNALS), "tests/project/generated/meanings.toml names signals that are gone"


@pytest.mark.parametrize(
    "spec", ["batch+cotta", "batch+ecotta", "batch+rmt", "rotta_bn+rotta", "note_iabn+note", "auto"]
)
def test_every_signal_that_a_method_gives_is_found_in_its_code(spec):
    adapter = create(spec, **CASES[spec])
    prepared = adapter.prepare(models.calibrated(models.reference_source, adapter))
    state, given = adapter.init(prepared), set()
    for x in torch.rand(3, 6, 3, 16, 16, generator=torch.Generator().manual_seed(0)):
        output, state = adapter.step(prepared, state, x)
        given |= set(output.signals)

    assert {"entropy", "drift"} < given
    assert given <= found.answered()


def test_every_field_of_an_answer_has_a_meaning():
    named = set(meanings.FIELDS) | set(meanings.SIGNALS)

    assert found.fields() <= named, "write them down in tests/project/generated/meanings.toml, then run: make docs"
    assert set(meanings.FIELDS) <= found.fields()


def test_every_action_event_and_cause_has_a_meaning():
    assert {action.value for action in Action} == set(meanings.ACTIONS)
    assert found.events() == set(meanings.EVENTS)
    assert found.events() <= found.event_words()
    assert set(CAUSES) == set(meanings.CAUSES)


def test_every_metric_is_listed_and_its_labels_have_a_meaning():
    page = signals.signals()
    listed = [signals.exposed(metric) for metric in signals.metrics()]
    labels = {label for metric in signals.metrics() for label in signals.labels_of(metric)}

    assert len(listed) > 30
    assert [name for name in listed if f"| `{name}` |" not in page] == []
    assert labels == set(meanings.LABELS)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_page_of_the_architecture_names_every_layer_in_order(package):
    text = (DOCS / "architecture.md").read_text(encoding="utf-8").partition(f"## The layers of {package}\n")[2]
    rows = re.findall(r"^\| (`[^|]*) \|", text.partition("\n## ")[0], re.MULTILINE)

    assert [re.findall(r"`(\w+)`", row) for row in rows] == list(layers(package))


def test_every_setting_option_rule_and_command_has_a_meaning():
    of_options = {
        f"{part.name}.{name}": option["description"]
        for kind in FOLDERS
        for part in parts(kind).values()
        for name, option in json_schema(part.options_class)["properties"].items()
    }
    of_fields = {name: field.description for model in (Settings, Policy) for name, field in model.model_fields.items()}
    of_commands = {name: commands.help_of(command) for name, command in commands.walked()}
    meant = of_options | of_fields | of_commands

    assert len(meant) > 150
    assert [name for name, said in meant.items() if not said] == []
