"""The contracts: what a normalizer, a learner and an output adjuster promise each other.

A part is stateless: it holds its options and nothing else. What it learns is a value (a frozen dataclass of tensors)
that its functions take and return, so that reset, snapshot, replay and isolation follow from that one decision.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from adapters.errors import UnfitModelError
from adapters.options import Options
from adapters.source import SourceImages, SourceModel
from adapters.values import (
    CopyStates,
    Differentiable,
    Forward,
    Imitated,
    Noise,
    Normalized,
    NormState,
    Params,
    PartState,
    Run,
    Tensors,
)

S = TypeVar("S", bound=PartState)


class NormLayer(Protocol):
    """A batch-norm layer as a normalizer sees it; statistics and affine parameters are (C,).

    `spatial` tells whether inputs are (N, C, H, W), so that one image has statistics of its own.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def spatial(self) -> bool: ...  # noqa: D102
    @property
    def mean(self) -> Tensor: ...  # noqa: D102
    @property
    def var(self) -> Tensor: ...  # noqa: D102
    @property
    def weight(self) -> Tensor | None: ...  # noqa: D102
    @property
    def bias(self) -> Tensor | None: ...  # noqa: D102
    @property
    def eps(self) -> float: ...  # noqa: D102
    @property
    def momentum(self) -> float: ...  # noqa: D102


class Net(Protocol):
    """The network as a learner sees it: pure functions of (params, norm state, x) over shared frozen weights."""

    @property
    def classes(self) -> int:
        """How many logits."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One input's shape, without the batch dimension."""

    @property
    def value_range(self) -> tuple[float, float]:
        """Least and greatest value of an input."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and inputs."""

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """All parameters of the network by name: what learners of everything start from."""

    @property
    def affine(self) -> Mapping[str, Tensor]:
        """Weight and bias of all norm layers (batch, layer, group) by name: what norm-only learners start from."""

    @property
    def artefacts(self) -> Mapping[str, Tensor]:
        """The source artefacts by plain name, those that fit the normalizer."""

    @property
    def added(self) -> Mapping[str, torch.nn.Module]:
        """The modules that the learner has added to the network, by name."""

    @property
    def initial_norm(self) -> NormState:
        """The statistics of every layer that the normalizer handles, before any batch."""

    def observe(self, params: Params, norm: NormState, x: Tensor) -> tuple[Forward, NormState]:
        """Run x (N, ...) as the stream's next batch; return the pass and the new statistics."""

    def forward(self, params: Params, norm: NormState, x: Tensor) -> Forward:
        """Run an augmented, replayed or probe batch x (N, ...): statistics are read, never written."""

    def held(self, params: Params, norm: NormState, x: Tensor) -> Forward:
        """Answer x (N, ...) by remembered statistics alone."""

    @property
    def separable(self) -> bool:
        """Whether images may be picked out of a batch by what it answers, and run again by themselves (`again`).

        True where the normalizer keeps images independent and the step runs on the host, free to branch on data.
        """

    def again(self, params: Params, before: NormState, after: NormState, x: Tensor) -> Forward:
        """Run a part x (n, ...) of the batch that moved the statistics from `before` to `after`, as it was answered."""

    def imitate(self, params: Params, norm: NormState, x: Tensor, target: Tensor) -> Imitated:
        """Observe x (N, ...), and differentiate its cross-entropy with target probabilities (N, C) at params."""

    def gradient(self, of_params: Differentiable, params: Params) -> tuple[Params, tuple[Tensors, ...]]:
        """Differentiate a loss at params; return gradients by name and what else came of it, detached."""


