"""No adjustment: the softmax of the network's logits."""

from torch import Tensor

from adapters.base import OutputAdjuster
from adapters.values import Forward, PartState


class NoAdjustment(OutputAdjuster[PartState]):
    """Return softmax(logits).

    Remembers: nothing.
    Needs: nothing.

    Example:
        >>> from adapters import create
        >>> create("source").output.name
        'none'
    """

    name = "none"
    paper = ""
    remembers = "nothing"

    def init(self, classes: int) -> PartState:
        """Return the empty state."""
        return PartState()

    def adjust(self, state: PartState, forward: Forward) -> tuple[Tensor, PartState]:
        """Return softmax(logits) (N, C)."""
        return forward.logits.softmax(1), state
