"""Every part on networks of many kinds: right, or refused in words."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from adapters import SourceModel, create
from adapters.errors import UnfitModelError
from adapters.network.source_observer import Watch
from adapters.registry import FOLDERS, parts, pipelines_of
from adapters.state import is_finite
from tests.models import source_images
from tests.networks import CLASSES, NETWORKS, SHAPE, trained

SPECS = {
    "source": {},
    "batch": {},
    "alpha": {},
    "ema": {},
    "unmix_tns": {"unmix_tns": {"components": 4}},
    "rotta_bn": {},
    "note_iabn": {},
    "source+lame": {},
    "batch+roid_prior": {},
    "batch+tent": {},
    "source+tent": {},
    "ema+eta": {"eta": {"e_margin": 0.99}},
    "batch+eata": {"eata": {"e_margin": 0.99}},
    "batch+sar": {"sar": {"e_margin": 0.99}},
    "batch+rdumb": {"rdumb": {"e_margin": 0.99}},
    "batch+cotta": {"cotta": {"augmentations": 2, "threshold": 1.0}},
    "batch+ecotta": {"ecotta": {"warm_up_epochs": 1, "parts": "0"}},
    "rotta_bn+rotta": {"rotta": {"capacity": 4, "period": 4}},
    "note_iabn+note": {"note": {"capacity": 4, "period": 4}},
    "batch+roid": {},
    "batch+rmt": {},
    "auto": {"auto": {"decide_after": 4}},
}
NARROW = {torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Of the largest logit: float32, in which such networks are computed, is apart from them by their own rounding."""


@cache
def network(name):
    return trained(NETWORKS[name])


def source(name):
    return SourceModel(network(name), SHAPE, CLASSES)


def batches(count=2, size=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(size, *SHAPE, generator=generator) for _ in range(count)]


def as_shipped(name, x):
    own = next((p.dtype for p in network(name).parameters()), torch.float32)
    with torch.no_grad():
        return network(name)(x.to(own)), NARROW.get(own, 1e-5)


def refusal(adapter, outside):
    """What a refusal speaks of; "" where the network is served."""
    if outside.refused:
        return f"{outside.refused}|this model has none"
    if str(adapter.spec) == "auto":
        return ""
    needs = [part.needs for part in adapter.parts]
    if any(need.batch_norm for need in needs) and not outside.norms:
        return "statistics of batch-norm layers"
    return "weight and bias of norm layers" if any(n.affine for n in needs) and not outside.affine else ""


def prepared(adapter, model):
    """Fit an adapter to a model, with the source artefact that it cannot do without."""
    learner = pipelines_of(adapter)[0].learner
    if not learner.needs.artefacts:
        return adapter.prepare(model)
    made = adapter.calibrate(model, source_images(model, 8), 4, lambda _: None)
    return adapter.prepare(
        replace(model, artefacts={f"{learner.artefact}.{name}": each for name, each in made.items()})
    )


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_part_serves_a_network_or_refuses_it_in_words(name, spec):
    outside = NETWORKS[name]
    adapter = create(
        spec, **{part: {**options, **outside.options.get(part, {})} for part, options in SPECS[spec].items()}
    )
    model = source(name)
    untouched = "" if outside.refused else model.checksum()
    said = refusal(adapter, outside)
    if said:
        with pytest.raises(UnfitModelError, match=said):
            prepared(adapter, model)
        return

    fit = prepared(adapter, model)
    state, answers = adapter.init(fit), []
    for x in batches():
        output, state = adapter.step(fit, state, x)
        answers.append(output)
    answers.append(adapter.predict(fit, state, batches(1, size=1)[0]))

    assert all(bool(torch.isfinite(each.logits).all()) for each in answers)
    assert all(torch.allclose(each.probabilities.sum(1), torch.ones((), dtype=each.logits.dtype)) for each in answers)
    assert is_finite(state)
    assert model.checksum() == untouched


@pytest.mark.parametrize("spec", ["source", "source+lame", "batch", "ema", "rotta_bn", "batch+tent", "auto"])
@pytest.mark.parametrize("name", [name for name, outside in NETWORKS.items() if not outside.refused])
def test_a_network_is_answered_as_it_was_shipped_before_anything_is_learned(name, spec):
    adapter, model = create(spec), source(name)
    if refusal(adapter, NETWORKS[name]):
        pytest.skip("refused, as the test above shows")
    fit = adapter.prepare(model)

    for x in batches():
        answer = adapter.predict(fit, adapter.init(fit), x) if spec != "auto" else Watch(model, 8).look({}, x)[0]
        wanted, tolerance = as_shipped(name, x)
        assert float((answer.logits - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


@pytest.mark.parametrize("name", [name for name, outside in NETWORKS.items() if not outside.refused])
def test_the_frozen_model_looks_at_any_network_at_any_batch_size(name):
    watch = Watch(source(name), 8)
    seen = watch.initial

    for size in (1, 2, 5):
        look, seen = watch.look(seen, batches(1, size=size)[0])
        assert bool(torch.isfinite(look.logits).all())
        assert bool(torch.isfinite(look.distance))


def test_every_part_is_tried():
    tried = {name for spec in SPECS for name in spec.split("+")} | {"none"}
    assert {name for kind in FOLDERS for name in parts(kind)} == tried
