"""What every pipeline promises, one property a function."""

import dataclasses

import pytest
import safetensors.torch
import torch

from adapters import SourceModel, create
from adapters.errors import StateError, UnfitModelError
from adapters.registry import FOLDERS, kind_of, parts
from adapters.state import flatten, is_finite, rebuild, size_bytes, unflatten
from tests import models
from tests.conformance.cases import CASES

BATCH_NORM_MODELS = {"reference": models.reference_source, "bn1d": models.bn1d_source}
EVERY = [
    pytest.param(spec, options, make, id=f"{spec}:{name}")
    for spec, options in CASES.items()
    for name, make in BATCH_NORM_MODELS.items()
]
every_pipeline = pytest.mark.parametrize(("spec", "options", "make"), EVERY)
every_pure_pipeline = pytest.mark.parametrize(
    ("spec", "options", "make"), [case for case in EVERY if create(case.values[0]).pure_graph]
)


class Bench:
    """One adapter on one model, and batches to feed it."""

    def __init__(self, spec, options, make, seed=0, in_form=lambda source: source):
        self.adapter = create(spec, seed=seed, **options)
        self.source: SourceModel = in_form(models.calibrated(make, self.adapter))
        self.prepared = self.adapter.prepare(self.source)

    def fresh(self):
        return self.adapter.init(self.prepared)

    def run(self, batches, state=None):
        state = self.fresh() if state is None else state
        outputs = []
        for x in batches:
            output, state = self.adapter.step(self.prepared, state, x)
            outputs.append(output)
        return outputs, state


def batches(count, size=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(size, 3, 16, 16, generator=generator) for _ in range(count)]


def doubled(count, seed):
    return [x.double() for x in batches(count, seed=seed)]


def assert_same(one, other):
    one, other = flatten(one), flatten(other)
    assert list(one) == list(other)
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@every_pipeline
def test_a_step_leaves_the_state_it_was_given_and_repeats_exactly(spec, options, make):
    bench = Bench(spec, options, make)
    _, state = bench.run(batches(2))
    before = {name: tensor.clone() for name, tensor in flatten(state).items()}
    x = batches(1, seed=9)[0]
    original = x.clone()

    first, after = bench.adapter.step(bench.prepared, state, x)
    second, again = bench.adapter.step(bench.prepared, state, x)

    assert all(torch.equal(before[name], tensor) for name, tensor in flatten(state).items())
    assert torch.equal(x, original)
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.probabilities, second.probabilities)
    assert_same(after, again)


@every_pipeline
def test_a_snapshot_replays_bit_for_bit_in_another_preparation(spec, options, make):
    bench, other = Bench(spec, options, make), Bench(spec, options, make)
    _, state = bench.run(batches(3))

    separate = {name: tensor.clone() for name, tensor in flatten(state).items()}  # fresh states share memory
    restored = unflatten(other.fresh(), safetensors.torch.load(safetensors.torch.save(separate)))
    expected, expected_state = bench.run(batches(2, seed=5), state)
    outputs, ended = other.run(batches(2, seed=5), restored)

    assert all(torch.equal(a.probabilities, b.probabilities) for a, b in zip(expected, outputs, strict=True))
    assert_same(expected_state, ended)


@every_pipeline
def test_streams_do_not_interfere(spec, options, make):
    bench = Bench(spec, options, make)
    alone = [bench.run(batches(3, seed=seed)) for seed in (1, 2)]
    states = [bench.fresh(), bench.fresh()]
    outputs = [[], []]

    for step in range(3):
        for stream in (0, 1):
            x = batches(3, seed=stream + 1)[step]
            output, states[stream] = bench.adapter.step(bench.prepared, states[stream], x)
            outputs[stream].append(output)

    for stream in (0, 1):
        pairs = zip(alone[stream][0], outputs[stream], strict=True)
        assert all(torch.equal(a.probabilities, b.probabilities) for a, b in pairs)
        assert_same(alone[stream][1], states[stream])


@every_pipeline
def test_reset_equals_fresh(spec, options, make):
    bench = Bench(spec, options, make)
    bench.run(batches(3))

    assert_same(bench.fresh(), Bench(spec, options, make).fresh())
    assert int(bench.fresh().steps) == 0


