"""A model is tried before it serves: its outputs are what bundle.toml says, its copies answer as it was shipped."""

import shutil

import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from adapters import create
from adapters.errors import UnfitModelError
from adapters.network.fidelity import Fidelity
from adapters.output_kind import as_logits
from service.errors import BundleError
from service.models.bundle import read_bundle
from service.models.hosted import host
from service.models.load_checks import check_copies, samples
from tests import onnx_graphs
from tests.bundles import TOML, torch_bundle
from tests.models import reference_network, reference_source
from tests.networks import NETWORKS, SHAPE, trained

ALLOWED = ["tests.models:untrained_reference_network", *(f"tests.service.models.test_vetting:{n}" for n in (
    "softmax", "log_softmax", "sigmoid", "outside", "counting", "half_softmax", "blind"))]  # fmt: skip


def softmax():
    return nn.Sequential(*reference_network(), nn.Softmax(1))


def half_softmax():
    return softmax().half()


def log_softmax():
    return nn.Sequential(*reference_network(), nn.LogSoftmax(1))


def sigmoid():
    return nn.Sequential(*reference_network(), nn.Sigmoid())


def blind():
    """Logits that all lie in [0, 1] for images within the value range."""
    network = reference_network()
    with torch.no_grad():
        network[-1].weight.mul_(1e-3)
        network[-1].bias.fill_(0.5)
    return network


class Counting(nn.Module):
    """Answers otherwise each time."""

    def __init__(self):
        super().__init__()
        self.body, self.calls = reference_network(), 0

    def forward(self, x):
        self.calls += 1
        return self.body(x) + self.calls


def counting():
    return Counting()


def outside(name):
    return trained(NETWORKS[name])


def bundle(folder, factory, network, lines="", arguments=""):
    torch_bundle(folder, factory=f"tests.service.models.test_vetting:{factory}")
    save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / "model.safetensors"
    )
    toml = folder / "bundle.toml"
    toml.write_text(toml.read_text().replace("[input]", f"{lines}\n{arguments}\n[input]"))
    return folder


def hosted(folder):
    return host(read_bundle(folder), ALLOWED, 1)


X = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(3))
REFUSED = [
    pytest.param(
        softmax, "", 'rows lie in \\[0, 1\\] and sum to 1; write output = "probabilities" under', id="softmax"
    ),
    pytest.param(half_softmax, "", 'write output = "probabilities" under \\[model\\] in bundle.toml', id="half"),
    pytest.param(sigmoid, "", r"multi-label \(sigmoid\)", id="sigmoid"),
    pytest.param(sigmoid, 'output = "probabilities"', r"multi-label \(sigmoid\)", id="sigmoid as probabilities"),
    pytest.param(
        reference_network, 'output = "probabilities"', 'write output = "logits"', id="logits as probabilities"
    ),
    pytest.param(reference_network, 'output = "log_probabilities"', 'write output = "logits"', id="logits as logs"),
    pytest.param(softmax, 'output = "log_probabilities"', "do not sum to 1", id="probabilities as logs"),
    pytest.param(counting, "", "the first layer that differs|differently the second time", id="state of its own"),
]


@pytest.mark.parametrize(("make", "line", "said"), REFUSED)
def test_outputs_that_are_not_what_the_bundle_says_are_refused_with_the_line_to_write(tmp_path, make, line, said):
    name = "blind" if make is reference_network else make.__name__
    folder = bundle(tmp_path / "bundle", name, make(), line)

    with pytest.raises(BundleError, match=said):
        hosted(folder)


@pytest.mark.parametrize(
    ("make", "line"),
    [(softmax, "probabilities"), (half_softmax, "probabilities"), (log_softmax, "log_probabilities"),
     (log_softmax, "logits"), (blind, "logits")],
)  # fmt: skip
def test_declared_outputs_are_served_as_the_probabilities_that_the_network_says(tmp_path, make, line):
    network = make().eval()
    model = hosted(bundle(tmp_path / "bundle", make.__name__, network, f'output = "{line}"'))
    with torch.no_grad():
        said = network(X.to(next(network.parameters()).dtype)).float()

    answer = model.answer_as_source(X)

    wanted = {"probabilities": said, "log_probabilities": said.exp(), "logits": said.softmax(1)}[line]
    torch.testing.assert_close(answer.probabilities, wanted, atol=2e-3 if make is half_softmax else 1e-6, rtol=0)
    learned = model.default.step(model.default.initial(), X)[1]
    assert bool(torch.isfinite(model.default.predict(learned, X).probabilities).all())


