"""EcoTTA: where its meta networks go, what they cost, and that recomputing parts changes nothing but memory."""

import dataclasses
import weakref
from collections import Counter

import pytest
import torch
from torch import nn

from adapters import SourceImages, SourceModel, create
from adapters.errors import UnfitModelError
from adapters.learning.checkpointing import Recomputed
from adapters.learning.meta_networks import MetaPart, attach, divided, stages
from benchmarks.resnet20 import ResNet20
from tests.models import reference_source, vit_source

PARTS = {"parts": "3+4+5,6+7+8", "warm_up_epochs": 1}


def images(count=64, side=16, classes=10):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    return SourceImages(pixels, torch.arange(count) % classes)


def resnet20():
    torch.manual_seed(0)
    return SourceModel(ResNet20().eval(), (3, 32, 32), 10, features="linear")


def warmed(source, side=16, **options):
    """The model with ecotta's artefact, and the adapter."""
    adapter = create("ecotta", ecotta={"warm_up_epochs": 1, **options})
    made = adapter.calibrate(source, images(side=side), 32, lambda _: None)
    return dataclasses.replace(source, artefacts={f"ecotta.{name}": p for name, p in made.items()}), adapter


def test_blocks_of_a_resnet_are_found_by_stage_and_halved_at_the_shallow_end():
    found = stages(ResNet20())

    assert found == [[f"layer{stage}.{block}" for block in range(3)] for stage in (1, 2, 3)]
    assert [len(part) for part in divided(found, 5)] == [2, 1, 2, 1, 3]
    with pytest.raises(UnfitModelError, match=r"expected 3 \(one per stage\) to 9"):
        divided(found, 10)


def test_one_part_per_stage_adds_less_than_a_tenth_of_the_model():
    source, adapter = warmed(resnet20(), 32)
    state = adapter.init(adapter.prepare(source))

    meta = sum(p.numel() for p in state.learner.params.values())
    assert meta == 9 * (16 * 16 + 16 * 32 + 32 * 64) + 4 * (16 + 32 + 64)
    assert meta / sum(p.numel() for p in source.network.parameters()) < 0.1


def test_attached_networks_leave_the_frozen_weights_shared_and_as_they_were():
    source = reference_source()
    twin = source.shared_copy()
    before = torch.random.get_rng_state()

    attach(twin, (3, 16, 16), PARTS["parts"], 0)

    assert torch.equal(before, torch.random.get_rng_state())
    wrapped = [module for module in twin.modules() if isinstance(module, MetaPart)]
    assert [part.conv.stride for part in wrapped] == [(2, 2), (1, 1)]
    assert wrapped[0].frozen[0].weight.data_ptr() == source.network[3].weight.data_ptr()


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ("", "finds no stages"),
        ("nowhere", "names 'nowhere'"),
        ("9+10", "must map images to images"),
    ],
)
def test_parts_that_cannot_be_are_refused_with_a_reason(parts, reason):
    with pytest.raises(UnfitModelError, match=reason):
        create("ecotta", ecotta={"parts": parts}).calibrate(reference_source(), images(), 32, lambda _: None)


def test_a_model_without_stages_or_warm_up_is_refused():
    with pytest.raises(UnfitModelError, match="needs the source artefact 'ecotta'"):
        create("ecotta").prepare(reference_source())
    with pytest.raises(UnfitModelError, match="finds no stages"):
        create("source+ecotta").calibrate(vit_source(), images(classes=7), 32, lambda _: None)
    unlabelled = dataclasses.replace(images(), labels=torch.zeros(0, dtype=torch.int64))
    with pytest.raises(UnfitModelError, match="have no labels"):
        create("ecotta", ecotta=PARTS).calibrate(reference_source(), unlabelled, 32, lambda _: None)


def test_warming_up_learns_the_source_labels_and_repeats_exactly():
    adapter = create("ecotta", ecotta={**PARTS, "warm_up_epochs": 6})
    data = images(classes=2)
    shares = []

    made = adapter.calibrate(reference_source(), data, 32, shares.append)
    again = adapter.calibrate(reference_source(), data, 32, lambda _: None)

    assert sum(shares) == pytest.approx(1)
    assert all(torch.equal(p, again[name]) for name, p in made.items())
    source = dataclasses.replace(reference_source(), artefacts={f"ecotta.{name}": p for name, p in made.items()})
    prepared = adapter.prepare(source)
    inputs = data.images.float() / 255

    def loss(adapter, prepared):
        logits = adapter.probe(prepared, adapter.init(prepared), inputs).logits
        return float(nn.functional.cross_entropy(logits, data.labels))

    batch = create("batch")
    assert loss(adapter, prepared) < loss(batch, batch.prepare(source))


