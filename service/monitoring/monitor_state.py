"""What the monitors of a stream remember, and what one request shows them."""

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
"""Requests, however often a guard has gone back."""
WATCHED = 8
"""And after a guard has acted."""


@dataclass(frozen=True)
class MonitorState(PartState):
    """Everything that a stream's monitors remember.

    Attributes:
        answers: Classes of the stream's answers.
        entropies: Their entropies.
        checked, source_checked: Classes of the stream's and of the source model's answers to the same images.
        agreement: Share of equal labels between these.
        source_accuracy: What the source model's confidence says of its accuracy there.
        source_confidence: Its mean confidence there.
        seen: What the source model remembers of the inputs.
        detectors: What has changed is told by these.
        check_in: () int64 requests until the source model looks again.
        alert: () int64 requests that it still looks at after an alarm.
        recent: () decayed count of resets and roll-backs.
        pause: () int64 requests that the stream does not learn from yet.
        suspicion: Evidence that the stream is worse than the source model.
        own: What monitors of `monitors/` remember themselves, by their names.
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
    """What one request shows.

    Attributes:
        probabilities: (N, C) the stream's answers.
        drift: The drift signal, or None.
        step: How far the request's step has moved the parameters, relatively; None where it learned none.
        look: What the source model finds in the first images, where it looked.
        known: What the source model remembers after that.
    """

    probabilities: Tensor
    drift: float | None
    step: float | None
    look: Look | None
    known: Seen | None
