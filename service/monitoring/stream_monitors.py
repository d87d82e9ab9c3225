"""What a stream's monitors know, and what they find at each request: pure, and kept with the stream's state."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adapters.functional.answers import entropies, sound_rows
from adapters.functional.entropy import entropy_of_probabilities
from adapters.monitors import accuracy, class_balance, entropy_bins, moving_mean
from adapters.network.source_observer import Look, Seen
from adapters.values import PartState
from service.models.reference import Reference
from service.monitoring import detectors, registry, suspicion
from service.monitoring.detectors import OWN_DOMAIN, Alarm, Readings
from service.monitoring.monitor import View
from service.monitoring.monitor_state import LONGEST_PAUSE, RECENT, WATCHED, MonitorState, Seeing

CHECK_MEMORY = 256
"""Images that comparisons with the source model fade over."""
LEAST_WEIGHT = 1 - math.exp(-63.5 / CHECK_MEMORY)
"""Of a comparison that a verdict rests on: 64 images, less what rounding may take."""
UNLIKE = 0.3
"""How much less often than the source model is right a stream agrees with it where its answers have collapsed."""
HURRIED = 8
"""Requests between two looks by the source model while one class takes most answers."""
ALERTED = 4
"""Requests after an alarm that the source model looks at, each."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What the monitors found at one request: the state after it, alarms, signals, and what speaks against the stream.

    `looked` tells whether the source model did.
    """

    state: MonitorState
    alarms: tuple[Alarm, ...]
    signals: dict[str, float]
    collapse: str
    harm: str
    looked: bool

    @property
    def drift_ended(self) -> str:
        """That inputs came back towards the source's, in words; "" if not."""
        return next((alarm.reason for alarm in self.alarms if alarm.signal == "drift" and not alarm.rose), "")


def init(classes: int, seen: Seen) -> MonitorState:
    """Return the state before any request."""
    balance, mean, zero = class_balance.init(classes), moving_mean.init(), torch.zeros((), dtype=torch.int64)
    return MonitorState(
        answers=balance,
        entropies=entropy_bins.init(),
        checked=balance,
        source_checked=balance,
        agreement=mean,
        source_accuracy=mean,
        source_confidence=mean,
        seen=seen,
        detectors=detectors.init(),
        check_in=zero,
        alert=zero,
        recent=torch.zeros(()),
        pause=zero,
        suspicion=suspicion.init(),
        own=_own(classes),
    )


def check_due(state: MonitorState) -> bool:
    """Whether the source model is to look at the next request."""
    return int(state.check_in) <= 0


def update(
    state: MonitorState,
    seeing: Seeing,
    reference: Reference,
    *,
    takeover: float,
    margin: float,
    every: int,
    learns: bool = True,
) -> Findings:
    """Take in one request.

    Every `every` requests the source model looks; of a stream that learns, more often where something is odd.
    """
    tested, alarms = detectors.update(state.detectors, _readings(seeing, reference))
    moved = replace(
        state,
        detectors=tested,
        answers=class_balance.update(state.answers, seeing.probabilities),
        entropies=entropy_bins.update(state.entropies, seeing.probabilities),
        recent=state.recent if int(state.pause) else state.recent * math.exp(-1 / RECENT),
        pause=_count(max(int(state.pause) - 1, 0)),
        own=_updated(state.own, seeing),
    )
    collapse = harm = ""
    if seeing.look is not None and seeing.known is not None:
        moved, fall = _compared(moved, seeing, seeing.look, seeing.known, reference)
        alarms = alarms if fall is None else (*alarms, fall)
        collapse = _collapse(moved, takeover)
        harm = _harm(moved, seeing, seeing.look, margin, reference)
        harm = harm or suspicion.contradicts(moved.suspicion, float(moved.recent))
    soonest = _soonest(moved, reference, alarmed=bool(alarms), looked=seeing.look is not None) if learns else (every, 0)
    left = every if seeing.look is not None else int(moved.check_in)
    moved = replace(moved, check_in=_count(max(min(left, soonest[0]) - 1, -1)), alert=_count(soonest[1]))
    return Findings(moved, alarms, _signals(moved, seeing, reference), collapse, harm, seeing.look is not None)


def begun_again(state: MonitorState, fresh: MonitorState) -> MonitorState:
    """Return the state after the stream went back: what told of its answers begins anew, the rest goes on."""
    return replace(
        fresh,
        seen=state.seen,
        detectors=detectors.begun_again(state.detectors),
        recent=state.recent,
        suspicion=suspicion.begun_again(state.suspicion),
    )


def alerted(state: MonitorState, pause: int) -> MonitorState:
    """Return the state after a guard had a reason to go back: learning pauses, and the source model looks on.

    It pauses for `pause` requests, twice as many for each time that was not long ago.
    """
    paused = min(pause * 2 ** round(float(state.recent)), LONGEST_PAUSE)
    return replace(state, alert=_count(WATCHED), recent=state.recent + 1, pause=_count(paused))


def _count(number: int) -> Tensor:
    return torch.scalar_tensor(number, dtype=torch.int64)


