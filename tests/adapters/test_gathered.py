"""Learning from selected images alone equals learning from the whole batch with the others masked.

The gradients are the same sums in another order, so that they differ by rounding alone: relative to the largest number
of a tensor 1e-10 in double precision, and 1e-5 in single, which the server runs. SGD, since Adam turns the rounding
noise of a zero gradient into whole steps.
"""

import math

import pytest
import torch

from adapters import create
from adapters.functional.entropy import entropy_of_logits
from adapters.functional.selection import select, weighted_entropy
from adapters.state import flatten
from tests import models

RELATIVE = {torch.float64: 1e-10, torch.float32: 1e-5}
IMAGES = 12
SPECS = [
    pytest.param(f"{normalizer}+{learner}", options, id=f"{normalizer}+{learner}{'+options' if options else ''}")
    for learner in ("eta", "eata", "rdumb")
    for normalizer, options in (
        ("unmix_tns", {}),
        ("source", {}),
        ("ema", {}),
        ("alpha", {"alpha": {"of": "image"}}),
        ("note_iabn", {"note_iabn": {"shared": "running", "k": 0.5}}),
    )
]
every_spec = pytest.mark.parametrize(("spec", "options"), SPECS)


def images(count=IMAGES):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(3)).double()


class Bench:
    """An adapter whose learner selects the images below an entropy, and counts the images that it learns from."""

    def __init__(self, spec, options, e_margin=1.0, d_margin=1.0, in_form=models.in_double_precision):
        learner = spec.split("+")[1]
        filters = {"e_margin": e_margin, "d_margin": d_margin, "optimizer": "sgd", "lr": 0.1}
        self.adapter = create(spec, **options, **{learner: filters})
        self.prepared = self.adapter.prepare(in_form(models.calibrated(models.reference_source, self.adapter)))
        self.learned_from = []
        self._again = self.prepared.net.again

    def spied(self, monkeypatch):
        def again(params, before, after, x):
            self.learned_from.append(len(x))
            return self._again(params, before, after, x)

        monkeypatch.setattr(self.prepared.net, "again", again)
        return self

    def fresh(self):
        return self.adapter.init(self.prepared)

    def both(self, x, state):
        return self.adapter.step(self.prepared, state, x), self.adapter.kernel(self.prepared, state, x, {})


def margin_between(spec, options, x, count):
    """The margin, as a share of ln(classes), that so many images fall below."""
    bench = Bench(spec, options)
    output, _ = bench.adapter.step(bench.prepared, bench.fresh(), x)
    entropies = entropy_of_logits(output.logits).sort().values
    return float(entropies[count - 1] + entropies[count]) / 2 / math.log(10)


def assert_alike(one, other):
    found, wanted = ({"logits": output.logits, **output.signals, **flatten(after)} for output, after in (one, other))
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        allowed = RELATIVE.get(tensor.dtype, 0.0) * float(tensor.double().abs().max())
        assert found[name].dtype == tensor.dtype
        assert (found[name].double() - tensor.double()).abs().max() <= allowed, name


@every_spec
@pytest.mark.parametrize("selected", [1, 4, IMAGES - 1])
def test_a_part_of_the_batch_teaches_what_the_masked_batch_teaches(spec, options, selected, monkeypatch):
    x = images()
    bench = Bench(spec, options, margin_between(spec, options, x, selected)).spied(monkeypatch)

    gathered, masked = bench.both(x, bench.fresh())

    assert bench.learned_from == [selected]
    assert round(float(gathered[0].signals["selected_ratio"]) * IMAGES) == selected
    assert_alike(gathered, masked)


@pytest.mark.parametrize("spec", ["unmix_tns+eata", "source+eta", "ema+rdumb"])
def test_a_part_teaches_alike_in_single_precision(spec):
    x = images()
    bench = Bench(spec, {}, margin_between(spec, {}, x, 4), in_form=lambda source: source)

    gathered, masked = bench.both(x.float(), bench.fresh())

    assert round(float(gathered[0].signals["selected_ratio"]) * IMAGES) == 4
    assert_alike(gathered, masked)


@every_spec
def test_all_images_teach_alike_step_after_step(spec, options):
    bench = Bench(spec, options)
    state = bench.fresh()

    for x in images(4 * IMAGES).split(IMAGES):
        gathered, masked = bench.both(x, state)
        assert gathered[0].signals["selected_ratio"] > 0.9
        assert_alike(gathered, masked)
        state = gathered[1]


@every_spec
def test_nothing_selected_moves_neither_parameters_nor_moments_nor_their_count(spec, options, monkeypatch):
    bench = Bench(spec, options)
    state = bench.adapter.step(bench.prepared, bench.fresh(), images())[1]
    bench = Bench(spec, options, e_margin=0.0).spied(monkeypatch)

    gathered, masked = bench.both(images(), state)

    assert bench.learned_from == []
    assert gathered[0].signals["selected_ratio"] == 0
    before = flatten(state.learner)
    for name, tensor in flatten(gathered[1].learner).items():
        assert name == "count" or torch.equal(tensor, before[name]), name
    assert_alike(gathered, masked)


@every_spec
@pytest.mark.parametrize(
    "x", [pytest.param(images(1), id="one_image"), pytest.param(images(1).repeat(7, 1, 1, 1), id="duplicates")]
)
def test_one_image_and_its_duplicates_teach_alike(spec, options, x):
    bench = Bench(spec, options)

    assert_alike(*bench.both(x, bench.fresh()))


@pytest.mark.parametrize("spec", ["batch+eta", "rotta_bn+eta", "alpha+eta", "note_iabn+eta"])
def test_images_that_depend_on_their_batch_mates_stay_in_their_batch(spec, monkeypatch):
    bench = Bench(spec, {}).spied(monkeypatch)

    assert not bench.prepared.net.separable
    bench.adapter.step(bench.prepared, bench.fresh(), images())

    assert bench.learned_from == []


def test_the_loss_of_the_selected_images_is_that_of_the_batch():
    logits = torch.randn(IMAGES, 10, generator=torch.Generator().manual_seed(0)) * 3
    whole = select(logits, torch.zeros(10), torch.tensor(False), e_margin=1.0, d_margin=0.5)

    assert 0 < whole.mask.sum() < IMAGES
    torch.testing.assert_close(weighted_entropy(logits[whole.mask], 1.0), whole.loss)
