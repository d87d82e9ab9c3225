"""Kernels of every kind: refused with a reason if they answer or learn wrongly, fail, or are slower."""

from dataclasses import dataclass, replace
from time import sleep
from typing import ClassVar

import pytest
import torch

from adapters import create
from adapters.state import flatten, rebuild
from adapters.values import StepOutput
from service.models.bundle import read_bundle
from service.models.hosted import host
from service.models.kernels.kernel import GRAPH, JOINT, MACHINE_CODE, JointSteps, KernelStatus, OwnSteps
from service.models.kernels.verify import judge, status_of, verify
from service.serving.stream_batching import SIZES, judge_joint
from tests.bundles import FACTORY, torch_bundle, tripwire_bundle
from tests.models import reference_source

KINDS = (GRAPH, MACHINE_CODE, JOINT)


@pytest.fixture(scope="module")
def own():
    adapter = create("unmix_tns+eta", eta={"e_margin": 1.0, "d_margin": 1.0, "lr": 0.05})
    return OwnSteps(adapter, adapter.prepare(reference_source()))


def kernel_like(kind, own, change):
    """A kernel of a kind that takes the pipeline's own steps and changes what they return."""

    @dataclass
    class Changed:
        kind: ClassVar = None

        def steps(self, states, xs):
            return [change(output, state) for output, state in own.steps(states, xs)]

    Changed.kind = kind
    return Changed()


def judged(kernel, own, against=None):
    """Judge a kernel on two steps of two streams."""
    xs = [torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    return judge(kernel, against or own, [own.fit.initial] * 2, [xs[:2], xs[2:]], xs[:2], (2,))


def answers(output, change):
    return StepOutput(output.logits, change(output.probabilities), output.signals)


def parameters(state, change):
    learned = {name: change(tensor) for name, tensor in state.learner.learning.params.items()}
    return replace(state, learner=replace(state.learner, learning=replace(state.learner.learning, params=learned)))


def larger(norm):
    return rebuild(norm, {name: tensor * 1.01 for name, tensor in flatten(norm).items()})


def raises(output, state):
    raise RuntimeError("out of luck")


def slowly(output, state):
    sleep(0.2)
    return output, state


WRONG = {
    "answers wrong": (lambda output, state: (answers(output, lambda p: p.roll(1, 1)), state), "probabilities are "),
    "answers NaN": (lambda output, state: (answers(output, lambda p: p * torch.nan), state), "probabilities are nan "),
    "answers NaN in one image": (
        lambda output, state: (answers(output, lambda p: torch.cat([p[:-1], p[-1:] * torch.nan])), state),
        "probabilities are nan ",
    ),
    "logits wrong": (
        lambda output, state: (StepOutput(output.logits * 1.1, output.probabilities, output.signals), state),
        "logits are ",
    ),
    "signals missing": (
        lambda output, state: (StepOutput(output.logits, output.probabilities, {}), state), "signals are not ",
    ),
    "statistics wrong": (
        lambda output, state: (output, replace(state, norm=larger(state.norm))), "state is not ",
    ),
    "steps not counted": (lambda output, state: (output, replace(state, steps=state.steps - 1)), "state is not "),
    "learns NaN": (lambda output, state: (output, parameters(state, lambda w: w * torch.nan)), " is not "),
    "raises": (raises, "it fails: RuntimeError: out of luck"),
    "is slower": (slowly, "for 2 streams it takes "),
}  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), [pytest.param(*case, id=name) for name, case in WRONG.items()])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kernel_that_is_wrong_fails_or_is_slower_is_refused_with_a_reason(own, kind, change, reason):
    status = judged(kernel_like(kind, own, change), own)

    assert status.reason.startswith(f"{kind.name} is not used: ")
    assert reason in status.reason
    assert status.kernel is status.serving(100) is None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kernel_that_learns_too_little_is_refused(own, kind):
    """The answers agree, and the parameters are as near to the pipeline's as an unmoved one's are."""
    initial = own.fit.initial.learner.learning.params
    kernel = kernel_like(kind, own, lambda output, state: (output, parameters(state, lambda w: w)))
    xs = [own.fit.net.value_range[1] * torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))]
    halved = kernel_like(kind, own, lambda output, state: (output, _halfway(state, initial)))

    assert verify(kernel, own, [own.fit.initial], [xs]) == ""
    assert verify(halved, own, [own.fit.initial], [xs]) != ""


def _halfway(state, initial):
    learned = state.learner.learning.params
    halves = {name: (tensor + initial[name]) / 2 for name, tensor in learned.items()}
    return replace(state, learner=replace(state.learner, learning=replace(state.learner.learning, params=halves)))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kernel_that_is_right_and_faster_serves(own, kind):
    slow = kernel_like(kind, own, slowly)
    status = judged(kernel_like(kind, own, lambda output, state: (output, state)), own, slow)

    assert (status.reason, status.least, status.times > 1) == ("", 2, True)
    assert status.serving(1) is None
    assert status.serving(2) is status.kernel


def test_a_joint_step_takes_as_many_streams_as_pay_with_all_larger_numbers(own):
    joint = JointSteps(own)
    assert status_of(joint, {16: 4.0, 8: 4.0, 4: 5.0, 2: 1.0}) == KernelStatus("", joint, 4, 4.0)
    assert status_of(joint, {16: 4.0, 8: 1.0, 4: 5.0}).least == 16
    assert status_of(joint, {16: 1.0}) == KernelStatus(
        "the joint step is not used: for 16 streams it takes 1.0 times as long", times=1.0
    )


def test_the_graph_alone_serves_if_it_is_about_as_fast(own):
    kernels = [kernel_like(kind, own, None) for kind in KINDS]
    assert [bool(status_of(kernel, {1: 1.0}).kernel) for kernel in kernels] == [True, False, False]
    assert [bool(status_of(kernel, {1: 0.9}).kernel) for kernel in kernels] == [False, False, False]


class Off(JointSteps):
    """A joint step that is not the streams' own steps."""

    def steps(self, states, xs):
        return super().steps(states, [x + 0.5 for x in xs])


def test_steps_that_differ_when_taken_together_or_cannot_be_are_never_taken_so(tmp_path):
    xs = list(torch.rand(max(SIZES), 1, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    fitted = host(read_bundle(torch_bundle(tmp_path / "reference")), [FACTORY], 1).fit("unmix_tns", {})
    branching = host(read_bundle(tripwire_bundle(tmp_path / "tripwire")), ["tests.models:Tripwire"], 1)
    failing = branching.fit("batch+tent", {})

    off = judge_joint(Off(fitted.kernels.can.own), fitted, xs)
    fails = judge_joint(failing.kernels.joint, failing, xs)

    assert off.reason.startswith("the joint step is not used: after 0 steps its ")
    assert fails.reason.startswith("the joint step is not used: it fails: RuntimeError")