def _readings(seeing: Seeing, reference: Reference) -> Readings:
    classes = seeing.probabilities.shape[1]
    rows = sound_rows(seeing.probabilities)
    entropy = float(entropies(rows).mean()) / math.log(max(classes, 2)) if len(rows) else math.nan
    now = class_balance.update(class_balance.init(classes), seeing.probabilities)
    agreement = unlike = None
    if seeing.look is not None:
        pairs = _finite_pairs(seeing, seeing.look, reference)
        equal = (pairs.source.argmax(1) == pairs.answers.argmax(1)).float()
        agreement = float(equal.mean()) if len(equal) else None
        unlike = entropy_of_probabilities(seeing.look.logits.softmax(1))
    return Readings(
        entropy=entropy,
        prior_distance=float(class_balance.prior_distance(now, reference.prior)) if len(rows) else math.nan,
        drift=seeing.drift,
        step=seeing.step,
        agreement=agreement,
        source_entropies=unlike,
        usual=reference.entropies,
    )


def _finite_pairs(seeing: Seeing, look: Look, reference: Reference) -> suspicion.Compared:
    """Return the source model's probabilities and the stream's of the same images, where both are finite."""
    both = torch.stack([look.logits.softmax(1), seeing.probabilities[: len(look.logits)]])
    finite = torch.isfinite(both).all(2).all(0)
    source, answers = both[:, finite]
    alone = look.alone[finite] if len(look.alone) == len(finite) else look.alone[:0]
    return suspicion.Compared(source, answers, alone, reference.usual_distance, reference.calibration)


def _compared(
    state: MonitorState, seeing: Seeing, look: Look, known: Seen, reference: Reference
) -> tuple[MonitorState, Alarm | None]:
    """Set the stream's answers beside the source model's to the same images, where both are finite."""
    pairs = _finite_pairs(seeing, look, reference)
    source, answers, images = pairs.source, pairs.answers, len(pairs.source)
    if not images:
        return replace(state, seen=known), None
    equal = (source.argmax(1) == answers.argmax(1)).float().mean()
    known_to_be = reference.calibration
    right = accuracy.average_confidence(source) if known_to_be is None else accuracy.thresholded(source, known_to_be)
    suspected, fall = suspicion.update(state.suspicion, pairs)
    moved = replace(
        state,
        seen=known,
        checked=class_balance.update(state.checked, answers, CHECK_MEMORY),
        source_checked=class_balance.update(state.source_checked, source, CHECK_MEMORY),
        agreement=moving_mean.update(state.agreement, equal, images, CHECK_MEMORY),
        source_accuracy=moving_mean.update(state.source_accuracy, right, images, CHECK_MEMORY),
        source_confidence=moving_mean.update(
            state.source_confidence, accuracy.average_confidence(source), images, CHECK_MEMORY
        ),
        suspicion=suspected,
    )
    return moved, fall


def _collapse(state: MonitorState, takeover: float) -> str:
    """Say that a class takes many more answers than in the source model's, which is sure of its own; "" if not."""
    sureness = float(state.source_accuracy.mean) - float(state.agreement.mean)
    if float(state.checked.weight) < LEAST_WEIGHT or sureness <= UNLIKE:
        return ""
    taken = state.checked.shares - state.source_checked.shares
    label = int(taken.argmax())
    if float(taken[label]) <= takeover:
        return ""
    shares = (100 * float(state.checked.shares[label]), 100 * float(state.source_checked.shares[label]))
    return f"class {label} takes {shares[0]:.0f} % of the answers, of the source model's {shares[1]:.0f} %"


def _harm(state: MonitorState, seeing: Seeing, look: Look, margin: float, reference: Reference) -> str:
    """Say that the stream must be worse than the source model, on that one's own domain; "" if not.

    Where the source model is right on a share r, and the stream agrees with it on a share a, the stream is right on
    a + (1 - r) at most. That is less than r where it differs on more than twice the images that the source errs on.
    The latest look must show it too: a fault that has ended lingers in the means.
    """
    if reference.calibration is None or float(state.source_accuracy.weight) < LEAST_WEIGHT:
        return ""
    if not (0 <= float(look.distance) < OWN_DOMAIN and suspicion.inputs_are_usual(state.suspicion)):
        return ""
    expected, agreement = float(state.source_accuracy.mean), float(state.agreement.mean)
    now = float((look.logits.argmax(1) == seeing.probabilities[: len(look.logits)].argmax(1)).float().mean())
    if max(agreement, now) >= expected - max(margin, 1 - expected):
        return ""
    return (
        f"inputs look like the source's own, where the source model is right on about {100 * expected:.0f} %; "
        f"the stream agrees with it on {100 * agreement:.0f} % alone"
    )


def _soonest(state: MonitorState, reference: Reference, *, alarmed: bool, looked: bool) -> tuple[int, int]:
    """Return in how many requests the source model is to look at the latest, and how long the alert goes on."""
    alert = ALERTED if alarmed else max(int(state.alert) - looked, 0)
    dominated = float(class_balance.dominant_share(state.answers)) > max(0.5, 2 * float(reference.prior.max()))
    urgent = alert or suspicion.hurries(state.suspicion)
    return 1 if urgent else HURRIED if dominated else LONGEST_PAUSE, alert


def _signals(state: MonitorState, seeing: Seeing, reference: Reference) -> dict[str, float]:
    """Return what every monitor of `monitors/` knows now; what is not finite is not known."""
    view, read = View(state, seeing, reference), dict[str, float]()
    for name, monitor in registry.found().items():
        for signal, value in monitor.read(state.own.get(name), view).items():
            if math.isfinite(value):
                read[signal] = float(value)
    return read


def _own(classes: int) -> dict[str, PartState]:
    begun = {name: monitor.init(classes) for name, monitor in registry.found().items()}
    return {name: state for name, state in begun.items() if state is not None}


def _updated(own: Mapping[str, PartState], seeing: Seeing) -> dict[str, PartState]:
    return {name: registry.found()[name].update(state, seeing) for name, state in own.items()}