class StreamsNet(Protocol):
    """The network as a learner sees it that serves S streams at once, by one pass over the N images of each.

    Parameters of norm layers and statistics are each stream's own, stacked (S, ...).
    """

    @property
    def classes(self) -> int:
        """How many logits."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and inputs."""

    @property
    def affine(self) -> Mapping[str, Tensor]:
        """Weight and bias (C,) of all norm layers by name, as every stream starts from them."""

    @property
    def artefacts(self) -> Mapping[str, Tensor]:
        """The source artefacts by plain name, those that fit the normalizer."""

    @property
    def initial_norm(self) -> NormState:
        """The statistics of one stream before any batch."""

    def observe(self, params: Params, norm: NormState, x: Tensor) -> tuple[Forward, NormState]:
        """Run x (S, N, ...) as each stream's next batch; return the pass and the new statistics, stacked."""

    def again(self, params: Params, before: NormState, after: NormState, x: Tensor) -> Forward:
        """Run some streams' part x (s, N, ...) of the batch that was observed, as it was answered; see `Net.again`."""

    def gradient(self, of_params: Differentiable, params: Params) -> tuple[Params, tuple[Tensors, ...]]:
        """Differentiate a loss at params, as `Net.gradient`: streams that meet in a sum alone keep theirs apart."""


@dataclass(frozen=True)
class Needs:
    """What a part needs of a model; checked before the first request."""

    batch_norm: bool = False
    affine: bool = False
    gradient: bool = False
    artefacts: tuple[str, ...] = ()
    """The parts before the dot: `fisher` stands for `fisher.<parameter>`."""


class Part(ABC):
    """A named, documented piece of a pipeline."""

    name: ClassVar[str]
    paper: ClassVar[str]
    remembers: ClassVar[str]
    needs: ClassVar[Needs] = Needs()
    pure_graph: ClassVar[bool] = True
    options_class: ClassVar[type[Options]] = Options

    def __init__(self, options: Options) -> None:
        """Keep the options; `registry.create` makes them from a mapping."""
        self.options = options

    def check(self, source: SourceModel) -> None:
        """Refuse a model that lacks what this part needs.

        Raises:
            UnfitModelError: With the part's name, the need and what would do.
        """
        if source.opaque and (self.needs.batch_norm or self.needs.gradient):
            raise UnfitModelError(f"{self.name} must reach inside the model, but {source.opaque}; `source` works")
        if self.needs.batch_norm and not source.has_batch_norm:
            raise UnfitModelError(
                f"{self.name} replaces the statistics of batch-norm layers and this model has none; `source` works"
            )
        if self.needs.affine and not source.has_affine:
            raise UnfitModelError(f"{self.name} learns the weight and bias of norm layers and this model has none")
        missing = [name for name in self.needs.artefacts if not source.has_artefact(name)]
        if missing:
            raise UnfitModelError(
                f"{self.name} needs the source artefact {missing[0]!r}, which this model lacks; "
                "`acclimate calibrate` makes it from source images"
            )

    def degraded(self, source: SourceModel) -> str:
        """Return what this part does without on a model that lacks a source artefact; "" if nothing."""
        return ""


class Normalizer(Part, Generic[S]):
    """Where norm layers get their statistics. One instance serves all layers; each layer has its own state.

    A pass over the network calls one of three functions for every layer:
      * `observe`: the batch is the stream's next one; return the new statistics too.
      * `forward`: the batch is an augmented, replayed or probe batch; statistics are read, never written.
      * `held`: answer from what is remembered alone, where that differs (see `docs/adr/0008`).
    """

    rereads: ClassVar[bool] = False
    """True if the answer comes from a second pass, which reads what the first one has written."""

    @property
    def independent(self) -> bool:
        """Whether batch mates leave an image's answer and its gradient alone, given the statistics that are read.

        Then a part of an observed batch may be run again by `forward`, from the statistics before the batch (or after
        it, if `rereads`), and answers as it did.
        """
        return False

    def handles(self, layer: NormLayer) -> bool:
        """Whether this layer is normalised by the part; the others keep the source statistics."""
        return layer.spatial or not self.spatial_only

    spatial_only: ClassVar[bool] = False

    @abstractmethod
    def init(self, layer: NormLayer, generator: torch.Generator) -> S:
        """Return the layer's state before any batch; random draws come from `generator` (CPU) alone."""

    @abstractmethod
    def observe(self, layer: NormLayer, state: S, x: Tensor) -> tuple[Normalized, S]:
        """Normalise x (N, C, ...) as the stream's next batch; return the output and the new state."""

    @abstractmethod
    def forward(self, layer: NormLayer, state: S, x: Tensor) -> Normalized:
        """Normalise x (N, C, ...) without learning from it."""

    def held(self, layer: NormLayer, state: S, x: Tensor) -> Normalized:
        """Normalise x (N, C, ...) by remembered statistics; the same as `forward` unless overridden."""
        return self.forward(layer, state, x)


