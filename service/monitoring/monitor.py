"""What a monitor is: it is given each request of a stream, and computes signals from what it remembers."""

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
    """What a monitor may look at when it computes its signals.

    Attributes:
        state: What the stream's monitors remember after the request.
        seeing: The request.
        reference: The source model on source data.
    """

    state: MonitorState
    seeing: Seeing
    reference: Reference

    @cached_property
    def rows(self) -> Tensor:
        """(n, C) the request's answers that are finite; n may be 0."""
        return torch.from_numpy(sound_rows(self.seeing.probabilities))

    @cached_property
    def confidence(self) -> Tensor:
        """() mean confidence of these answers; NaN where there are none."""
        return average_confidence(self.rows)


class Monitor:
    """One monitor, found by its file in `service/monitoring/monitors`.

    A subclass names its signals and defines `read`. One that remembers something also defines `init` and `update`;
    a snapshot holds its state by the monitor's name.

    Attributes:
        name: A Python name, unique among monitors.
        signals: The signals that `read` returns.
    """

    name: ClassVar[str]
    signals: ClassVar[tuple[Signal, ...]]

    def init(self, classes: int) -> PartState | None:
        """Return the state before any request; None for a monitor that remembers nothing."""
        return None

    def update(self, state: Any, seeing: Seeing) -> Any:
        """Return the state after a request. Answers that are not finite must leave no trace in it."""
        return state

    def read(self, state: Any, view: View) -> Mapping[str, Tensor | float]:
        """Return the signals that are known now, by name; NaN counts as not known."""
        raise NotImplementedError
