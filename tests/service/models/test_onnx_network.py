"""ONNX bundles whose norm layers can be reached: rebuilt exactly, adapted as what was exported, or refused."""

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from adapters import SourceModel, create
from adapters.state import flatten
from benchmarks.resnet20 import ResNet20
from service.cli.main import app
from service.errors import UnfitError
from service.models.bundle import read_bundle
from service.models.hosted import host
from service.models.kernels.graphs.cache import Graphs
from service.models.onnx import onnx_model as onnx_backend
from service.models.onnx import operations
from tests.applications import application, facts
from tests.bundles import ONNX, TOML, onnx_bundle
from tests.models import reference_network
from tests.onnx_graphs import batch
from tests.serving import images

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.5, 0.2)


class Mobile(nn.Module):
    """The blocks of MobileNets: depthwise convolutions, clipped ReLUs, squeeze and excitation, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.block = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
            nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8, eps=1e-3, momentum=0.3),
        )  # fmt: skip
        self.swish = nn.Hardswish()
        self.excite = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.Hardsigmoid()
        )
        self.features = nn.Sequential(nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2))
        self.classifier = nn.Linear(8, 10)

    def forward(self, x):
        y = self.stem(x)
        y = self.swish(y + self.block(y))
        return self.classifier(self.features(y * self.excite(y)))


class Tapped(nn.Module):
    """A network that returns what enters its classifier too."""

    def __init__(self, network, classifier):
        super().__init__()
        self.network, self._classifier = network, classifier

    def forward(self, x):
        entered = []
        handle = self.network.get_submodule(self._classifier).register_forward_pre_hook(
            lambda _module, inputs: entered.append(inputs[0])
        )
        logits = self.network(x)
        handle.remove()
        return logits, entered[0]


NETWORKS = {"reference": reference_network, "mobile": Mobile, "resnet": ResNet20}
CLASSIFIERS = {"reference": "11", "mobile": "classifier", "resnet": "linear"}


def trained(name):
    """A network whose norm layers have statistics of their own."""
    torch.manual_seed(5)
    network = NETWORKS[name]()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
        for _ in range(10):
            network.train()((torch.rand(16, 3, 16, 16) - 0.4) / 0.3)
    return network.eval()


def exported(network, file, *, old=False):
    """Write a network as a graph with its norm layers in it, by the newer or the older exporter of PyTorch."""
    x, names = (torch.rand(2, 3, 16, 16),), {"input_names": ["images"], "output_names": ["logits", "features"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if old:
            axes = {name: {0: "n"} for name in ("images", "logits", "features")}
            keep = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
            torch.onnx.export(network, x, file, dynamo=False, dynamic_axes=axes, **keep, **names)
        else:
            any_batch = ({0: torch.export.Dim.DYNAMIC},)
            program = torch.onnx.export(
                network, x, dynamo=True, optimize=False, verbose=False, dynamic_shapes=any_batch, **names
            )
            program.save(file)


def bundle_of(folder, write, adapter="source"):
    """An ONNX bundle whose graph `write` makes."""
    folder.mkdir(parents=True)
    write(folder / "model.onnx")
    toml = TOML.format(name="reference", adapter=adapter, model=ONNX)
    scaling = f"shape = [3, 16, 16]\nmean = {list(MEAN)}\nstd = {list(STD)}"
    (folder / "bundle.toml").write_text(toml.replace("shape = [3, 16, 16]", scaling))
    return folder


@pytest.fixture(scope="module", params=["reference", "mobile", "resnet", "resnet-old"])
def pair(request, tmp_path_factory):
    """The source model in PyTorch, and the bundle of its graph, hosted."""
    name, _, exporter = request.param.partition("-")
    network, classifier = trained(name), CLASSIFIERS[name]
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    bundle_of(folder, lambda file: exported(Tapped(network, classifier), file, old=bool(exporter)))
    source = SourceModel(network, (3, 16, 16), 10, mean=MEAN, std=STD, features=classifier)
    return source, host(read_bundle(folder), [], 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The bundle of the reference network's graph."""
    network = Tapped(trained("reference"), "11")
    return bundle_of(tmp_path_factory.mktemp("kept") / "bundle", lambda file: exported(network, file), "unmix_tns")


