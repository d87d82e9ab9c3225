"""Bundles on disk: what is refused and how it is named, what the fingerprint covers, and the two backends."""

import re
import sys

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from adapters import create
from service.errors import BundleError, UnfitError
from service.models.bundle import MAX_TOML_BYTES, read_bundle
from service.models.hosted import host
from service.models.onnx import onnx_model as onnx_backend
from tests.bundles import FACTORY, onnx_bundle, torch_bundle
from tests.models import reference_source, untrained_reference_network
from tests.serving import images


def scaled_network(scale: int = 1) -> nn.Module:
    """A factory with an argument: the reference network, its logits divided by `scale`."""
    network = untrained_reference_network()
    network[-1].register_forward_hook(lambda _module, _inputs, logits: logits / scale)
    return network


def no_network() -> int:
    """A factory that makes no module."""
    return 7


SCALED, NO_NETWORK = f"{__name__}:scaled_network", f"{__name__}:no_network"


def edited(folder, *changes, **settings):
    """A torch bundle whose bundle.toml has each (old, new) of the changes made."""
    bundle = torch_bundle(folder, **settings)
    text = (bundle / "bundle.toml").read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (bundle / "bundle.toml").write_text(text)
    return bundle


def with_input(line):
    return ("shape = [3, 16, 16]", f"shape = [3, 16, 16]\n{line}")


BATCH = torch.from_numpy(images(5, seed=3))


def test_a_bundle_is_read_as_it_stands(tmp_path):
    line = with_input("mean = [0.5, 0.25, 0.0]\nstd = [1.0, 2.0, 4.0]")

    bundle = read_bundle(edited(tmp_path / "bundle", line))

    assert (bundle.name, bundle.classes[:2], bundle.toml.version) == ("reference", ("a", "b"), "1")
    assert bundle.input.name == "images"
    assert bundle.input.shape == (3, 16, 16)
    assert (bundle.input.value_range, bundle.input.resize) == ((0.0, 1.0), "stretch")
    assert (bundle.input.mean, bundle.input.std) == ((0.5, 0.25, 0.0), (1.0, 2.0, 4.0))
    assert bundle.model_file == tmp_path / "bundle" / "model.safetensors"
    assert bundle.artefacts == {}


WRONG_TOML = [
    pytest.param([('licence = "Apache-2.0"', "")], "licence is missing", id="missing_key"),
    pytest.param([("[input]", "[input]\nshap = 1")], "input.shap is not known here", id="unknown_key"),
    pytest.param([("[classes]", "[extra]\na = 1\n[classes]")], "extra is not known here", id="unknown_table"),
    pytest.param(
        [with_input("mean = [0.5, 0.5]\nstd = [1.0, 1.0]")], "have 2 and 2 values, expected 3 each", id="mean_length"
    ),
    pytest.param([with_input("mean = [0.5, 0.5, 0.5]")], "have 3 and 0 values, expected 3 each", id="mean_alone"),
    pytest.param(
        [with_input("mean = [0.5, 0.5, 0.5]\nstd = [1.0, 0.0, 1.0]")], "std.1 is .*, expected more", id="std_zero"
    ),
    pytest.param([with_input("value_range = [1.0, 0.0]")], "expected the lower value first", id="reversed_range"),
    pytest.param([with_input("value_range = [1.0, 1.0]")], "expected the lower value first", id="empty_range"),
    pytest.param([with_input('datatype = "UINT8"')], "input.datatype is 'UINT8', expected 'FP32'", id="datatype"),
    pytest.param([with_input('resize = "squash"')], "input.resize is .*'stretch', 'crop' or 'exact'", id="resize"),
    pytest.param([("[3, 16, 16]", "[3, 0, 16]")], "input.shape.1 is 0, expected at least 1", id="shape_zero"),
    pytest.param([("[3, 16, 16]", "[3, 16]")], "input.shape", id="shape_of_two"),
    pytest.param([('name = "reference"', 'name = "../up"')], "name is .*, expected a letter or digit", id="bad_name"),
    pytest.param([('name = "reference"', 'name = ""')], "name is '', expected a letter or digit", id="empty_name"),
    pytest.param([('"model.safetensors"', '"../model"')], "model.file is .*, expected a letter", id="file_outside"),
    pytest.param([('kind = "torch"', 'kind = "onnx"')], 'kind "onnx" takes none', id="factory_with_onnx"),
    pytest.param([(f'factory = "{FACTORY}"', "")], 'kind "torch" needs a factory', id="torch_without_factory"),
    pytest.param([(FACTORY, "no colon")], "expected `package.module:callable`", id="factory_form"),
    pytest.param([('kind = "torch"', 'kind = "jax"')], "model.kind is 'jax', expected 'torch' or 'onnx'", id="kind"),
    pytest.param([('"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"', '"a"')], "classes.names", id="one_class"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), WRONG_TOML)
