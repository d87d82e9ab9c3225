"""Alarms of one stream that come shortly after each other, told as one event."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from service.monitoring.detectors import Alarm
from service.types import Happening

MERGED_SECONDS = 60.0
"""How long after a stream's last drift event further alarms wait to be told together."""
URGENT = "agreement"
"""A signal whose alarms never wait."""


@dataclass(slots=True)
class Merging:
    """The alarms of a stream that wait to be told, and when it was told last.

    Attributes:
        told: When the last drift event was told, Unix seconds.
        waiting: The newest alarm of each signal since then.
        noticed: When each other kind of finding was told last, Unix seconds.
    """

    told: float = 0.0
    waiting: dict[str, Alarm] = field(default_factory=dict)
    noticed: dict[str, float] = field(default_factory=dict)

    def drift(self, alarms: Sequence[Alarm], now: float) -> Happening | None:
        """Take in the alarms of a request, and return the event to tell now, if any.

        Alarms below a floor of relevance are left out. Two alarms of one signal become one, from where the first
        began to where the last ended.
        """
        for alarm in alarms:
            if alarm.relevant:
                self._add(alarm)
        # A clock that was set back must not silence a stream.
        waits = 0 <= now - self.told < MERGED_SECONDS and URGENT not in self.waiting
        if not self.waiting or waits:
            return None
        told, self.waiting, self.told = tuple(self.waiting.values()), {}, now
        amber = [alarm for alarm in told if not alarm.reassuring]
        first = (amber or list(told))[0]
        reason = "; ".join(alarm.reason for alarm in told)
        return Happening("drift" if amber else "settled", reason, figures=first.figures)

    def notices(self, kind: str, now: float) -> bool:
        """Whether a finding of this kind is to be told now: at most once in MERGED_SECONDS."""
        # A clock that was set back must not silence a stream.
        if 0 <= now - self.noticed.get(kind, 0.0) < MERGED_SECONDS:
            return False
        self.noticed[kind] = now
        return True

    def _add(self, alarm: Alarm) -> None:
        earlier = self.waiting.pop(alarm.signal, None)
        if earlier is not None:
            figures = {**alarm.figures, "before": earlier.figures["before"]}
            alarm = Alarm(alarm.signal, alarm.detector, figures)
        self.waiting[alarm.signal] = alarm
