"""`bundle check` answers whole requests, and says which of them fail."""

import pytest
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from service.cli.bundle import app
from service.errors import BundleError
from service.models.bundle import read_bundle
from service.models.hosted import host
from service.serving.rehearsal import AUTO, IMAGES, rehearse, unfit_for_auto
from tests.bundles import torch_bundle
from tests.models import untrained_reference_network
from tests.networks import NETWORKS, SHAPE, trained

HERE = "tests.service.serving.test_rehearsal"
SERVED = ["bn1d", "sync", "mixed", "half", "double", "fused"]


class Pairing(nn.Module):
    """Fails on batches larger than those that it is tried on when it is loaded."""

    def __init__(self):
        super().__init__()
        self.body = untrained_reference_network()

    def forward(self, x):
        if len(x) > 8:
            raise RuntimeError("takes 8 images at most")
        return self.body(x)


class Spoiling(Pairing):
    """Answers such batches by what is not finite."""

    def forward(self, x):
        return self.body(x) / (0.0 if len(x) > 8 else 1.0)


def outside(name):
    return trained(NETWORKS[name])


def bundle(folder, factory, network, arguments="", adapter="source"):
    torch_bundle(folder, factory=f"{HERE}:{factory}", adapter=adapter)
    save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / "model.safetensors"
    )
    toml = folder / "bundle.toml"
    toml.write_text(toml.read_text().replace("[input]", f"{arguments}\n[input]"))
    return folder


def outside_bundle(folder, name, adapter):
    bundle(folder, "outside", outside(name), f'arguments = {{name = "{name}"}}', adapter)
    toml = folder / "bundle.toml"
    text = toml.read_text().replace("[3, 16, 16]", str(list(SHAPE)))
    toml.write_text(text.replace(', "e", "f", "g", "h", "i", "j"', ""))
    return folder


@pytest.mark.parametrize("name", SERVED)
def test_whole_requests_of_every_size_are_answered_on_networks_of_many_kinds(tmp_path, name):
    adapter = "source" if not NETWORKS[name].affine else "source+tent" if not NETWORKS[name].norms else "ema+eta"
    model = host(read_bundle(outside_bundle(tmp_path / "bundle", name, adapter)), [f"{HERE}:outside"], 1)

    assert unfit_for_auto(model) == ""
    assert rehearse(model) == []


def test_requests_that_fail_are_told_with_spec_and_size(tmp_path):
    model = host(
        read_bundle(bundle(tmp_path / "bundle", "Pairing", Pairing(), adapter="batch")), [f"{HERE}:Pairing"], 1
    )

    failures = rehearse(model)

    assert [(each.spec, each.images) for each in failures] == [(spec, 16) for spec in ("source", "batch", AUTO)]
    assert all("takes 8 images at most" in str(each) for each in failures)
    assert str(failures[0]).startswith("source fails on a request of 16 images")


def test_answers_that_are_not_finite_are_told(tmp_path):
    folder = bundle(tmp_path / "bundle", "Spoiling", Spoiling(), adapter="batch+tent")
    model = host(read_bundle(folder), [f"{HERE}:Spoiling"], 1)

    failures = rehearse(model)

    assert [(each.spec, each.images) for each in failures] == [(spec, 16) for spec in ("source", "batch+tent", AUTO)]
    assert all("NaN" in each.reason for each in failures)


@pytest.mark.parametrize(("factory", "status"), [("untrained_reference_network", 0), ("Pairing", 2)])
def test_bundle_check_ends_by_what_it_found(tmp_path, monkeypatch, factory, status):
    monkeypatch.setenv("ACCLIMATE_TRY_GRADIENTS", "false")
    made = {"untrained_reference_network": untrained_reference_network, "Pairing": Pairing}[factory]
    folder = bundle(tmp_path / "bundle", factory, made(), adapter="batch")

    done = CliRunner().invoke(app, ["bundle", "check", str(folder), "--allow-factory", f"{HERE}:{factory}"])

    assert "fingerprint" in done.output
    assert "auto" in done.output
    if status:
        assert isinstance(done.exception, BundleError)
        assert len(str(done.exception).splitlines()) == len(("source", "batch", AUTO))
    else:
        assert done.exit_code == 0, done.output
    assert IMAGES == (1, 2, 16)
