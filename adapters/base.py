"""The base classes of normalizers, learners and output adjusters, and the interfaces that they use.

A part is stateless: it holds its options and nothing else. Its state is a value (a frozen dataclass of tensors) that
its functions take and return. This makes reset, snapshot, replay and isolation of streams simple.
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

    `spatial` is true if inputs are (N, C, H, W), so that a single image has its own statistics.
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
        """The number of logits."""

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
        """All parameters of the network by name; learners of all parameters start from them."""

    @property
    def affine(self) -> Mapping[str, Tensor]:
        """Weight and bias of all norm layers (batch, layer, group) by name; norm-only learners start from them."""

    @property
    def artefacts(self) -> Mapping[str, Tensor]:
        """The source artefacts that fit the normalizer, by plain name."""

    @property
    def added(self) -> Mapping[str, torch.nn.Module]:
        """The modules that the learner has added to the network, by name."""

    @property
    def initial_norm(self) -> NormState:
        """The initial statistics of every layer that the normalizer handles."""

    def observe(self, params: Params, norm: NormState, x: Tensor) -> tuple[Forward, NormState]:
        """Run x (N, ...) as the stream's next batch; return the forward pass and the new statistics."""

    def forward(self, params: Params, norm: NormState, x: Tensor) -> Forward:
        """Run an augmented, replayed or probe batch x (N, ...): statistics are read, never written."""

    def held(self, params: Params, norm: NormState, x: Tensor) -> Forward:
        """Run x (N, ...) under the remembered statistics, so that an answer does not depend on batch mates."""

    @property
    def separable(self) -> bool:
        """True if a step may select images by the batch's logits and run them again by themselves (`again`).

        The normalizer must keep images independent, and the step must run outside a graph, where it may branch on data.
        """

    def again(self, params: Params, before: NormState, after: NormState, x: Tensor) -> Forward:
        """Run a part x (n, ...) of an observed batch again; its images get the logits that they got in the batch.

        Observing the batch moved the statistics from `before` to `after`.
        """

    def imitate(self, params: Params, norm: NormState, x: Tensor, target: Tensor) -> Imitated:
        """Observe x (N, ...) and differentiate its cross-entropy with target probabilities (N, C) at params."""

    def gradient(self, of_params: Differentiable, params: Params) -> tuple[Params, tuple[Tensors, ...]]:
        """Differentiate a loss at params; return gradients by name and the loss function's other outputs, detached."""


class StreamsNet(Protocol):
    """The network as a learner sees it when one pass runs S streams with N images each.

    Each stream has its own norm-layer parameters and statistics, stacked (S, ...).
    """

    @property
    def classes(self) -> int:
        """The number of logits."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and inputs."""

    @property
    def affine(self) -> Mapping[str, Tensor]:
        """Weight and bias (C,) of all norm layers by name: the initial values of every stream."""

    @property
    def artefacts(self) -> Mapping[str, Tensor]:
        """The source artefacts that fit the normalizer, by plain name."""

    @property
    def initial_norm(self) -> NormState:
        """The initial statistics of one stream."""

    def observe(self, params: Params, norm: NormState, x: Tensor) -> tuple[Forward, NormState]:
        """Run x (S, N, ...) as each stream's next batch; return the forward pass and the new statistics, stacked."""

    def again(self, params: Params, before: NormState, after: NormState, x: Tensor) -> Forward:
        """Run the observed batches x (s, N, ...) of some of the streams again; see `Net.again`."""

    def gradient(self, of_params: Differentiable, params: Params) -> tuple[Params, tuple[Tensors, ...]]:
        """Differentiate a loss at params, as `Net.gradient`.

        If the loss is a sum over streams, each stream's gradient depends on its own images alone.
        """


@dataclass(frozen=True)
class Needs:
    """A part's requirements on the model; checked before the first request."""

    batch_norm: bool = False
    affine: bool = False
    gradient: bool = False
    artefacts: tuple[str, ...] = ()
    """Artefact names up to the dot: `fisher` stands for `fisher.<parameter>`."""


