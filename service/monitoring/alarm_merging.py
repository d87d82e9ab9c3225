"""Merges alarms of one stream that follow each other shortly into one event."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from service.monitoring.detectors import Alarm
from service.types import Happening

MERGED_SECONDS = 60.0
"""Seconds after a stream's last drift event during which further alarms wait and are merged."""
URGENT = "agreement"
"""The signal whose alarms are reported at once."""


@dataclass(slots=True)
class Merging:
    """The pending alarms of a stream, and the times of its last events.

    Attributes:
        last_drift: Time of the last drift event, Unix seconds.
        waiting: The newest alarm of each signal since then.
        last_notices: Time of the last event of each other kind, Unix seconds.
    """

    last_drift: float = 0.0
    waiting: dict[str, Alarm] = field(default_factory=dict)
    last_notices: dict[str, float] = field(default_factory=dict)

    def drift(self, alarms: Sequence[Alarm], now: float) -> Happening | None:
        """Add the alarms of a request, and return the event to report now, if any.

        Irrelevant alarms are dropped. Two alarms of one signal become one, from the first one's value before to the
        last one's value now.
        """
        for alarm in alarms:
            if alarm.relevant:
                self._add(alarm)
        # A clock that was set back must not silence a stream.
        waits = 0 <= now - self.last_drift < MERGED_SECONDS and URGENT not in self.waiting
        if not self.waiting or waits:
            return None
        merged, self.waiting, self.last_drift = tuple(self.waiting.values()), {}, now
        amber = [alarm for alarm in merged if not alarm.reassuring]
        first = (amber or list(merged))[0]
        reason = "; ".join(alarm.reason for alarm in merged)
        return Happening("drift" if amber else "settled", reason, figures=first.figures)

    def notices(self, kind: str, now: float) -> bool:
        """Return whether to report a finding of this kind now, and note it: at most one in MERGED_SECONDS."""
        # A clock that was set back must not silence a stream.
        if 0 <= now - self.last_notices.get(kind, 0.0) < MERGED_SECONDS:
            return False
        self.last_notices[kind] = now
        return True

    def _add(self, alarm: Alarm) -> None:
        earlier = self.waiting.pop(alarm.signal, None)
        if earlier is not None:
            figures = {**alarm.figures, "before": earlier.figures["before"]}
            alarm = Alarm(alarm.signal, alarm.detector, figures)
        self.waiting[alarm.signal] = alarm
