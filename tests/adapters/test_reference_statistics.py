"""Reference statistics: they are those of the source images, keep the network's function, and are what methods use."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from adapters import SourceImages, SourceModel, create
from adapters.errors import UnfitModelError
from adapters.joint_step import step_together
from adapters.network.reference_pass import measure_reference
from adapters.network.reference_statistics import REFERENCE, with_reference
from adapters.network.source_observer import Watch
from adapters.source import as_stored
from tests.models import reference_source
from tests.networks import CLASSES, NETWORKS, SHAPE, trained

SPECS = ("source", "ema", "rotta_bn+eta", "note_iabn+lame", "batch+tent", "alpha")


def referenced(source, x):
    return with_reference(source, measure_reference(source, torch.split(x, 5)))


@pytest.fixture(scope="module")
def source():
    return reference_source()


@pytest.fixture(scope="module")
def x(source):
    return torch.rand(24, *source.input_shape, generator=torch.Generator().manual_seed(0)) * 0.4


def inputs_of_norms(source, x):
    seen, network = {}, source.shared_copy()
    norms = {name: m for name, m in network.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    hooks = [m.register_forward_pre_hook(lambda _, i, n=n: seen.update({n: i[0]})) for n, m in norms.items()]
    with torch.no_grad():
        network(source.standardized(x))
    for hook in hooks:
        hook.remove()
    return seen


def test_the_reference_is_the_moments_of_each_layers_inputs_over_all_images(source, x):
    measured = measure_reference(source, torch.split(x, 5))  # the last batch has 4

    for name, inputs in inputs_of_norms(source, x).items():
        values = inputs.double().transpose(0, 1).flatten(1)
        torch.testing.assert_close(measured.pop(f"{name}.mean"), values.mean(1).float())
        torch.testing.assert_close(measured.pop(f"{name}.var"), values.var(1, correction=0).float())
    assert measured == {}


def test_measuring_again_under_a_reference_gives_the_same(source, x):
    first, second = measure_reference(source, [x]), measure_reference(referenced(source, x * 0.5), [x])

    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("spec", SPECS)
def test_the_first_answer_under_source_statistics_does_not_change(source, x, spec):
    answers = []
    for model in (source, referenced(source, x)):
        adapter = create(spec)
        fit = adapter.prepare(model)
        answers.append(adapter.probe(fit, adapter.init(fit), x[:1]) if spec == "source" else fit.net.held({}, {}, x))
    # One scale and one shift per channel, rounded in another order: 1e-6 of the logits here.
    torch.testing.assert_close(answers[0].logits, answers[1].logits, rtol=1e-4, atol=1e-5)


def test_source_images_are_where_batch_statistics_and_the_source_agree(source, x):
    """All source images as one batch have the reference's moments, so `batch` answers them as the source does."""
    model = referenced(source, x)
    adapter = create("batch")
    fit = adapter.prepare(model)
    expected = fit.net.held({}, {}, x).logits

    output, _ = adapter.step(fit, adapter.init(fit), x)

    before = create("batch").prepare(source)
    plain, _ = adapter.step(before, adapter.init(before), x)
    torch.testing.assert_close(output.logits, expected, rtol=1e-3, atol=1e-3)
    assert float(output.signals["drift"]) < 1e-6
    assert float((plain.logits - expected).abs().max()) > 0.1
    assert float(plain.signals["drift"]) > 0.01


def test_the_observer_measures_distances_from_the_reference(source, x):
    for model, near in ((source, False), (referenced(source, x), True)):
        watch = Watch(model, 64)
        look, seen = watch.look(watch.initial, x)
        assert (float(look.distance) < 1e-6) is near
        assert all((float(layer.kl) < 1e-4) is near for layer in watch.layers(seen).values())


