"""The report of a stream in shadow mode: how the adapted answers would have differed."""

from dataclasses import dataclass

from torch import Tensor

from adapters.functional.entropy import entropy_of_probabilities


@dataclass(slots=True)
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
    moves: dict[tuple[int, int], int] | None = None

    def add(self, adapted: Tensor, source: Tensor) -> None:
        """Add both models' probabilities (N, C) for one request. Rows that are not finite in both are left out."""
        both = (adapted.isfinite() & source.isfinite()).all(1)
        adapted, source = adapted[both], source[both]
        adapted_labels, source_labels = adapted.argmax(1), source.argmax(1)
        self.images += len(adapted)
        self.changed += int((adapted_labels != source_labels).sum())
        self.entropy += float(entropy_of_probabilities(adapted).nansum())
        self.source_entropy += float(entropy_of_probabilities(source).nansum())
        self.moves = self.moves or {}
        for one, other in zip(source_labels.tolist(), adapted_labels.tolist(), strict=True):
            if one != other:
                self.moves[one, other] = self.moves.get((one, other), 0) + 1

    def commonest(self, most: int) -> list[tuple[int, int, int]]:
        """Return the `most` most frequent changes, as (source class, adapted class, images)."""
        found = ((one, other, count) for (one, other), count in (self.moves or {}).items())
        return sorted(found, key=lambda move: -move[2])[:most]
