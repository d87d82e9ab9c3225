"""Updates a stream's monitors at each request. The functions are pure; the state is part of the stream's state."""

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
"""Time constant, in images, of the averages that compare the stream with the source model."""
LEAST_WEIGHT = 1 - math.exp(-63.5 / CHECK_MEMORY)
"""Least weight of an average that verdicts may use: that of 64 images, minus a margin for rounding."""
UNLIKE = 0.3
"""Collapse requires that the agreement is below the source model's estimated accuracy by more than this."""
HURRIED = 8
"""Requests between two looks of the source model while one class dominates the answers."""
ALERTED = 4
"""Number of requests after an alarm that the source model looks at, one by one."""


@dataclass(frozen=True, slots=True)
class Findings:
    """The monitors' findings at one request.

    Attributes:
        state: The state after the request.
        alarms: The changes that the detectors found.
        signals: The signals of the monitors in `monitors/`.
        collapse: The reason why the answers have collapsed; "" if they have not.
        harm: The reason why the stream must be worse than the source model; "" if there is none.
        looked: Whether the source model looked at the request.
    """

    state: MonitorState
    alarms: tuple[Alarm, ...]
    signals: dict[str, float]
    collapse: str
    harm: str
    looked: bool

    @property
    def drift_ended(self) -> str:
        """The reason of the alarm that inputs returned towards the source's; "" if there is none."""
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
    """Return whether the source model should look at the next request."""
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
    """Add one request.

    Args:
        state: The state before the request.
        seeing: The request.
        reference: Statistics of the source model on source data.
        takeover: `Policy.takeover`, the threshold of collapse.
        margin: `Policy.margin`, the threshold of harm.
        every: Requests between two looks of the source model. It looks more often if a learning stream shows signs of
            trouble.
        learns: Whether the stream learns.
    """
    tested, alarms = detectors.update(state.detectors, _readings(seeing, reference))
    updated = replace(
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
        updated, fall = _compared(updated, seeing, seeing.look, seeing.known, reference)
        alarms = alarms if fall is None else (*alarms, fall)
        collapse = _collapse(updated, takeover)
        harm = _harm(updated, seeing, seeing.look, margin, reference)
        harm = harm or suspicion.contradicts(updated.suspicion, float(updated.recent))
    looked = seeing.look is not None
    latest, alert = _latest_look(updated, reference, alarmed=bool(alarms), looked=looked) if learns else (every, 0)
    due = every if looked else int(updated.check_in)
    updated = replace(updated, check_in=_count(max(min(due, latest) - 1, -1)), alert=_count(alert))
    return Findings(updated, alarms, _signals(updated, seeing, reference), collapse, harm, looked)


def begun_again(state: MonitorState, fresh: MonitorState) -> MonitorState:
    """Return the state after a reset or rollback: monitors of the answers start over, monitors of the inputs go on."""
    return replace(
        fresh,
        seen=state.seen,
        detectors=detectors.begun_again(state.detectors),
        recent=state.recent,
        suspicion=suspicion.begun_again(state.suspicion),
    )


def alerted(state: MonitorState, pause: int) -> MonitorState:
    """Return the state after a guard acted: learning pauses, and the source model looks at the next requests.

    The pause is `pause` requests, doubled for each recent action of the guard, up to LONGEST_PAUSE.
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
    agreement = source_entropies = None
    if seeing.look is not None:
        pairs = _finite_pairs(seeing, seeing.look, reference)
        equal = (pairs.source.argmax(1) == pairs.answers.argmax(1)).float()
        agreement = float(equal.mean()) if len(equal) else None
        source_entropies = entropy_of_probabilities(seeing.look.logits.softmax(1))
    return Readings(
        entropy=entropy,
        prior_distance=float(class_balance.prior_distance(now, reference.prior)) if len(rows) else math.nan,
        drift=seeing.drift,
        step=seeing.step,
        agreement=agreement,
        source_entropies=source_entropies,
        usual=reference.entropies,
    )


def _finite_pairs(seeing: Seeing, look: Look, reference: Reference) -> suspicion.Compared:
    """Return the source model's and the stream's probabilities for the same images, where both are finite."""
    both = torch.stack([look.logits.softmax(1), seeing.probabilities[: len(look.logits)]])
    finite = torch.isfinite(both).all(2).all(0)
    source, answers = both[:, finite]
    alone = look.alone[finite] if len(look.alone) == len(finite) else look.alone[:0]
    return suspicion.Compared(source, answers, alone, reference.usual_distance, reference.calibration)


def _compared(
    state: MonitorState, seeing: Seeing, look: Look, known: Seen, reference: Reference
) -> tuple[MonitorState, Alarm | None]:
    """Compare the stream's answers with the source model's for the same images, where both are finite."""
    pairs = _finite_pairs(seeing, look, reference)
    source, answers, images = pairs.source, pairs.answers, len(pairs.source)
    if not images:
        return replace(state, seen=known), None
    equal = (source.argmax(1) == answers.argmax(1)).float().mean()
    calibration = reference.calibration
    right = accuracy.average_confidence(source) if calibration is None else accuracy.thresholded(source, calibration)
    suspected, fall = suspicion.update(state.suspicion, pairs)
    compared = replace(
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
    return compared, fall


def _collapse(state: MonitorState, takeover: float) -> str:
    """Describe a collapse: one class has a far larger share than in the source model's answers; "" if there is none.

    The agreement must also be far below the source model's estimated accuracy.
    """
    missing_agreement = float(state.source_accuracy.mean) - float(state.agreement.mean)
    if float(state.checked.weight) < LEAST_WEIGHT or missing_agreement <= UNLIKE:
        return ""
    excess = state.checked.shares - state.source_checked.shares
    label = int(excess.argmax())
    if float(excess[label]) <= takeover:
        return ""
    shares = (100 * float(state.checked.shares[label]), 100 * float(state.source_checked.shares[label]))
    return f"class {label} takes {shares[0]:.0f} % of the answers, of the source model's {shares[1]:.0f} %"


def _harm(state: MonitorState, seeing: Seeing, look: Look, margin: float, reference: Reference) -> str:
    """Explain why the stream must be worse than the source model on inputs like source data; "" if it need not be.

    If the source model is right on a share r of the images, and the stream agrees with it on a share a, then the stream
    is right on at most a + (1 - r). This is below r if 1 - a, the share of differences, exceeds 2 (1 - r), twice the
    source model's error.
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


def _latest_look(state: MonitorState, reference: Reference, *, alarmed: bool, looked: bool) -> tuple[int, int]:
    """Return within how many requests the source model must look, and how many requests the alert still lasts."""
    alert = ALERTED if alarmed else max(int(state.alert) - looked, 0)
    dominated = float(class_balance.dominant_share(state.answers)) > max(0.5, 2 * float(reference.prior.max()))
    urgent = alert or suspicion.hurries(state.suspicion)
    return 1 if urgent else HURRIED if dominated else LONGEST_PAUSE, alert


def _signals(state: MonitorState, seeing: Seeing, reference: Reference) -> dict[str, float]:
    """Return the finite signals of all monitors in `monitors/`."""
    view, signals = View(state, seeing, reference), dict[str, float]()
    for name, monitor in registry.found().items():
        for signal, value in monitor.read(state.own.get(name), view).items():
            if math.isfinite(value):
                signals[signal] = float(value)
    return signals


def _own(classes: int) -> dict[str, PartState]:
    """Return the initial states of the monitors in `monitors/` that have one."""
    initial = {name: monitor.init(classes) for name, monitor in registry.found().items()}
    return {name: state for name, state in initial.items() if state is not None}


def _updated(own: Mapping[str, PartState], seeing: Seeing) -> dict[str, PartState]:
    return {name: registry.found()[name].update(state, seeing) for name, state in own.items()}
