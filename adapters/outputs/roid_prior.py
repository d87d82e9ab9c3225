"""ROID's prior correction: favours classes that the batch's outputs predict often."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from adapters.base import OutputAdjuster
from adapters.functional.prior import smoothed_prior
from adapters.options import Options, option
from adapters.values import Forward, PartState


@dataclass(frozen=True, kw_only=True)
class ROIDPriorOptions(Options):
    """The outputs that the prior multiplies."""

    prior_on: Literal["probabilities", "logits"] = option(
        "probabilities", "outputs that the prior multiplies; logits, as in public code, shrink by the number of classes"
    )


class ROIDPrior(OutputAdjuster[PartState]):
    """Multiply outputs by the batch's smoothed mean output.

    Probabilities are multiplied by the prior and normalised to sum to one. Public code multiplies the logits instead
    (`prior_on`): this makes them about C times smaller, and adding a constant to the logits then changes the answer. A
    single image says nothing about the prior, so its output is not changed.

    Remembers: nothing.
    Needs: nothing.
    Reference: Marsden et al., Universal Test-time Adaptation through Weight Ensembling, Diversity Weighting, and Prior
        Correction, WACV 2024.

    Example:
        >>> from adapters import create
        >>> str(create("batch+eta+roid_prior").spec)
        'batch+eta+roid_prior'
    """

    name = "roid_prior"
    paper = (
        "Marsden et al.: Universal Test-time Adaptation through Weight Ensembling, Diversity Weighting, and Prior "
        "Correction, WACV 2024"
    )
    remembers = "nothing"
    options_class = ROIDPriorOptions
    options: ROIDPriorOptions

    def init(self, classes: int) -> PartState:
        """Return the empty state."""
        return PartState()

    def adjust(self, state: PartState, forward: Forward) -> tuple[Tensor, PartState]:
        """Return corrected probabilities (N, C)."""
        probabilities = forward.logits.softmax(1)
        if len(probabilities) < 2:
            return probabilities, state
        prior = smoothed_prior(probabilities)
        if self.options.prior_on == "logits":
            return (forward.logits * prior).softmax(1), state
        corrected = probabilities * prior
        return corrected / corrected.sum(1, keepdim=True), state
