"""The adapter interface, which pipelines and selectors implement; servers, benchmarks and notebooks use it."""

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
    """The part names of an adapter. Its text leaves out parts that are `none`; a selector's name stands alone."""

    normalizer: str
    learner: str = "none"
    output: str = "none"

    def __str__(self) -> str:
        return "+".join([self.normalizer, *(name for name in (self.learner, self.output) if name != "none")])


@dataclass(frozen=True)
class AdapterState:
    """Everything an adapter has learned: one immutable value.

    Attributes:
        steps: () int64, number of learning steps; with `seed` it decides every random draw.
        seed: () int64.
    """

    steps: Tensor
    seed: Tensor

    ranges: ClassVar[Mapping[str, Range]] = {"seed": (0, 2**63 - 1)}

    def check(self) -> None:
        """Refuse values that contradict each other.

        Raises:
            StateError: If there are any; the message names them.
        """


S = TypeVar("S", bound=AdapterState)


@dataclass(frozen=True)
class Prepared(Generic[S]):
    """An adapter fitted to a model.

    Attributes:
        initial: The state before any batch.
        degraded: How parts are limited because the model lacks a source artefact; "" if they are not.
    """

    initial: S
    degraded: str


P = TypeVar("P", bound=Prepared[Any])


class AdapterOf(ABC, Generic[P, S]):
    """Pure functions from (state, batch) to (answer, new state). Holds options only: one serves any number of streams.

    Attributes:
        spec: The names of its parts.
        seed: The seed of all its random draws.
    """

    spec: Spec
    seed: int

    @property
    @abstractmethod
    def pure_graph(self) -> bool:
        """True if a step has no Python branch on data, so that it can be vmapped and exported."""

    @property
    @abstractmethod
    def draws(self) -> bool:
        """True if steps draw random numbers."""

    @property
    @abstractmethod
    def options(self) -> Mapping[str, Options]:
        """The options of each part, by part name."""

    @property
    @abstractmethod
    def holds_inputs(self) -> bool:
        """True if states hold clients' images."""

    @abstractmethod
    def prepare(self, source: SourceModel) -> P:
        """Fit the adapter to a model, which is left unchanged.

        Raises:
            UnfitModelError: If the model does not meet the needs of a part; the message names the need.
        """

    def init(self, prepared: P) -> S:
        """Return the initial state; a reset returns to it."""
        state: S = prepared.initial
        return state

    @abstractmethod
    def step(self, prepared: P, state: S, x: Tensor) -> tuple[StepOutput, S]:
        """Answer x (N, *input_shape) and learn from it; `state` is left unchanged."""

    @abstractmethod
    def predict(self, prepared: P, state: S, x: Tensor) -> StepOutput:
        """Answer x (N, *input_shape) under the current state, without learning or updating statistics.

        Normalizers of batch statistics use those of the last step (the source's before the first), so that an answer
        does not depend on the other images of the request.
        """

    @abstractmethod
    def probe(self, prepared: P, state: S, x: Tensor) -> StepOutput:
        """Answer a batch from another distribution than the stream's, to measure how good the parameters still are.

        Normalizers of batch statistics use the statistics of x; the output adjuster is off.
        """

    @abstractmethod
    def without_inputs(self, prepared: P, state: S) -> S:
        """Return the state without the images that it holds."""

    def explain(self, prepared: P, state: S) -> str:  # noqa: ARG002 - the interface's signature
        """Return in words which pipeline was chosen for the stream and why; "" if the adapter makes no choice."""
        return ""


Adapter: TypeAlias = AdapterOf[Any, Any]
"""Any adapter."""
