"""The report of a stream in shadow mode: how the adapted answers would have differed."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from adapters.functional.entropy import entropy_of_probabilities


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """Sums over the images that a stream in shadow mode answered with the source model while it learned.

    Attributes:
        images: Number of images.
        changed: Number of images that the adapted model would have answered with another class.
        entropy: Sum of the entropies of the adapted answers, nats.
        source_entropy: Sum of the entropies of the source model's answers, nats.
        moves: Number of images by (source class, adapted class), where these differ.
    """

    images: int = 0
    changed: int = 0
    entropy: float = 0.0
    source_entropy: float = 0.0
    moves: Mapping[tuple[int, int], int] = field(default_factory=dict)

    def plus(self, adapted: Tensor, source: Tensor) -> "ShadowReport":
        """Return the report with both models' probabilities (N, C) for one request.

        Rows that are not finite in both are left out.
        """
        both = (adapted.isfinite() & source.isfinite()).all(1)
        adapted, source = adapted[both], source[both]
        adapted_labels, source_labels = adapted.argmax(1), source.argmax(1)
        pairs = zip(source_labels.tolist(), adapted_labels.tolist(), strict=True)
        moves = Counter((one, other) for one, other in pairs if one != other)
        return ShadowReport(
            images=self.images + len(adapted),
            changed=self.changed + moves.total(),
            entropy=self.entropy + float(entropy_of_probabilities(adapted).nansum()),
            source_entropy=self.source_entropy + float(entropy_of_probabilities(source).nansum()),
            moves=Counter(self.moves) + moves if moves else self.moves,
        )

    def commonest(self, most: int) -> list[tuple[int, int, int]]:
        """Return the `most` most frequent changes, as (source class, adapted class, images)."""
        found = ((one, other, count) for (one, other), count in self.moves.items())
        return sorted(found, key=lambda move: -move[2])[:most]