@every_pipeline
def test_predict_and_probe_do_not_learn(spec, options, make):
    bench = Bench(spec, options, make)
    _, state = bench.run(batches(2))
    before = {name: tensor.clone() for name, tensor in flatten(state).items()}

    for answer in (bench.adapter.predict, bench.adapter.probe):
        first = answer(bench.prepared, state, batches(1, seed=4)[0])
        answer(bench.prepared, state, batches(1, seed=7)[0])
        again = answer(bench.prepared, state, batches(1, seed=4)[0])
        assert torch.equal(first.probabilities, again.probabilities)

    assert all(torch.equal(before[name], tensor) for name, tensor in flatten(state).items())


@every_pipeline
def test_the_state_round_trips_through_named_tensors(spec, options, make):
    bench = Bench(spec, options, make)
    _, state = bench.run(batches(2))

    assert_same(state, unflatten(bench.fresh(), flatten(state)))
    for name in flatten(state):
        with pytest.raises(StateError, match="lacks"):
            unflatten(bench.fresh(), {key: value for key, value in flatten(state).items() if key != name})


@every_pipeline
def test_the_state_is_bounded(spec, options, make):
    bench = Bench(spec, options, make)
    _, early = bench.run(batches(2))
    _, late = bench.run(batches(6, seed=3), early)

    assert size_bytes(late) == size_bytes(early) == size_bytes(bench.fresh())
    assert int(late.steps) == 8


@every_pipeline
def test_a_probability_row_sums_to_one_and_signals_are_finite_scalars(spec, options, make):
    bench = Bench(spec, options, make)
    outputs, _ = bench.run(batches(3))

    for output in outputs:
        torch.testing.assert_close(output.probabilities.sum(1), torch.ones(6), atol=1e-5, rtol=0)
        assert {"entropy", "drift"} <= set(output.signals)
        assert all(signal.dim() == 0 and torch.isfinite(signal) for signal in output.signals.values())


EXTREMES = {
    "one_image": torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)),
    "one_constant_image": torch.full((1, 3, 16, 16), 0.5),
    "constant_images": torch.zeros(4, 3, 16, 16),
    "duplicates": torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)).repeat(7, 1, 1, 1),
    "huge_values": torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 1e4,
}


@pytest.mark.parametrize("x", [pytest.param(x, id=name) for name, x in EXTREMES.items()])
@every_pipeline
def test_extreme_batches_give_finite_answers_and_a_finite_state(spec, options, make, x):
    bench = Bench(spec, options, make)

    outputs, state = bench.run([x, *batches(1), x])

    assert all(torch.isfinite(output.probabilities).all() for output in outputs)
    assert is_finite(state)


@every_pipeline
def test_non_finite_input_reaches_neither_the_old_state_nor_a_snapshot(spec, options, make):
    bench = Bench(spec, options, make)
    _, state = bench.run(batches(1))
    expected, _ = bench.run(batches(1, seed=8), state)
    poison = batches(1, seed=2)[0].index_fill(0, torch.tensor([0]), torch.nan)

    _, poisoned = bench.adapter.step(bench.prepared, state, poison)
    outputs, _ = bench.run(batches(1, seed=8), state)

    assert torch.equal(expected[0].probabilities, outputs[0].probabilities)
    if not is_finite(poisoned):
        with pytest.raises(StateError, match="NaN"):
            unflatten(bench.fresh(), flatten(poisoned))


@every_pipeline
def test_the_source_model_is_never_touched(spec, options, make):
    bench = Bench(spec, options, make)
    untouched = bench.source.checksum()

    _, state = bench.run(batches(3))
    bench.adapter.predict(bench.prepared, state, batches(1)[0])

    assert bench.source.checksum() == untouched
    assert all(parameter.grad is None for parameter in bench.source.network.parameters())