def test_a_wrong_bundle_toml_is_refused_by_file_key_and_fault(tmp_path, changes, said):
    bundle = edited(tmp_path / "bundle", *changes)

    with pytest.raises(BundleError, match=said) as caught:
        read_bundle(bundle)

    assert str(bundle / "bundle.toml") in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"name = ", "is not TOML", id="not_toml"),
        pytest.param(b"\xff\xfe", "is not TOML", id="not_utf8"),
        pytest.param(b"\x89PNG", "is not TOML", id="another_format"),
        pytest.param(b"#" * (MAX_TOML_BYTES + 1), f"expected at most {MAX_TOML_BYTES}", id="huge"),
        pytest.param(b"", "name is missing", id="empty"),
    ],
)
def test_a_file_that_is_no_bundle_toml_is_refused(tmp_path, content, said):
    bundle = torch_bundle(tmp_path / "bundle")
    (bundle / "bundle.toml").write_bytes(content)

    with pytest.raises(BundleError, match=said):
        read_bundle(bundle)


def test_a_missing_folder_a_missing_bundle_toml_and_a_missing_model_file_are_named(tmp_path):
    bundle = torch_bundle(tmp_path / "bundle")
    (bundle / "model.safetensors").unlink()
    (tmp_path / "empty").mkdir()

    with pytest.raises(BundleError, match=re.escape("has no file 'model.safetensors'")):
        read_bundle(bundle)
    for folder in ("empty", "nowhere"):
        with pytest.raises(BundleError, match=f"{folder} is no bundle: it has no bundle.toml"):
            read_bundle(tmp_path / folder)


def other_weights(bundle):
    file = bundle / "model.safetensors"
    tensors = load_file(file)
    first = sorted(tensors)[0]
    save_file(tensors | {first: tensors[first] + 1e-3}, file)


def an_artefact(bundle):
    (bundle / "artefacts").mkdir()
    save_file({"mean": torch.zeros(16)}, bundle / "artefacts" / "features.safetensors")


def fingerprints(tmp_path, changes=(), change_files=None):
    """The fingerprint of a bundle, and of the same bundle changed."""
    one = edited(tmp_path / "one", factory=SCALED)
    other = edited(tmp_path / "other", *changes, factory=SCALED)
    if change_files:
        change_files(other)
    return read_bundle(one).fingerprint, read_bundle(other).fingerprint


@pytest.mark.parametrize(
    ("changes", "change_files"),
    [
        pytest.param([], other_weights, id="weights"),
        pytest.param([with_input("mean = [0.0, 0.0, 0.1]\nstd = [1.0, 1.0, 1.0]")], None, id="mean"),
        pytest.param([with_input("value_range = [0.0, 255.0]")], None, id="value_range"),
        pytest.param([with_input('resize = "crop"')], None, id="resize"),
        pytest.param([("[input]", "arguments = {scale = 2}\n[input]")], None, id="arguments"),
        pytest.param([(SCALED, FACTORY)], None, id="factory"),
        pytest.param([("[3, 16, 16]", "[3, 16, 32]")], None, id="shape"),
        pytest.param([(', "j"]', "]")], None, id="number_of_classes"),
    ],
)
def test_what_decides_the_outputs_changes_the_fingerprint(tmp_path, changes, change_files):
    one, other = fingerprints(tmp_path, changes, change_files)

    assert one != other
    assert re.fullmatch("[0-9a-f]{64}", one)


@pytest.mark.parametrize(
    ("changes", "change_files"),
    [
        pytest.param([], None, id="another_folder"),
        pytest.param([("licence", 'description = "new"\nlicence')], None, id="description"),
        pytest.param([('"reference"', '"another"')], None, id="name"),
        pytest.param([("licence", 'version = "2"\nlicence')], None, id="version"),
        pytest.param([('"batch+tent"', '"batch"')], None, id="default_adapter"),
        pytest.param([('"a", "b"', '"x", "y"')], None, id="names_of_classes"),
        pytest.param([('name = "images"', 'name = "x"')], None, id="name_of_the_input"),
        pytest.param([], an_artefact, id="artefacts"),
    ],
)
def test_what_decides_no_output_leaves_the_fingerprint(tmp_path, changes, change_files):
    one, other = fingerprints(tmp_path, changes, change_files)

    assert one == other


def test_artefacts_are_read_as_file_dot_tensor(tmp_path):
    bundle = torch_bundle(tmp_path / "bundle")
    an_artefact(bundle)
    save_file({"images": torch.ones(2, 3), "labels": torch.arange(2)}, bundle / "artefacts" / "probe.safetensors")
    (bundle / "artefacts" / "README.md").write_text("of no concern")

    artefacts = read_bundle(bundle).artefacts

    assert sorted(artefacts) == ["features.mean", "probe.images", "probe.labels"]
    assert torch.equal(artefacts["probe.labels"], torch.arange(2))


