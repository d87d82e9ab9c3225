"""Pipelines as ONNX graphs: exact, for any batch, kept, refused where they are not what they should be."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters import create
from adapters.state import flatten
from service.errors import BundleError, UnfitError
from service.models.bundle import read_bundle
from service.models.hosted import host
from service.models.kernels.capabilities import capabilities
from service.models.kernels.graphs import export
from service.models.kernels.graphs.cache import NOT_MADE, Graphs, Wanted, made_anew
from service.models.kernels.graphs.step import TRIED, CompiledStep, Session
from service.models.kernels.kernel import JointSteps, KernelStatus, OwnSteps
from tests.applications import application, facts
from tests.bundles import FACTORY, onnx_bundle, torch_bundle
from tests.models import bn1d_source, reference_source, referenced_source, vit_source
from tests.serving import called, images

SOURCES = {
    "reference": reference_source, "bn1d": bn1d_source, "vit": vit_source, "referenced": referenced_source
}  # fmt: skip
CELLS = [
    ("source", "reference", 1), ("source", "vit", 1), ("batch", "reference", 1), ("ema", "reference", 1),
    ("alpha", "reference", 1), ("unmix_tns", "reference", 1), ("note_iabn", "reference", 1),
    ("rotta_bn", "reference", 1), ("source+lame", "reference", 2), ("ema", "bn1d", 2),
    ("ema", "referenced", 1), ("unmix_tns", "referenced", 1),
]  # fmt: skip
"""Pipeline, model, and the fewest images that the graph holds for: some parts treat one image apart."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return read_bundle(torch_bundle(tmp_path_factory.mktemp("bundle") / "bundle", adapter="unmix_tns"))


def wanted(bundle, spec, source=None, **options):
    source = source or reference_source()
    adapter = create(spec, **options)
    sample = torch.rand(max(TRIED), *source.input_shape, generator=torch.Generator().manual_seed(0))
    return Wanted(bundle, OwnSteps(adapter, adapter.prepare(source)), sample)


@pytest.fixture(scope="module")
def onnx_folder(tmp_path_factory):
    return onnx_bundle(tmp_path_factory.mktemp("onnx") / "bundle")


@pytest.fixture(scope="module")
def made(bundle):
    """One pipeline's graph, made once."""
    asked = wanted(bundle, "unmix_tns")
    return asked, made_anew(asked, 1)


@pytest.fixture(scope="module")
def kept(bundle, tmp_path_factory):
    """A folder that holds one pipeline's graph."""
    folder = tmp_path_factory.mktemp("kept") / "graphs"
    Graphs(folder, 1).get(wanted(bundle, "batch"), make=True)
    return folder


