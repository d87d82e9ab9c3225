"""The state of a stream's monitors, and the observation of one request that updates it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from adapters.monitors.class_balance import BalanceState
from adapters.monitors.entropy_bins import BinsState
from adapters.monitors.moving_mean import MeanState
from adapters.network.source_observer import Look, Seen
from adapters.state import Range
from adapters.values import PartState
from service.monitoring.detectors import DetectorsState
from service.monitoring.suspicion import SuspicionState

RECENT = 1000
"""Time constant, in requests, of the decaying count of guard resets and roll-backs. It does not decay in a pause."""
LONGEST_PAUSE = 4096
"""Longest pause of learning, in requests."""
WATCHED = 8
"""Number of requests after a guard's action that the source model looks at, one by one."""


@dataclass(frozen=True)
class MonitorState(PartState):
    """The state of all monitors of a stream.

    Attributes:
        answers: Decayed counts of the stream's answered classes.
        entropies: Histogram of the answers' entropies.
        checked, source_checked: Decayed counts of the stream's and the source model's classes for the same images.
        agreement: Share of these images that both answer with the same class.
        source_accuracy: The source model's accuracy on these images, estimated from its confidence.
        source_confidence: The source model's mean confidence on these images.
        seen: The source observer's state: norm statistics of the inputs.
        detectors: The state of the change detectors.
        check_in: () int64 requests until the source model looks again.
        alert: () int64 number of requests that the source model still looks at one by one after an alarm.
        recent: () decayed count of the guard's resets and rollbacks.
        pause: () int64 requests until the stream learns again.
        suspicion: Evidence that the stream is worse than the source model.
        own: The states of the monitors in `monitors/`, by name.
    """

    answers: BalanceState
    entropies: BinsState
    checked: BalanceState
    source_checked: BalanceState
    agreement: MeanState
    source_accuracy: MeanState
    source_confidence: MeanState
    seen: Seen
    detectors: DetectorsState
    check_in: Tensor
    alert: Tensor
    recent: Tensor
    pause: Tensor
    suspicion: SuspicionState
    own: Mapping[str, PartState] = field(default_factory=dict)

    ranges: ClassVar[Mapping[str, Range]] = {
        "check_in": (-1, 10**9),
        "alert": (0, WATCHED),
        "recent": (0.0, 10.0 * RECENT),
        "pause": (0, LONGEST_PAUSE),
    }


@dataclass(frozen=True, slots=True)
class Seeing:
    """The observation of one request.

    Attributes:
        probabilities: (N, C) the stream's answers.
        drift: The drift signal, or None.
        step: Relative change of the parameters by the request's step; None if it learned nothing.
        look: The source model's look at the first images; None if it did not look.
        known: The source observer's state after the look; None if it did not look.
    """

    probabilities: Tensor
    drift: float | None
    step: float | None
    look: Look | None
    known: Seen | None
