"""What adapting would have changed: the report of a stream in shadow mode."""

from dataclasses import dataclass

from torch import Tensor

from adapters.functional.entropy import entropy_of_probabilities


@dataclass(slots=True)
class ShadowReport:
    """Sums over the images that a stream answered as the source model while it learned beside it.

    Attributes:
        images: How many.
        changed: Of these, how many the adapted model would have answered otherwise.
        entropy: Summed entropy of the adapted answers, nats.
        source_entropy: That of the answers given.
        moves: (source class, adapted class) to how many images.
    """

    images: int = 0
    changed: int = 0
    entropy: float = 0.0
    source_entropy: float = 0.0
    moves: dict[tuple[int, int], int] | None = None

    def add(self, adapted: Tensor, source: Tensor) -> None:
        """Take in the probabilities (N, C) of both to one request; rows where one is not finite are left out."""
        both = (adapted.isfinite() & source.isfinite()).all(1)
        adapted, source = adapted[both], source[both]
        ours, given = adapted.argmax(1), source.argmax(1)
        self.images += len(adapted)
        self.changed += int((ours != given).sum())
        self.entropy += float(entropy_of_probabilities(adapted).nansum())
        self.source_entropy += float(entropy_of_probabilities(source).nansum())
        self.moves = self.moves or {}
        for one, other in zip(given.tolist(), ours.tolist(), strict=True):
            if one != other:
                self.moves[one, other] = self.moves.get((one, other), 0) + 1

    def commonest(self, most: int) -> list[tuple[int, int, int]]:
        """Return the changes that were made most often: source class, adapted class, images."""
        found = ((one, other, count) for (one, other), count in (self.moves or {}).items())
        return sorted(found, key=lambda move: -move[2])[:most]
