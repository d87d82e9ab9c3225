"""The adapter's contract: what a server, a benchmark or a notebook may ask of a pipeline and of a selector alike."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from torch import Tensor

from adapters.options import Options
from adapters.source import SourceModel
from adapters.state import Range
from adapters.values import StepOutput


@dataclass(frozen=True)
class Spec:
    """The part names of an adapter; as text, what is `none` is left out. A selector's name stands alone."""

    normalizer: str
    learner: str = "none"
    output: str = "none"

    def __str__(self) -> str:
        return "+".join([self.normalizer, *(name for name in (self.learner, self.output) if name != "none")])


@dataclass(frozen=True)
class AdapterState:
    """Everything an adapter has learned: one immutable value.

    Attributes:
        steps: () int64, learning steps taken; with `seed` it decides every random draw.
        seed: () int64.
    """

    steps: Tensor
    seed: Tensor

    ranges: ClassVar[Mapping[str, Range]] = {"seed": (0, 2**63 - 1)}

    def check(self) -> None:
        """Refuse values that contradict each other.

        Raises:
            StateError: Saying which.
        """


S = TypeVar("S", bound=AdapterState)


@dataclass(frozen=True)
class Prepared(Generic[S]):
    """An adapter fitted to a model.

    Attributes:
        initial: The state before any batch.
        degraded: What the parts do without, since the model lacks a source artefact; "" if nothing.
    """

    initial: S
    degraded: str


P = TypeVar("P", bound=Prepared[Any])


class AdapterOf(ABC, Generic[P, S]):
    """Pure functions from (state, batch) to (answer, new state). Holds options only: one serves any number of streams.

    Attributes:
        spec: What it is made of.
        seed: What all its random draws follow from.
    """

    spec: Spec
    seed: int

    @property
    @abstractmethod
    def pure_graph(self) -> bool:
        """Whether a step has no Python branch on data, so that it can be vmapped and exported."""

    @property
    @abstractmethod
    def draws(self) -> bool:
        """Whether steps draw random numbers."""

    @property
    @abstractmethod
    def options(self) -> Mapping[str, Options]:
        """The options of each part, by its name."""

    @property
    @abstractmethod
    def holds_inputs(self) -> bool:
        """Whether states hold images that were sent."""

    @abstractmethod
    def prepare(self, source: SourceModel) -> P:
        """Fit the adapter to a model, which is not touched.

        Raises:
            UnfitModelError: If the model lacks what a part needs; the message says what.
        """

    def init(self, prepared: P) -> S:
        """Return the state before any batch: what a reset goes back to."""
        state: S = prepared.initial
        return state

    @abstractmethod
    def step(self, prepared: P, state: S, x: Tensor) -> tuple[StepOutput, S]:
        """Answer x (N, *input_shape) and learn from it; `state` is left as it was."""

    @abstractmethod
    def predict(self, prepared: P, state: S, x: Tensor) -> StepOutput:
        """Answer x (N, *input_shape) by what the state remembers: no learning, no statistics update.

        Normalizers of batch statistics use those of the last step (the source's before the first), so that an answer
        does not depend on which images share the request.
        """

    @abstractmethod
    def probe(self, prepared: P, state: S, x: Tensor) -> StepOutput:
        """Answer a batch from another distribution than the stream's, to measure what the parameters have become.

        Normalizers of batch statistics use x's own; the output adjuster is off.
        """

    @abstractmethod
    def without_inputs(self, prepared: P, state: S) -> S:
        """Return a state without the images that it holds."""

    def explain(self, prepared: P, state: S) -> str:  # noqa: ARG002 - the contract's form
        """Return in words why the state is served as it is; "" where nothing is chosen."""
        return ""


Adapter: TypeAlias = AdapterOf[Any, Any]
"""Any adapter."""