@dataclass(frozen=True)
class Learned(Generic[S]):
    """A learning step's result: the pass that answers, the new state and statistics, and the step's signals."""

    forward: Forward
    state: S
    norm: CopyStates
    signals: Mapping[str, Tensor] = field(default_factory=dict)


class Learner(Part, Generic[S]):
    """Which parameters learn, and from what loss."""

    normalizer: ClassVar[str] = "batch"
    """The normalizer meant by a spec that names only this learner."""
    output: ClassVar[str] = "none"
    copies: ClassVar[tuple[str, ...]] = ("student",)
    """The network copies; within a step each observes the raw batch exactly once, or its memory at each update."""

    answers_first: ClassVar[bool] = False
    """True if the answer comes from a pass without a gradient, where images may be picked out of their batch."""

    artefact: ClassVar[str] = ""
    """The source artefact that `calibrate` makes; "" for none."""
    holds_inputs: ClassVar[bool] = False
    """True if the state holds images that were sent: private, and left out of a snapshot on request."""

    @property
    def reads_often(self) -> bool:
        """Whether most of a step's passes have no gradient and leave the statistics as they are (`Net.forward`)."""
        return False

    def imitating(self, net: Net) -> Params:
        """Return the parameters that learn by `Net.imitate`; none where the learner has a loss of its own."""
        return {}

    def extend(self, network: torch.nn.Module, source: SourceModel) -> None:
        """Add the learner's own modules to the network copy, before norm layers are replaced.

        Batch-norm layers among them use statistics of their batch, whatever the pipeline's normalizer is.
        """

    def calibrate(
        self, net: Net, data: SourceImages, batch: int, advance: Callable[[float], None]
    ) -> Mapping[str, Tensor]:
        """Make the learner's source artefact from source data, in batches of a size.

        `net` is the network as the learner gets it, under the pipeline's normalizer; `advance` is told each share of
        the work done, in all 1.

        Raises:
            UnfitModelError: If the data cannot make it, as when there are no labels.
        """
        return {}

    def without_inputs(self, state: S) -> S:
        """Return the state without the images that it holds."""
        return state

    @abstractmethod
    def init(self, net: Net, generator: torch.Generator) -> S:
        """Return the state before any batch."""

    def draw(self, seed: int, steps: int, shape: torch.Size) -> Noise:
        """Draw what the step number `steps` needs at random, from (seed, steps) alone."""
        return {}

    @abstractmethod
    def step(self, net: Net, state: S, norm: CopyStates, x: Tensor, noise: Noise) -> Learned[S]:
        """Learn from x (N, ...) and answer it, by the pass whose prediction the paper returns."""

    @abstractmethod
    def answer(self, run: Run, state: S, norm: CopyStates, x: Tensor) -> Forward:
        """Answer x (N, ...) through `run` without learning."""


class JointLearner(Learner[S]):
    """A learner that can take the steps of several streams at once, around one pass; it draws no random numbers."""

    @abstractmethod
    def step_together(
        self, net: StreamsNet, states: Sequence[S], norms: Sequence[CopyStates], x: Tensor
    ) -> list[Learned[S]]:
        """Take the steps of S streams at once, each as `step` would: x is (S, N, ...), each stream's batch."""


class OutputAdjuster(Part, Generic[S]):
    """How outputs are corrected after the network."""

    @abstractmethod
    def init(self, classes: int) -> S:
        """Return the state before any batch."""

    @abstractmethod
    def adjust(self, state: S, forward: Forward) -> tuple[Tensor, S]:
        """Return probabilities (N, C), rows summing to one, and the new state."""