@every_pure_pipeline
def test_a_pure_graph_step_vmaps_over_streams(spec, options, make):
    # In double precision: in single, Adam turns the rounding noise of a zero gradient into steps of the learning rate.
    bench = Bench(spec, options, make, in_form=models.in_double_precision)
    states = [bench.run(doubled(count, seed=count))[1] for count in (1, 2, 3)]
    xs = torch.stack(doubled(3, seed=11))
    template = states[0]

    def kernel(tensors, x):
        output, after = bench.adapter.kernel(bench.prepared, rebuild(template, tensors), x, {})
        return output.probabilities, flatten(after)

    stacked = {name: torch.stack([flatten(state)[name] for state in states]) for name in flatten(template)}
    grouped, after = torch.vmap(kernel)(stacked, xs)

    for index, state in enumerate(states):
        output, expected = bench.adapter.step(bench.prepared, state, xs[index])
        torch.testing.assert_close(grouped[index], output.probabilities, atol=1e-8, rtol=0)
        for name, tensor in flatten(expected).items():
            torch.testing.assert_close(after[name][index], tensor, atol=1e-8, rtol=1e-6)


@every_pipeline
def test_after_reset_a_pipeline_of_batch_statistics_predicts_as_the_source_model(spec, options, make):
    bench, source = Bench(spec, options, make), Bench("source", {}, make)
    starts_elsewhere = bench.adapter.spec.learner in {"ecotta", "rmt"} or bench.adapter.spec.output != "none"
    if bench.adapter.spec.normalizer not in {"source", "batch", "ema"} or starts_elsewhere:
        bench = source
    x = batches(1)[0]

    predicted = bench.adapter.predict(bench.prepared, bench.fresh(), x)
    expected = source.adapter.predict(source.prepared, source.fresh(), x)

    torch.testing.assert_close(predicted.logits, expected.logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "spec",
    [
        "source+tent",
        "source+eta",
        "source+rdumb",
        "source+sar",
        "source+eata",
        "source+roid",
        "source+rmt",
        "source+lame",
        "source+tent+lame",
        "source+rotta",
        "source+note",
    ],
)
def test_layer_norm_models_learn_under_source_statistics(spec):
    bench = Bench(spec, {}, models.vit_source)

    outputs, state = bench.run(batches(3, size=40))  # 120 images, so that the memories of 64 lead to an update

    assert is_finite(state)
    assert all(torch.isfinite(output.logits).all() for output in outputs)
    learned = [name for name in flatten(state) if "params/" in name]
    assert not learned or "learner" in learned[0]


UNFIT = [
    pytest.param("batch", models.vit_source, "batch replaces the statistics of batch-norm layers", id="batch on ViT"),
    pytest.param("tent", models.vit_source, "batch-norm", id="tent's default normalizer on ViT"),
    pytest.param("unmix_tns", models.vit_source, "unmix_tns", id="unmix_tns on ViT"),
    pytest.param("ema", models.plain_source, "this model has none", id="ema without norms"),
    pytest.param("source+tent", models.plain_source, "tent learns the weight and bias", id="tent without norms"),
    pytest.param("sar", models.last_stage_source, "this model has no others", id="sar with a last stage only"),
    pytest.param("source+lame", models.headless_source, "no linear layer", id="no features"),
    pytest.param(
        "tent",
        lambda: dataclasses.replace(models.reference_source(), opaque="it is an ONNX graph"),
        "it is an ONNX graph",
        id="tent on an opaque graph",
    ),
]


@pytest.mark.parametrize(("spec", "make", "reason"), UNFIT)
def test_an_unfit_model_is_refused_with_a_reason_before_the_first_request(spec, make, reason):
    with pytest.raises(UnfitModelError, match=reason):
        create(spec).prepare(make())


def test_every_part_has_a_case():
    tried = {name for spec in CASES for name in spec.split("+")} | {"none"}
    parts_there = {name: f"adapters/{kind}s/{name}.py" for kind in FOLDERS for name in parts(kind)}

    untried = {name: place for name, place in parts_there.items() if name not in tried}
    assert not untried, f'add to CASES in tests/conformance/cases.py a line such as "batch+NAME": {{}}, for {untried}'
    assert tried <= parts_there.keys(), "CASES in tests/conformance/cases.py names parts that are gone"


@pytest.mark.parametrize("part", [part for kind in FOLDERS for part in parts(kind).values()], ids=lambda p: p.__name__)
def test_every_part_says_what_it_remembers_and_needs_and_where_it_comes_from(part):
    assert part.remembers
    for word in ("Remembers:", "Needs:", "Example:", *(["Reference:"] if part.name != "none" else [])):
        assert word in part.__doc__, word
    assert kind_of(part) != "learner" or "nswer" in part.__doc__, "which prediction is returned"
    assert bool(part.paper) == (part.name != "none")
