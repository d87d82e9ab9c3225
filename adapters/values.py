"""What parts give each other: tensors by name, states, passes and answers."""

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
    """What one part remembers: a frozen dataclass of tensors, or of mappings from names to such values.

    A state may come from a file. `ranges` and `check` say which values no stream can have reached, so that no step
    fails on them or runs without end.
    """

    ranges: ClassVar[Mapping[str, Range]] = {}
    """Ranges of tensors by field; integers without one are counts."""

    def check(self) -> None:
        """Refuse values that contradict each other.

        Raises:
            StateError: Saying which.
        """


@dataclass(frozen=True)
class Moments(PartState):
    """Mean and variance per channel, (C,) each: of a batch, or remembered of the stream."""

    mean: Tensor
    var: Tensor


NormState: TypeAlias = Mapping[str, PartState]
"""A normalizer's statistics of one network copy, by layer name."""

CopyStates: TypeAlias = Mapping[str, NormState]
"""The norm state of each network copy (student, teacher, anchor) that a learner declares."""


@dataclass(frozen=True)
class Normalized:
    """A norm layer's output, and the batch moments where the normalizer computed them on the way."""

    y: Tensor
    moments: Moments | None


@dataclass(frozen=True)
class Forward:
    """One pass: logits (N, C), features (N, d) that enter the classifier, drift () or None where it cannot be told.

    Drift is (N,) where the normalizer measures each image's moments (N, C) alone.
    """

    logits: Tensor
    features: Tensor
    drift: Tensor | None

    def by_stream(self) -> "list[Forward]":
        """Take apart a pass over several streams, stacked (S, ...), into tensors that own their memory."""
        kept = {
            name: [part.clone() for part in value.unbind()] for name, value in vars(self).items() if value is not None
        }
        drifts = kept.get("drift") or [None] * len(self.logits)
        return [Forward(*each) for each in zip(kept["logits"], kept["features"], drifts, strict=True)]


@dataclass(frozen=True)
class Imitated:
    """What an observed pass that is to answer like another one gives: gradients by name, itself, the new statistics."""

    grads: Params
    forward: Forward
    norm: NormState


Run: TypeAlias = Callable[[Params, NormState, Tensor], Forward]
"""A way to run the network without writing statistics: `net.forward` or `net.held`."""

Tensors: TypeAlias = Mapping[str, Tensor]
"""Any tensors by name."""

Differentiable: TypeAlias = Callable[[Params], tuple[Tensor, tuple[Tensors, ...]]]
"""Maps parameters to a loss () and to what else came of it."""


@dataclass(frozen=True)
class StepOutput:
    """An answer: the network's logits (N, C), adjusted probabilities (N, C), and scalar signals by name."""

    logits: Tensor
    probabilities: Tensor
    signals: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a change detector says of one value.

    Plain numbers, as detectors compute them: for one value at a time they are cheaper than tensors.

    Attributes:
        changed: Whether the detector reports a change.
        statistic: The detector's statistic; its `update` says of what, and above which bound a change is reported.
    """

    changed: bool
    statistic: float
