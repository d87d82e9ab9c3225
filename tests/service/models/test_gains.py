"""Whether steps of several streams pay as one: judged by times, and only where they are the same steps."""

import torch

from service.models.batching_speedup import SIZES, Gain, Timed, judged, measured
from service.models.bundle import read_bundle
from service.models.hosted import host
from tests.bundles import FACTORY, torch_bundle, tripwire_bundle


def test_a_gain_is_judged_from_the_size_on_from_which_every_group_pays():
    assert judged(Timed([1.0] * 16, {2: 1.0, 4: 5.0, 8: 4.0, 16: 4.0})) == Gain(8, 4.0, "")
    assert judged(Timed([1.0] * 16, {2: 1.0, 4: 2.0, 8: 4.0, 16: 4.0})).least == 2
    assert judged(Timed([1.0] * 16, {16: 16.0})) == Gain(0, 1.0, "16 steps as one take 1.0 times as long as one by one")
    # A learner that learns from the last stream's image alone is not judged by the first one's step.
    assert judged(Timed([1.0] * 15 + [17.0], {2: 2.0, 16: 8.0})) == Gain(16, 4.0, "")


class Off:
    """A pipeline whose steps taken together are not those taken alone."""

    def __init__(self, fitted):
        self.initial, self.step = fitted.initial, fitted.step

    def step_together(self, states, xs):
        return [self.step(state, x + 0.5) for state, x in zip(states, xs, strict=True)]


def test_steps_that_differ_when_taken_together_or_cannot_be_are_never_taken_so(tmp_path):
    xs = list(torch.rand(max(SIZES), 1, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    model = host(read_bundle(torch_bundle(tmp_path / "reference")), [FACTORY], 1)
    branching = host(read_bundle(tripwire_bundle(tmp_path / "tripwire")), ["tests.models:Tripwire"], 1)

    off, failing = measured(Off(model.fit("unmix_tns", {})), xs), measured(branching.fit("batch+tent", {}), xs)

    assert (off.least, failing.least) == (0, 0)
    assert off.reason.startswith("probabilities differ by ")
    assert failing.reason == "the model's steps cannot be taken as one (RuntimeError)"