def test_recomputing_a_part_gives_the_gradient_of_the_plain_form():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    x = torch.rand(5, 3, 8, 8, requires_grad=True)

    expected = torch.autograd.grad(body(x).square().sum(), [x, *body.parameters()])
    found = torch.autograd.grad(Recomputed(body)(x).square().sum(), [x, *body.parameters()])

    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)  # single precision, sums in another order


@pytest.mark.parametrize("normalizer", ["batch", "unmix_tns", "ema", "source"])
def test_a_recomputed_pass_reads_the_same_statistics_as_the_pass_itself(normalizer):
    """Without its surroundings the second run of a part would fall back to source statistics."""
    source, _ = warmed(reference_source(), parts=PARTS["parts"])
    adapter = create(f"{normalizer}+ecotta", ecotta=PARTS)
    net = adapter.prepare(source).net
    state = adapter.init(adapter.prepare(source))
    x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    _, norm = net.observe(state.learner.params, state.norm["student"], x)

    def gradients():
        leaves = {name: p.detach().requires_grad_() for name, p in state.learner.params.items()}
        return torch.autograd.grad(net.forward(leaves, norm, x).logits.square().sum(), list(leaves.values()))

    recomputed = gradients()
    for module in net.added.values():
        if isinstance(module, Recomputed):
            module.forward = module.body.forward  # the plain form
    for one, other in zip(recomputed, gradients(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_each_part_is_pulled_by_its_own_distance_alone():
    source, adapter = warmed(reference_source(), parts=PARTS["parts"])
    prepared = adapter.prepare(source)
    state = adapter.init(prepared)
    x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    held, _, _, distance = adapter.learner._distilled(prepared.net, state.learner, state.norm["student"], x)
    again = adapter.learner._distilled(prepared.net, held, state.norm["student"], x)[3]

    assert float(distance) > 0
    assert float(again) < float(distance)


def test_nothing_reliable_takes_the_first_step_alone():
    source, _ = warmed(reference_source(), parts=PARTS["parts"])
    adapter = create("ecotta", ecotta={**PARTS, "e_margin": 0.0})
    prepared = adapter.prepare(source)

    output, after = adapter.step(prepared, adapter.init(prepared), torch.rand(8, 3, 16, 16))

    assert float(output.signals["selected_ratio"]) == 0
    assert int(after.learner.optimizer.count) == 1


class Saved:
    """Counts the bytes that autograd keeps for backward passes, each storage once, and their peak."""

    def __init__(self, weights):
        self.peak, self.weights, self.holders = 0, weights, Counter()

    def pack(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self.weights:
            return tensor
        kept = (storage.data_ptr(), storage.nbytes())
        self.holders[kept] += 1
        self.peak = max(self.peak, sum(size for (_, size), count in self.holders.items() if count))
        holder = Holder(tensor)
        weakref.finalize(holder, self.holders.subtract, [kept])
        return holder

    def unpack(self, held):
        return held.tensor if isinstance(held, Holder) else held


class Holder:
    def __init__(self, tensor):
        self.tensor = tensor


def saved_by(step, network):
    """Peak bytes of activations kept while a function runs; weights, which are there anyway, are not counted."""
    saved = Saved({p.untyped_storage().data_ptr() for p in network.parameters()})
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        step()
    return saved.peak


def test_the_whole_step_keeps_at_most_half_of_the_activations_that_cotta_keeps():
    source, adapter = warmed(resnet20(), 32)
    x = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    prepared = adapter.prepare(source)
    state = adapter.init(prepared)
    cotta = create("cotta").prepare(source)

    def cotta_gradient():
        leaves = {name: p.detach().requires_grad_() for name, p in cotta.net.weights.items()}
        with torch.enable_grad():
            cotta.net.observe(leaves, cotta.net.initial_norm, x)[0].logits.sum().backward()

    ours = saved_by(lambda: adapter.step(prepared, state, x), source.network)
    theirs = saved_by(cotta_gradient, source.network)

    assert 60e6 < theirs < 130e6  # what the student's pass keeps: measured 97 MB elsewhere
    assert ours <= theirs / 2, f"{ours / 1e6:.1f} MB against {theirs / 1e6:.1f} MB"