def test_a_probability_of_zero_stays_one_and_its_gradient_finite():
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)

    found = as_logits("probabilities", logits.softmax(1))
    found.log_softmax(1)[0, 1].backward()

    torch.testing.assert_close(found.softmax(1), torch.tensor([[1.0, 0.0, 0.0]]), atol=1e-12, rtol=0)
    assert bool(torch.isfinite(logits.grad).all())


def graph_bundle(folder, line=""):
    """A bundle of an ONNX graph that ends in a softmax."""
    folder.mkdir()
    nodes = [
        onnx_graphs.node("Flatten", "h", made="flat"),
        onnx_graphs.node("Gemm", "flat", "head", made="raw"),
        onnx_graphs.node("Softmax", "raw", axis=1),
    ]
    onnx_graphs.by_hand(folder / "model.onnx", nodes, [onnx_graphs.real("head", (768, 10))])
    lines = f'kind = "onnx"\nfile = "model.onnx"\n{line}'
    (folder / "bundle.toml").write_text(TOML.format(name="graph", adapter="source", model=lines))
    return folder


def test_an_onnx_graph_that_answers_by_probabilities_is_refused_or_served_as_declared(tmp_path):
    with pytest.raises(BundleError, match='write output = "probabilities" under'):
        hosted(graph_bundle(tmp_path / "undeclared"))

    model = hosted(graph_bundle(tmp_path / "declared", 'output = "probabilities"'))

    session = onnxruntime.InferenceSession(tmp_path / "declared" / "model.onnx")
    wanted = torch.from_numpy(session.run(None, {"images": X.numpy()})[0])
    for spec in ("source", "batch", "source+tent"):
        fitted = model.fit(spec, {})
        found = fitted.predict(fitted.initial(), X).probabilities
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_the_fingerprint_is_as_before_where_the_output_is_logits(tmp_path):
    plain = read_bundle(torch_bundle(tmp_path / "plain")).fingerprint
    shutil.copytree(tmp_path / "plain", tmp_path / "said")
    toml = tmp_path / "said" / "bundle.toml"
    text = toml.read_text()

    toml.write_text(text.replace("[input]", 'output = "logits"\n\n[input]'))
    assert read_bundle(tmp_path / "said").fingerprint == plain
    toml.write_text(text.replace("[input]", 'output = "probabilities"\n\n[input]'))
    assert read_bundle(tmp_path / "said").fingerprint != plain


def test_a_copy_that_drops_something_is_refused_with_the_layers_name():
    source = reference_source()
    fidelity = Fidelity(source, samples(source))
    prepared = create("source").prepare(source)
    check_copies(fidelity, prepared)
    layer = prepared.net.layers["4"]
    norm = prepared.net.network.get_submodule("4")

    norm.forward = lambda x: layer.normalize(layer, x) * 1.1

    with pytest.raises(UnfitModelError, match="the first layer that differs is 4"):
        check_copies(fidelity, prepared)


@pytest.mark.parametrize(
    "name", ["subclassed", "scaled", "half", "bfloat16", "double", "sync", "fused", "shared", "lazy"]
)
def test_a_network_of_other_peoples_is_hosted_and_answers_as_shipped(tmp_path, name):
    network = outside(name)
    folder = bundle(tmp_path / "bundle", "outside", network, arguments=f'arguments = {{name = "{name}"}}')
    toml = folder / "bundle.toml"
    text = toml.read_text().replace("[3, 16, 16]", str(list(SHAPE))).replace('"batch+tent"', '"source+tent"')
    toml.write_text(text.replace(', "e", "f", "g", "h", "i", "j"', ""))
    x = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1))

    model = hosted(folder)

    own = next(network.parameters()).dtype
    wanted = network(x.to(own)).detach().double()
    found = model.answer_as_source(x).logits.double()
    assert float((found - wanted).abs().max()) <= (0.02 if own.itemsize < 4 else 1e-5) * float(wanted.abs().max())