def test_a_damaged_artefact_is_named(tmp_path):
    bundle = torch_bundle(tmp_path / "bundle")
    an_artefact(bundle)
    (bundle / "artefacts" / "features.safetensors").write_bytes(b"not safetensors")

    with pytest.raises(BundleError, match=r"features\.safetensors is no safetensors file"):
        read_bundle(bundle)


def test_artefacts_reach_the_source_model(tmp_path):
    bundle = torch_bundle(tmp_path / "bundle")
    an_artefact(bundle)

    assert sorted(host(read_bundle(bundle), [FACTORY], 1).source.artefacts) == ["features.mean"]


@pytest.mark.parametrize(
    ("factory", "allowed", "said"),
    [
        pytest.param(FACTORY, [], "which is not allowed; allowed are", id="nothing_is_allowed"),
        pytest.param("os:system", [FACTORY], "'os:system', which is not allowed", id="another_is_allowed"),
        pytest.param("nowhere:build", ["nowhere:build"], "cannot be called: No module named 'nowhere'", id="no_module"),
        pytest.param("tests.models:nope", ["tests.models:nope"], "has no attribute 'nope'", id="no_attribute"),
        pytest.param("tests.models:REFERENCE", ["tests.models:REFERENCE"], "not callable", id="not_callable"),
        pytest.param(NO_NETWORK, [NO_NETWORK], "made a int, expected a torch.nn.Module", id="no_network"),
    ],
)
def test_a_factory_that_may_not_or_cannot_make_the_network_is_refused(tmp_path, factory, allowed, said):
    bundle = read_bundle(torch_bundle(tmp_path / "bundle", factory=factory))

    with pytest.raises(BundleError, match=said):
        host(bundle, allowed, 1)


def test_a_factory_that_is_not_allowed_is_not_even_imported(tmp_path):
    bundle = read_bundle(torch_bundle(tmp_path / "bundle", factory="this:print"))

    with pytest.raises(BundleError, match="not allowed"):  # importing `this` would write a poem
        host(bundle, [FACTORY], 1)

    assert "this" not in sys.modules


def test_arguments_reach_the_factory(tmp_path):
    arguments = ("[input]", "arguments = {scale = 4}\n[input]")
    plain = host(read_bundle(edited(tmp_path / "plain", factory=SCALED)), [SCALED], 1)
    scaled = host(read_bundle(edited(tmp_path / "scaled", arguments, factory=SCALED)), [SCALED], 1)

    logits, fourth = plain.answer_as_source(BATCH).logits, scaled.answer_as_source(BATCH).logits

    torch.testing.assert_close(fourth * 4, logits)


def test_arguments_that_the_factory_does_not_take_are_refused(tmp_path):
    arguments = ("[input]", "arguments = {width = 4}\n[input]")
    bundle = read_bundle(edited(tmp_path / "bundle", arguments))

    with pytest.raises(BundleError, match="unexpected keyword argument 'width'"):
        host(bundle, [FACTORY], 1)


def without_a_tensor(file):
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, file)


def with_another_shape(file):
    save_file({name: tensor.flatten() for name, tensor in load_file(file).items()}, file)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(without_a_tensor, id="a_tensor_missing"),
        pytest.param(with_another_shape, id="another_shape"),
        pytest.param(lambda file: save_file({"stranger": torch.zeros(1)}, file), id="other_tensors"),
        pytest.param(lambda file: file.write_bytes(b"\x80\x04junk"), id="not_safetensors"),
        pytest.param(lambda file: file.write_bytes(b""), id="empty"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change):
    bundle = torch_bundle(tmp_path / "bundle")
    change(bundle / "model.safetensors")

    with pytest.raises(BundleError, match=r"model\.safetensors does not fit tests\.models"):
        host(read_bundle(bundle), [FACTORY], 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param((', "j"]', "]"), r"answers \(2, 10\) to two images, expected \(2, 9\)", id="other_classes"),
        pytest.param(("[3, 16, 16]", "[1, 16, 16]"), "fails on a sample of shape", id="other_channels"),
        pytest.param(('"batch+tent"', '"batch+tnet"'), "no adapter part is named 'tnet'", id="unknown_default"),
        pytest.param(('kind = "torch"', 'kind = "torch"\nfeatures = "q"'), "no module 'q'", id="unknown_features"),
    ],
)
def test_a_model_that_is_not_as_its_bundle_says_is_refused_at_load(tmp_path, change, said):
    bundle = read_bundle(edited(tmp_path / "bundle", change))

    with pytest.raises(BundleError, match=said):
        host(bundle, [FACTORY], 1)