def test_learned_parameters_are_those_of_the_network(source, x):
    """A state of before the reference was measured stays valid: parameters keep their names, shapes and meaning."""
    adapter = create("batch+tent")
    fits = [adapter.prepare(model) for model in (source, referenced(source, x))]
    states = [adapter.init(fit) for fit in fits]

    assert all(
        torch.equal(one, other)
        for one, other in zip(states[0].learner.params.values(), states[1].learner.params.values(), strict=True)
    )
    _, learned = adapter.step(fits[0], states[0], x)
    held = [fit.net.held(learned.learner.params, {}, x).logits for fit in fits]
    torch.testing.assert_close(held[0], held[1], rtol=1e-4, atol=1e-5)


def test_several_streams_in_one_pass_have_the_answers_of_their_own(source, x):
    adapter = create("batch+eta")
    fit = adapter.prepare(referenced(source, x))
    _, learned = adapter.step(fit, adapter.init(fit), x[:8])
    states = [learned, adapter.init(fit)]
    batches = [x[:4], x[4:8]]

    together = step_together(adapter, fit, states, batches)

    for (output, _), state, batch in zip(together, states, batches, strict=True):
        torch.testing.assert_close(output.logits, adapter.step(fit, state, batch)[0].logits, rtol=1e-4, atol=1e-4)


def test_meta_networks_keep_the_reference_of_the_layers_that_they_wrap(source, x):
    model = referenced(source, x)
    adapter = create("batch+ecotta", ecotta={"parts": "0+1+2", "warm_up_epochs": 1})
    artefact = adapter.calibrate(model, _images(x), 8, lambda _: None)
    fit = adapter.prepare(
        replace(model, artefacts={**model.artefacts, **{f"ecotta.{k}": t for k, t in artefact.items()}})
    )
    own = [layer for layer in fit.net.layers.values() if not layer.added]

    stored = {name: tensor for name, tensor in model.artefacts.items() if name.endswith(".mean") and REFERENCE in name}
    assert len(own) == len(stored)
    assert sorted(float(layer.mean.sum()) for layer in own) == sorted(float(mean.sum()) for mean in stored.values())


def _images(x):
    return SourceImages(as_stored(x, (0.0, 1.0)), torch.arange(len(x)) % 10)


@pytest.mark.parametrize(
    ("name", "tensors", "expected"),
    [
        ("nowhere", (torch.zeros(4), torch.ones(4)), "name 'nowhere', expected a batch-norm layer"),
        ("1", (torch.zeros(3), torch.ones(3)), "expected (8,) each"),
        ("1", (torch.zeros(8), -torch.ones(8)), "variance of '1' is -1, expected >= 0"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(source, name, tensors, expected):
    artefacts = {f"{REFERENCE}.{name}.mean": tensors[0], f"{REFERENCE}.{name}.var": tensors[1]}

    with pytest.raises(UnfitModelError) as refused:
        create("ema").prepare(replace(source, artefacts=artefacts))

    assert expected in str(refused.value)


def test_layers_without_affine_parameters_and_of_one_value_keep_their_function():
    network = nn.Sequential(
        nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, CLASSES)
    ).eval()
    source = SourceModel(network, SHAPE, CLASSES)
    constant = torch.full((4, *SHAPE), 0.25)

    model = referenced(source, constant)

    fits = [create("ema").prepare(each) for each in (source, model)]
    one, other = (fit.net.held({}, {}, constant).logits for fit in fits)
    assert torch.isfinite(other).all()
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name, outside in NETWORKS.items() if not outside.refused])
def test_on_networks_of_many_kinds_the_function_stays_and_source_images_are_where_batch_agrees(name):
    source = SourceModel(trained(NETWORKS[name]), SHAPE, CLASSES).widened()
    x = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(1)) * 0.5

    model = referenced(source, x)

    before, after = (create("source").prepare(each).net.held({}, {}, x).logits for each in (source, model))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)  # rounding, in another order
    if NETWORKS[name].norms:
        fit = create("batch").prepare(model)
        output, _ = create("batch").step(fit, create("batch").init(fit), x)
        torch.testing.assert_close(output.logits, after, rtol=1e-3, atol=1e-4)
