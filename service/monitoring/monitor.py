"""The `Monitor` base class: a monitor sees each request of a stream and computes signals from its state."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from adapters.functional.answers import sound_rows
from adapters.monitors.accuracy import average_confidence
from adapters.values import PartState
from service.models.reference import Reference
from service.monitoring.monitor_state import MonitorState, Seeing
from service.monitoring.signal import Signal


@dataclass(frozen=True)
class View:
    """The inputs of `Monitor.read`.

    Attributes:
        state: The state of the stream's monitors after the request.
        seeing: The request.
        reference: Statistics of the source model on source data.
    """

    state: MonitorState
    seeing: Seeing
    reference: Reference

    @cached_property
    def rows(self) -> Tensor:
        """(n, C) the request's finite answers; n may be 0."""
        return torch.from_numpy(sound_rows(self.seeing.probabilities))

    @cached_property
    def confidence(self) -> Tensor:
        """() mean confidence of `rows`; NaN if there are none."""
        return average_confidence(self.rows)


class Monitor(ABC):
    """One monitor; its file in `service/monitoring/monitors` registers it.

    A subclass names its signals and defines `read`. A monitor with state also defines `init` and `update`; snapshots
    store its state under the monitor's name.

    Attributes:
        name: A Python name, unique among monitors.
        signals: The signals that `read` returns.
    """

    name: ClassVar[str]
    signals: ClassVar[tuple[Signal, ...]]

    def init(self, classes: int) -> PartState | None:
        """Return the state before any request; None for a monitor without state."""
        return None

    def update(self, state: Any, seeing: Seeing) -> Any:
        """Return the state after a request. Answers that are not finite must not change it."""
        return state

    @abstractmethod
    def read(self, state: Any, view: View) -> Mapping[str, Tensor | float]:
        """Return the current signals by name; omit a signal that is unknown, or return NaN for it."""