def test_a_torch_bundle_answers_as_the_network_itself(tmp_path):
    hosted = host(read_bundle(torch_bundle(tmp_path / "bundle")), [FACTORY], 1)

    with torch.no_grad():
        expected = reference_source().network.eval()(BATCH)

    torch.testing.assert_close(hosted.answer_as_source(BATCH).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return onnx_bundle(tmp_path_factory.mktemp("graph") / "bundle")


@pytest.fixture(scope="module")
def hosted_graph(graph):
    return host(read_bundle(graph), [], 1)


@pytest.fixture
def own_graph(graph, tmp_path):
    """A copy of the ONNX bundle that a test may change."""
    folder = tmp_path / "graph"
    folder.mkdir()
    for file in graph.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("spec", ["source", "source+lame"])
def test_an_onnx_bundle_answers_as_the_torch_bundle(tmp_path, hosted_graph, spec):
    hosted = host(read_bundle(torch_bundle(tmp_path / "bundle")), [FACTORY], 1)
    answers = []
    for model in (hosted, hosted_graph):
        fitted = model.fit(spec, {})
        answers.append(fitted.step(fitted.initial(), BATCH)[0])

    for name in ("logits", "probabilities"):
        ours, theirs = (getattr(answer, name) for answer in answers)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_onnx_features_are_what_enters_the_classifier(hosted_graph):
    lame = hosted_graph.fit("source+lame", {})
    reference = create("source+lame")
    prepared = reference.prepare(reference_source())

    expected, _ = reference.step(prepared, reference.init(prepared), BATCH)
    answer, _ = lame.step(lame.initial(), BATCH)

    torch.testing.assert_close(answer.probabilities, expected.probabilities, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(answer.probabilities, answer.logits.softmax(1), atol=1e-3)


@pytest.mark.parametrize(
    "spec",
    ["batch", "alpha", "ema", "unmix_tns", "tent", "source+tent", "source+eta+lame", "source+rdumb", "batch+lame"],
)
def test_onnx_refuses_specs_beyond_source_and_says_why(hosted_graph, spec):
    with pytest.raises(UnfitError) as caught:
        hosted_graph.fit(spec, {})

    assert onnx_backend.OPAQUE in str(caught.value)
    assert "`source` works" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(('"features"', '"embedding"'), "has no output 'embedding'; its outputs are", id="features"),
        pytest.param(('features = "features"', 'logits = "scores"'), "has no output 'scores'", id="logits"),
        pytest.param(('adapter = "source"', 'adapter = "batch"'), "batch must reach inside the model", id="adapter"),
        pytest.param(("[3, 16, 16]", "[1, 16, 16]"), "fails on a sample of shape", id="shape"),
    ],
)
def test_a_graph_that_is_not_as_its_bundle_says_is_refused(own_graph, change, said):
    toml = own_graph / "bundle.toml"
    text = toml.read_text()
    assert text.count(change[0]) == 1
    toml.write_text(text.replace(*change))

    with pytest.raises(BundleError, match=said):
        host(read_bundle(own_graph), [], 1)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x07"], ids=["empty", "text", "no_graph_inside"])
def test_a_file_that_is_no_onnx_graph_is_refused(own_graph, content):
    (own_graph / "model.onnx").write_bytes(content)

    with pytest.raises(BundleError, match=r"model\.onnx is no graph that ONNX Runtime can run"):
        host(read_bundle(own_graph), [], 1)


def test_a_graph_of_two_inputs_is_refused(own_graph):
    helper = onnx.helper
    shape = ["n", 3, 16, 16]
    tensors = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("a", "b", "logits")]
    nodes = [helper.make_node("Add", ["a", "b"], ["logits"])]
    made = helper.make_model(helper.make_graph(nodes, "sum", tensors[:2], tensors[2:]), ir_version=10)
    onnx.save(made, own_graph / "model.onnx")
    toml = own_graph / "bundle.toml"
    toml.write_text(toml.read_text().replace('features = "features"', ""))

    with pytest.raises(BundleError, match="takes 2 inputs, expected one"):
        host(read_bundle(own_graph), [], 1)


def test_a_hosted_model_fits_each_pipeline_once_and_keeps_a_bounded_number(tmp_path):
    hosted = host(read_bundle(torch_bundle(tmp_path / "bundle")), [FACTORY], 1)

    first = hosted.fit("batch+tent", {"tent": {"lr": 0.5}})
    again = hosted.fit("tent+batch", {"tent": {"lr": 0.5}})
    for number in range(70):
        hosted.fit("batch+tent", {"seed": number})

    assert again is first
    assert hosted.fit("batch+tent", {"tent": {"lr": 0.5}}) is not first
    assert hosted.default.step(hosted.default.initial(), BATCH)[0].logits.shape == (5, 10)
