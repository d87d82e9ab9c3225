"""Values that parts exchange: tensors by name, states, forward passes and answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from torch import Tensor

from adapters.state import Range

Params: TypeAlias = Mapping[str, Tensor]
"""Learned parameters by their name in the source model."""

Noise: TypeAlias = Mapping[str, Tensor]
"""Random tensors drawn outside the kernel, by name."""


@dataclass(frozen=True)
class PartState:
    """The state of one part: a frozen dataclass of tensors, or of mappings from names to such values.

    A state may come from a file. `ranges` and `check` refuse values that no stream can reach, because a step on them
    might fail or run forever.
    """

    ranges: ClassVar[Mapping[str, Range]] = {}
    """Ranges of tensors by field; an integer tensor without a range is a count."""

    def check(self) -> None:
        """Refuse values that contradict each other.

        Raises:
            StateError: If there are any; the message names them.
        """


@dataclass(frozen=True)
class Moments(PartState):
    """Mean and variance per channel, (C,) each: of one batch, or accumulated over the stream."""

    mean: Tensor
    var: Tensor


NormState: TypeAlias = Mapping[str, PartState]
"""A normalizer's statistics of one network copy, by layer name."""

CopyStates: TypeAlias = Mapping[str, NormState]
"""The norm state of each network copy (student, teacher, anchor) that a learner declares."""


@dataclass(frozen=True)
class Normalized:
    """A norm layer's output, and the batch moments if the normalizer computed them."""

    y: Tensor
    moments: Moments | None


@dataclass(frozen=True)
class Forward:
    """One forward pass: logits (N, C), features (N, d) that enter the classifier, and drift () or None if unknown.

    Drift is (N,) if the normalizer measures moments (N, C) of each image.
    """

    logits: Tensor
    features: Tensor
    drift: Tensor | None

    def by_stream(self) -> "list[Forward]":
        """Split a pass over several streams, stacked (S, ...), into one pass per stream; tensors own their memory."""
        parts = {
            name: [part.clone() for part in value.unbind()] for name, value in vars(self).items() if value is not None
        }
        drifts = parts.get("drift") or [None] * len(self.logits)
        return [Forward(*each) for each in zip(parts["logits"], parts["features"], drifts, strict=True)]


@dataclass(frozen=True)
class Imitated:
    """The result of `Net.imitate`: gradients by name, the observed pass and the new statistics."""

    grads: Params
    forward: Forward
    norm: NormState


Run: TypeAlias = Callable[[Params, NormState, Tensor], Forward]
"""A way to run the network without writing statistics: `net.forward` or `net.held`."""

Tensors: TypeAlias = Mapping[str, Tensor]
"""Any tensors by name."""

Differentiable: TypeAlias = Callable[[Params], tuple[Tensor, tuple[Tensors, ...]]]
"""Maps parameters to a loss () and to further tensors that the pass computed."""


@dataclass(frozen=True)
class StepOutput:
    """An answer: the network's logits (N, C), adjusted probabilities (N, C), and scalar signals by name."""

    logits: Tensor
    probabilities: Tensor
    signals: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A change detector's verdict on one value.

    Its fields are plain numbers: for one value at a time these are cheaper than tensors.

    Attributes:
        changed: Whether the detector reports a change.
        statistic: The detector's statistic; the detector's `update` defines it and its bound.
    """

    changed: bool
    statistic: float