class Part(ABC):
    """A named, documented piece of a pipeline."""

    name: ClassVar[str]
    paper: ClassVar[str]
    remembers: ClassVar[str]
    needs: ClassVar[Needs] = Needs()
    pure_graph: ClassVar[bool] = True
    options_class: ClassVar[type[Options]] = Options

    def __init__(self, options: Options) -> None:
        """Keep the options; `registry.create` builds them from a mapping."""
        self.options = options

    def check(self, source: SourceModel) -> None:
        """Refuse a model that does not meet this part's needs.

        Raises:
            UnfitModelError: If a need is not met; the message names the part, the need and an alternative, if any.
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
        """Return how the part is limited because the model lacks a source artefact; "" if it is not."""
        return ""


class Normalizer(Part, Generic[S]):
    """Decides which statistics norm layers use. One instance serves all layers; each layer has its own state.

    A pass over the network calls one of three functions for every layer:
      * `observe`: the batch is the stream's next one; return the new statistics too.
      * `forward`: the batch is an augmented, replayed or probe batch; statistics are read, never written.
      * `held`: use only remembered statistics, where that differs from `forward` (see `docs/adr/0008`).
    """

    rereads: ClassVar[bool] = False
    """True if the answer comes from a second pass, which reads the statistics that the first pass wrote."""

    @property
    def independent(self) -> bool:
        """True if an image's answer and gradient do not depend on its batch mates, given the statistics that are read.

        If so, `forward` may run a part of an observed batch again and get the same answers. It starts from the
        statistics before the batch, or after it if `rereads`.
        """
        return False

    def handles(self, layer: NormLayer) -> bool:
        """Return whether this part normalises the layer; other layers keep the source statistics."""
        return layer.spatial or not self.spatial_only

    spatial_only: ClassVar[bool] = False
    """True if it handles only layers over maps (N, C, H, W)."""

    @abstractmethod
    def init(self, layer: NormLayer, generator: torch.Generator) -> S:
        """Return the layer's initial state; all random draws come from `generator` (CPU)."""

    @abstractmethod
    def observe(self, layer: NormLayer, state: S, x: Tensor) -> tuple[Normalized, S]:
        """Normalise x (N, C, ...) as the stream's next batch; return the output and the new state."""

    @abstractmethod
    def forward(self, layer: NormLayer, state: S, x: Tensor) -> Normalized:
        """Normalise x (N, C, ...); the state is read, never written."""

    def held(self, layer: NormLayer, state: S, x: Tensor) -> Normalized:
        """Normalise x (N, C, ...) by remembered statistics alone; the same as `forward` unless overridden."""
        return self.forward(layer, state, x)


@dataclass(frozen=True)
class Learned(Generic[S]):
    """The result of a learning step: the answer's forward pass, the new state and statistics, and the signals."""

    forward: Forward
    state: S
    norm: CopyStates
    signals: Mapping[str, Tensor] = field(default_factory=dict)


class Learner(Part, Generic[S]):
    """Decides which parameters learn and what their loss is."""

    normalizer: ClassVar[str] = "batch"
    """The default normalizer of a spec with this learner."""
    output: ClassVar[str] = "none"
    """The default output adjuster of a spec with this learner."""
    copies: ClassVar[tuple[str, ...]] = ("student",)
    """The network copies; within a step each observes the raw batch exactly once, or its memory at each update."""

    answers_first: ClassVar[bool] = False
    """True if the answer comes from a first pass without gradient, after which a part of the batch may be run again."""

    artefact: ClassVar[str] = ""
    """The source artefact that `calibrate` makes; "" for none."""
    holds_inputs: ClassVar[bool] = False
    """True if the state holds clients' images: these are private and left out of a snapshot on request."""

    @property
    def reads_often(self) -> bool:
        """True if most of a step's passes have no gradient and leave the statistics unchanged (`Net.forward`)."""
        return False

    def imitating(self, net: Net) -> Params:
        """Return the parameters that learn by `Net.imitate`; none if the learner has another loss."""
        return {}

    def extend(self, network: torch.nn.Module, source: SourceModel) -> None:
        """Add the learner's own modules to the network copy, before norm layers are replaced.

        Batch-norm layers among them use batch statistics under every normalizer.
        """

    def calibrate(
        self, net: Net, data: SourceImages, batch: int, advance: Callable[[float], None]
    ) -> Mapping[str, Tensor]:
        """Make the learner's source artefact from source data.

        Args:
            net: The network as the learner gets it, under the pipeline's normalizer.
            data: Source images.
            batch: Images per batch.
            advance: Called with each fraction of the work as it is done; the fractions sum to 1.

        Raises:
            UnfitModelError: If the data do not suffice, for example because they have no labels.
        """
        return {}

    def without_inputs(self, state: S) -> S:
        """Return the state without the images that it holds."""
        return state

    @abstractmethod
    def init(self, net: Net, generator: torch.Generator) -> S:
        """Return the initial state."""

    def draw(self, seed: int, steps: int, shape: torch.Size) -> Noise:
        """Draw the random numbers of step number `steps` for a batch of this shape; `seed` and `steps` decide them."""
        return {}

    @abstractmethod
    def step(self, net: Net, state: S, norm: CopyStates, x: Tensor, noise: Noise) -> Learned[S]:
        """Learn from x (N, ...) and answer it, with the forward pass that the paper takes predictions from."""

    @abstractmethod
    def answer(self, run: Run, state: S, norm: CopyStates, x: Tensor) -> Forward:
        """Answer x (N, ...) through `run` without learning."""


class JointLearner(Learner[S]):
    """A learner that can step several streams at once with one pass of the network; it draws no random numbers."""

    @abstractmethod
    def step_together(
        self, net: StreamsNet, states: Sequence[S], norms: Sequence[CopyStates], x: Tensor
    ) -> list[Learned[S]]:
        """Step S streams at once, each as `step` would; x is (S, N, ...), one batch per stream."""


class OutputAdjuster(Part, Generic[S]):
    """Corrects the network's outputs."""

    @abstractmethod
    def init(self, classes: int) -> S:
        """Return the initial state."""

    @abstractmethod
    def adjust(self, state: S, forward: Forward) -> tuple[Tensor, S]:
        """Return probabilities (N, C), rows summing to one, and the new state."""
