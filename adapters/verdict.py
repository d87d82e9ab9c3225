"""What a change detector says of one value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a change is told, and the statistic that says so: of what and above which bound, `update` says.

    Plain numbers, as detectors compute them: for one value at a time they are cheaper than tensors.
    """

    changed: bool
    statistic: float