def test_a_rebuilt_network_answers_as_its_graph(pair):
    _, model = pair
    assert model.source.opaque == ""
    session = onnxruntime.InferenceSession(model.bundle.model_file)
    for count in (1, 2, 5, 64):
        x = batch(count) * 2 - 1
        with torch.no_grad():
            given = model.source.network.answers(x)
        for ours, theirs in zip(given, session.run(["logits", "features"], {"images": x.numpy()}), strict=True):
            torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "spec",
    ["batch", "alpha", "ema", "unmix_tns", "note_iabn", "unmix_tns+lame", "source+lame", "batch+tent", "source+tent",
     "batch+cotta", "unmix_tns+sar"],
)  # fmt: skip
def test_an_onnx_bundle_adapts_as_the_network_that_was_exported(pair, spec):
    source, model = pair
    fitted, adapter = model.fit(spec, {}), create(spec)
    prepared = adapter.prepare(source)
    state, ours = adapter.init(prepared), fitted.initial()
    for number, count in enumerate((8, 3, 16, 8)):
        x = batch(count, number) * (0.5 + 0.2 * number)
        (wanted, state), (given, ours) = adapter.step(prepared, state, x), fitted.step(ours, x)
        torch.testing.assert_close(given.logits, wanted.logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(given.probabilities, wanted.probabilities, rtol=1e-4, atol=1e-4)
        assert given.signals.keys() >= wanted.signals.keys() - {"drift"}


def test_source_is_answered_by_the_graph_itself(pair):
    _, model = pair
    session = onnxruntime.InferenceSession(model.bundle.model_file)
    x = batch(4)
    standardised = (x - torch.tensor(MEAN).reshape(3, 1, 1)) / torch.tensor(STD).reshape(3, 1, 1)
    for spec in ("source", "source+lame"):
        fitted = model.fit(spec, {})
        assert fitted.backend == "onnx"
        expected = torch.from_numpy(session.run(["logits"], {"images": standardised.numpy()})[0])
        assert torch.equal(fitted.step(fitted.initial(), x)[0].logits, expected)
    assert model.fit("unmix_tns", {}).backend == "torch"


def test_a_rebuilt_network_is_mapped_over_streams(pair):
    network, x = pair[1].source.shared_copy(), torch.stack([batch(4, seed) for seed in range(3)])
    with torch.no_grad():
        torch.testing.assert_close(torch.vmap(network)(x), torch.stack([network(each) for each in x]))


def test_adapting_leaves_the_weights_as_they_were(pair):
    _, model = pair
    before, fitted = model.source.checksum(), model.fit("batch+tent", {})
    state = fitted.initial()
    for number in range(3):
        _, state = fitted.step(state, batch(8, number))
    assert model.source.checksum() == before


def test_names_in_states_are_those_of_the_exported_network_and_the_same_at_each_load(folder):
    one, other = (host(read_bundle(folder), [], 1) for _ in range(2))
    states = [flatten(model.fit("unmix_tns", {}).initial()) for model in (one, other)]
    assert list(states[0]) == list(states[1])
    assert one.source.checksum() == other.source.checksum()
    assert sorted(one.watch.initial) == ["network_1", "network_4", "network_7"]


def test_the_graph_of_an_adapting_pipeline_is_made_and_exact(folder, tmp_path):
    for _ in range(2):  # the second finds it
        model = host(read_bundle(folder), [], 1, Graphs(tmp_path / "graphs", 1, grouping=False))
        fitted = model.default
        assert (fitted.spec, fitted.backend, fitted.kernels.graph.reason) == ("unmix_tns", "compiled", "")
        state = ours = fitted.initial()
        for count in (1, 8, 3):
            x = batch(count, count)
            (given, ours), (wanted, state) = fitted.step(ours, x), fitted.adapter.step(fitted.prepared, state, x)
            torch.testing.assert_close(given.logits, wanted.logits, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(flatten(ours), flatten(state), rtol=1e-3, atol=1e-4)
    assert len(list((tmp_path / "graphs").iterdir())) == 1
    assert model.fit("source", {}).kernels.graph.reason == "the bundle is an ONNX graph already"


def test_a_server_adapts_an_onnx_bundle_and_says_by_what(folder, tmp_path):
    with application(tmp_path, folder, compiled=True) as api:
        told = api("GET", "/v1/models/reference").json()["pipelines"]
        assert {each["adapter"]: each["backend"] for each in told} == {"source": "onnx", "unmix_tns": "compiled"}
        answers = [facts(api.infer(images(4, number), "camera", f"r{number}")) for number in range(2)]
        assert [(each["tta_backend"], each["tta_steps"]) for each in answers] == [("compiled", 1), ("compiled", 2)]


def test_artefacts_of_an_onnx_bundle_are_made_and_used(folder, tmp_path):
    bundle = copied(folder, tmp_path / "copy", onnx.save)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 3, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=pixels, labels=np.arange(60) % 10)
    assert "no Fisher information" in host(read_bundle(bundle), [], 1).fit("batch+eata", {}).degraded

    command = ["calibrate", str(bundle), "--data", str(tmp_path / "data.npz"), "--learner", "eata", "--probe", "20"]
    done = CliRunner(env={"ACCLIMATE_THREADS": "1"}).invoke(app, command)
    assert done.exit_code == 0, done.output

    model = host(read_bundle(bundle), [], 1)
    fitted = model.fit("batch+eata", {})
    assert fitted.degraded == ""
    norms = {f"network_{layer}.{kind}" for layer in (1, 4, 7) for kind in ("weight", "bias")}
    assert {name for name in fitted.fisher if "." in name} == norms
    assert float(fitted.step(fitted.initial(), batch(8))[0].signals["drift"]) > 0
    assert float(model.answer_as_source(batch(8)).signals["drift"]) > 0


def closed(folder):
    """What is said to who asks for batch statistics of a bundle that serves `source` alone."""
    model = host(read_bundle(folder), [], 1)
    assert model.fit("source", {}).backend == "onnx"
    with pytest.raises(UnfitError, match="batch must reach inside the model, but") as caught:
        model.fit("batch", {})
    assert onnx_backend.OPAQUE in str(caught.value)
    return str(caught.value)


def test_a_graph_whose_norm_layers_are_folded_says_so_and_how_to_keep_them(tmp_path):
    said = closed(onnx_bundle(tmp_path / "bundle"))
    assert "it has no BatchNormalization (folded?" in said
    assert "optimize=False" in said


def copied(folder, to, change):
    """A copy of a bundle whose graph is changed; it serves `source`."""
    to.mkdir()
    toml = (folder / "bundle.toml").read_text().replace('adapter = "unmix_tns"', 'adapter = "source"')
    (to / "bundle.toml").write_text(toml)
    change(onnx.load(folder / "model.onnx"), to / "model.onnx")
    return to


def test_weights_in_another_file_are_refused(folder, tmp_path):
    def outside(model, file):
        onnx.save(model, file, save_as_external_data=True, location="weights.bin", size_threshold=0)

    assert "is kept in another file" in closed(copied(folder, tmp_path / "copy", outside))


def test_an_operation_that_is_not_known_is_told_to_who_asks(folder, tmp_path):
    def with_erf(model, file):
        relu = next(each for each in model.graph.node if each.op_type == "Relu")
        relu.op_type = "Erf"
        onnx.save(model, file)

    assert "(Erf) is of an operation that is not known" in closed(copied(folder, tmp_path / "copy", with_erf))


def test_a_network_that_differs_from_its_graph_is_not_used(folder, tmp_path, monkeypatch):
    other = {**operations.OPERATIONS, "Relu": operations.OPERATIONS["Sigmoid"]}
    monkeypatch.setattr(operations, "OPERATIONS", other)
    assert "PyTorch's logits are" in closed(copied(folder, tmp_path / "copy", onnx.save))