@pytest.mark.parametrize(("spec", "model", "least"), CELLS)
def test_a_graph_takes_the_pipelines_steps_for_any_batch(bundle, spec, model, least):
    source = SOURCES[model]()
    asked = wanted(bundle, spec, source)
    made = made_anew(asked, 1)
    assert made.least_images == least
    state = ours = asked.own.fit.initial
    generator = torch.Generator().manual_seed(1)
    for count in (least, 3, 64, 17):
        x = torch.rand(count, *source.input_shape, generator=generator)
        (expected, state), (given, ours) = asked.own.step(state, x), made.kernel.step(ours, x)
        # float32 sums in another order; what one step rounds differently, the next ones carry on
        torch.testing.assert_close(given.logits, expected.logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(given.probabilities, expected.probabilities, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(dict(given.signals), dict(expected.signals), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(flatten(ours), flatten(state), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("learner", ["eta", "rdumb"])
def test_a_learner_that_answers_first_answers_by_a_graph_and_learns_the_same(bundle, learner):
    half = {learner: {"e_margin": 0.9, "d_margin": 1.0, "lr": 0.01}}
    asked = wanted(bundle, f"unmix_tns+{learner}", **half)
    made = made_anew(asked, 1)
    assert made.least_images == 1
    state = ours = asked.own.fit.initial
    generator = torch.Generator().manual_seed(1)
    shares = []
    for count in (1, 3, 64, 17):
        x = torch.rand(count, 3, 16, 16, generator=generator)
        (expected, state), (given, ours) = asked.own.step(state, x), made.kernel.step(ours, x)
        torch.testing.assert_close(given.probabilities, expected.probabilities, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(flatten(ours), flatten(state), rtol=1e-3, atol=1e-4)
        shares.append(float(given.signals["selected_ratio"]))
    assert max(shares) > 0.3  # it did learn


def test_only_whole_steps_are_exported(bundle):
    own = wanted(bundle, "unmix_tns+eta").own
    can = capabilities(own.pipeline, own.fit)
    assert (can.whole, can.graph) == ("eta learns by gradients", "")


@pytest.mark.parametrize(
    "x",
    [torch.zeros(4, 3, 16, 16), torch.ones(1, 3, 16, 16), torch.rand(1, 3, 16, 16).expand(6, -1, -1, -1)],
    ids=["constant", "one", "duplicates"],
)
def test_a_graph_is_exact_at_extremes(made, x):
    asked, compiled = made
    initial = asked.own.fit.initial
    expected, after = asked.own.step(initial, x)
    given, ours = compiled.kernel.step(initial, x)
    torch.testing.assert_close(given.probabilities, expected.probabilities, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(flatten(ours), flatten(after), rtol=1e-3, atol=1e-4)


def test_a_step_leaves_its_state_and_inputs_as_they_were(made):
    asked, compiled = made
    initial = asked.own.fit.initial
    before, x = {name: tensor.clone() for name, tensor in flatten(initial).items()}, asked.sample[:4]
    kept = x.clone()
    compiled.kernel.step(initial, x)
    assert torch.equal(x, kept)
    assert all(torch.equal(before[name], tensor) for name, tensor in flatten(initial).items())


def test_not_finite_images_give_answers_that_are_not_finite_so_that_guards_see_them(made):
    asked, compiled = made
    given, _ = compiled.kernel.step(asked.own.fit.initial, torch.full((2, 3, 16, 16), torch.nan))
    assert not torch.isfinite(given.probabilities).all()


@pytest.mark.parametrize(
    ("spec", "reason"),
    [("batch+tent", "tent learns by gradients"), ("auto", "auto chooses"), ("source+roid_prior", "cannot be exported")],
)
def test_what_has_no_graph_says_why(bundle, tmp_path, spec, reason):
    adapter = create(spec)
    can = capabilities(adapter, adapter.prepare(reference_source()))
    told = can.graph or Graphs(tmp_path, 1).get(wanted(bundle, spec), make=True).reason
    assert reason in told


def test_a_graph_that_differs_from_its_pipeline_does_not_serve(bundle, monkeypatch):
    other = create("unmix_tns", unmix_tns={"temperature": 1.0})
    asked = wanted(bundle, "unmix_tns")
    wrong = export.make_step(OwnSteps(other, other.prepare(reference_source())), asked.sample[:8], "images")
    monkeypatch.setattr(export, "make_step", lambda *_: wrong)
    with pytest.raises(UnfitError, match="the graph is not used: with 40 images after "):
        made_anew(asked, 1)


def test_graphs_are_kept_and_found_again(bundle, tmp_path, monkeypatch):
    graphs, asked = Graphs(tmp_path / "graphs", 1), wanted(bundle, "batch")
    assert graphs.get(asked, make=False) == KernelStatus(NOT_MADE)
    first = graphs.get(asked, make=True)
    assert first.kernel is not None
    monkeypatch.setattr(export, "make_step", None)
    again = graphs.get(asked, make=False)
    assert (again.reason, again.least, again.times) == ("", first.least, first.times)
    others = {"fingerprint": "0" * 64}, {"artefacts": referenced_source().artefacts}
    for changed in others:
        other = replace(asked, bundle=replace(bundle, **changed))
        assert graphs.get(other, make=False) == KernelStatus(NOT_MADE)


def test_a_graph_that_was_slower_when_it_was_made_is_not_used_after_a_restart(bundle, tmp_path, kept):
    """It is not timed again: a stream's backend must not depend on the load of the machine at a start."""
    folder, asked = Path(shutil.copytree(kept, tmp_path / "graphs")), wanted(bundle, "batch")
    (file,) = folder.iterdir()
    content = file.read_bytes()
    facts = dict(Session(content, 1).facts)
    assert float(facts["times"]) > 0
    for times, serves in (("0.5", False), ("0.95", True), ("0.0", True)):
        file.write_bytes(export.with_facts(content, {**facts, "times": times}))
        assert bool(Graphs(folder, 1).get(asked, make=False).serving(1)) == serves
    file.write_bytes(export.with_facts(content, {**facts, "times": "0.5"}))
    slow = KernelStatus("the graph is not used: it takes 2.0 times as long", times=0.5)
    assert Graphs(folder, 1).get(asked, make=False) == slow


STREAMED = [("source", "vit"), ("unmix_tns", "reference"), ("source+eta", "reference")]


@pytest.mark.parametrize(("spec", "model"), STREAMED)
def test_a_graph_of_many_streams_takes_their_steps_as_each_alone(bundle, tmp_path, spec, model):
    asked = wanted(bundle, spec, SOURCES[model]())
    own = asked.own
    joint = JointSteps(own, Graphs(tmp_path / "graphs", 1).of_streams(asked, make=True))
    assert joint.net is not None
    together = alone = [own.fit.initial] * 5
    for step in range(3):
        xs = list(asked.sample[5 * step : 5 * step + 5, None])
        given = joint.steps(together, xs)
        expected = own.steps(alone, xs)
        for (output, after), (answer, state) in zip(given, expected, strict=True):
            torch.testing.assert_close(output.probabilities, answer.probabilities, atol=1e-4, rtol=0)
            for name, tensor in flatten(state).items():
                torch.testing.assert_close(flatten(after)[name], tensor, atol=1e-4, rtol=1e-4)
        together, alone = [state for _, state in given], [state for _, state in expected]


def test_pipelines_of_one_normalizer_share_a_graph_of_many_streams(bundle, tmp_path, monkeypatch):
    graphs = Graphs(tmp_path / "graphs", 1)
    assert graphs.of_streams(wanted(bundle, "batch"), make=False) is None
    assert graphs.of_streams(wanted(bundle, "batch"), make=True) is not None
    monkeypatch.setattr(export, "make_streams", None)
    assert graphs.of_streams(wanted(bundle, "batch+lame"), make=False) is not None
    assert graphs.of_streams(wanted(bundle, "alpha"), make=False) is None


def test_a_graph_of_many_streams_that_passes_otherwise_is_not_used(bundle, tmp_path, monkeypatch):
    asked, other = wanted(bundle, "source"), wanted(bundle, "batch")
    wrong = export.make_streams(other.own, asked.sample, "images")
    monkeypatch.setattr(export, "make_streams", lambda *_: wrong)
    assert Graphs(tmp_path / "graphs", 1).of_streams(asked, make=True) is None
    assert not (tmp_path / "graphs").exists()


def test_many_streams_have_a_graph_only_where_one_pass_serves_them(bundle, onnx_folder, tmp_path):
    model, shipped = host(bundle, [FACTORY], 1), host(read_bundle(onnx_folder), [], 1)
    lacking = [model.fit("batch+tent", {}), model.fit("auto", {}), shipped.fit("source", {})]
    assert [fitted.kernels.can.joint_graph for fitted in (*lacking, model.fit("source", {}))] == [False] * 3 + [True]
    assert Graphs(tmp_path / "graphs", 1, grouping=False).of_streams(wanted(bundle, "source"), make=True) is None


@pytest.mark.parametrize("damage", ["truncated", "another's", "text"])
def test_a_damaged_or_foreign_graph_on_disk_is_made_anew(bundle, tmp_path, made, kept, damage):
    folder, asked = Path(shutil.copytree(kept, tmp_path / "graphs")), wanted(bundle, "batch")
    graphs = Graphs(folder, 1)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    another = export.with_facts(made[1].content, made[1].facts_of(made[0]))
    file.write_bytes({"truncated": whole[: len(whole) // 2], "another's": another, "text": b"no graph"}[damage])
    assert graphs.get(asked, make=False) == KernelStatus(NOT_MADE)
    graphs.get(asked, make=True)
    assert graphs.get(asked, make=False).serving(1)


def test_a_folder_that_cannot_be_written_costs_only_the_next_start(bundle, tmp_path):
    (tmp_path / "graphs").write_text("a file in the folder's place")
    assert Graphs(tmp_path / "graphs", 1).get(wanted(bundle, "batch"), make=True).serving(1)


def test_bytes_that_are_no_pipelines_graph_are_refused(onnx_folder):
    with pytest.raises(BundleError, match="it is not the graph of a pipeline"):
        CompiledStep(Session((onnx_folder / "model.onnx").read_bytes().replace(b"logits", b"logitz"), 1))


def test_an_onnx_bundle_has_none(onnx_folder, tmp_path):
    model = host(read_bundle(onnx_folder), [], 1, Graphs(tmp_path / "graphs", 1, grouping=False))
    assert (model.default.backend, model.default.kernels.graph.reason) == (
        "onnx",
        "the bundle is an ONNX graph already",
    )


def test_a_server_compiles_its_own_pipelines_and_those_listed_and_says_so(tmp_path):
    bundle = torch_bundle(tmp_path / "bundle", adapter="batch")
    settings = {"compiled": True, "compiled_specs": ("alpha", "batch+tent"), "durability": "sync"}
    for number in range(2):  # the second start finds the graphs
        with application(tmp_path, bundle, **settings) as api:
            told = api("GET", "/v1/models/reference").json()["pipelines"]
            assert {each["adapter"]: (each["backend"], each["reason"]) for each in told} == {
                "source": ("compiled", ""), "alpha": ("compiled", ""), "batch": ("compiled", ""),
                "batch+tent": ("torch", "tent learns by gradients"),
            }  # fmt: skip
            assert all(each["state_bytes"] > 0 for each in told)
            assert (
                len(list((tmp_path / "data" / "graphs").iterdir())) == 6
            )  # of three, a step and a pass of many streams
            told = facts(api.infer(images(2, number), "camera", f"r{number}"))
            assert (told["tta_backend"], told["tta_steps"]) == ("compiled", number + 1)


def test_streams_of_few_images_are_served_by_the_pipeline_itself(tmp_path):
    graphs = Graphs(tmp_path / "graphs", 1, ("source+lame",), grouping=False)
    model = host(read_bundle(torch_bundle(tmp_path / "bundle")), [FACTORY], 1, graphs)
    fitted = model.fit("source+lame", {})
    assert (fitted.backend, fitted.kernels.graph.least) == ("compiled", 2)
    output, after = fitted.step(fitted.initial(), model.sample(1))
    expected = fitted.adapter.step(fitted.prepared, fitted.initial(), model.sample(1))[0]
    assert torch.equal(output.probabilities, expected.probabilities)
    assert int(after.steps) == 1


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge")
    torch_bundle(folder / "bundle", adapter="unmix_tns")
    done = called("export", f"{folder}/bundle", "--output", f"{folder}/edge", "--allow-factory", FACTORY)
    assert done.returncode == 0, done.stderr
    return folder / "edge", done.stdout


def test_the_exports_readme_runs_with_onnx_runtime_and_numpy_alone(exported):
    folder, said = exported
    assert "adapting.onnx" in said
    (block,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    guard = "import sys\nsys.modules['torch'] = sys.modules['adapters'] = sys.modules['service'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", guard + block], capture_output=True, text=True, timeout=60, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(np.fromstring(done.stdout.strip().strip("[]"), sep=" ")) == 8


def test_an_export_adapts_as_the_server_does(exported, bundle):
    folder, _ = exported
    step = CompiledStep(Session((folder / "adapting.onnx").read_bytes(), 1))
    asked = wanted(bundle, "unmix_tns")
    assert json.loads(step.session.facts["options"]) == json.loads(asked.facts["options"])
    with np.load(folder / "state.npz", allow_pickle=False) as state:
        first = {name.removeprefix("state/"): tensor for name, tensor in state.items()}
    initial = flatten(asked.own.fit.initial)
    assert first.keys() <= initial.keys()
    assert all(np.array_equal(tensor, initial[name].numpy()) for name, tensor in first.items())


def test_exporting_what_learns_by_gradients_is_refused_in_one_line(tmp_path):
    torch_bundle(tmp_path / "bundle")
    done = called("export", f"{tmp_path}/bundle", "--output", f"{tmp_path}/edge", "--allow-factory", FACTORY)
    assert done.returncode == 2
    assert "tent learns by gradients" in done.stderr
    assert "Traceback" not in done.stderr
