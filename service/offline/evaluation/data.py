"""Labelled images by domain, the data of a comparison."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from service.errors import UnfitError
from service.offline.evaluation.pixels import Blended, Images, InMemory, Integers, Mapped, Pixels

CLEAN = "clean"
"""The name of the domain without a corruption."""
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Items:
    """A sequence of n images: for each its domain's number, its severity and its row in the domain, (n,) int64 each."""

    domain: Integers
    severity: Integers
    row: Integers

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, part: slice | Integers) -> "Items":
        return Items(self.domain[part], self.severity[part], self.row[part])


def joined(parts: Sequence[Items]) -> Items:
    """Concatenate sequences."""
    columns = ([getattr(part, name) for part in parts] for name in ("domain", "severity", "row"))
    return Items(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True)
class Domain:
    """Labelled images of one kind.

    Attributes:
        levels: The same N images by severity, 1 to 5; 0 if it is unknown or there is no corruption.
        labels: (N,) int64.
        severity: The key of `levels` that every protocol except `gradual` uses.
    """

    levels: Mapping[int, Images]
    labels: Integers
    severity: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Images:
        """The images at `severity`."""
        return self.levels[self.severity]

    def first(self, count: int) -> "Domain":
        """Return only the first `count` images."""
        levels = {severity: images.first(count) for severity, images in self.levels.items()}
        return Domain(levels, self.labels[:count], self.severity)


def in_memory(images: Pixels, labels: Integers) -> Domain:
    """Return a domain of images (N, C, H, W) uint8 with labels (N,) and unknown severity."""
    return Domain({0: InMemory(images)}, labels)


@dataclass(frozen=True)
class Domains:
    """Domains by name, in the order of the stream."""

    by_name: Mapping[str, Domain]

    def __len__(self) -> int:
        return len(self.by_name)

    def __iter__(self) -> Iterator[Domain]:
        return iter(self.by_name.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(self.by_name)

    def select(self, names: Sequence[str]) -> "Domains":
        """Return some of the domains, in the order of `names`.

        Raises:
            UnfitError: If a name is unknown or occurs twice.
        """
        unknown = [name for name in names if name not in self.by_name]
        if unknown:
            raise UnfitError(f"the data have no domain {unknown[0]!r}; there are: {', '.join(self.by_name)}")
        if len(set(names)) < len(names):
            raise UnfitError(f"a domain is named twice among {', '.join(names)}; expected each once")
        return Domains({name: self.by_name[name] for name in names})

    def first(self, count: int) -> "Domains":
        """Return only the first `count` images of every domain."""
        return Domains({name: domain.first(count) for name, domain in self.by_name.items()})

    def labels(self, items: Items) -> Integers:
        """Return the labels (n,) of a sequence."""
        found = np.empty(len(items), np.int64)
        for number, domain in enumerate(self):
            mine = items.domain == number
            found[mine] = domain.labels[items.row[mine]]
        return found

    def pixels(self, items: Items) -> Pixels:
        """Return the images (n, C, H, W) of a sequence."""
        domains, places, parts = list(self), [], []
        for number, severity in sorted(set(zip(items.domain.tolist(), items.severity.tolist(), strict=True))):
            mine = np.flatnonzero((items.domain == number) & (items.severity == severity))
            places.append(mine)
            parts.append(domains[number].levels[severity].take(items.row[mine]))
        return np.concatenate(parts)[np.argsort(np.concatenate(places))]


def with_blends(domains: Domains) -> Domains:
    """Add severities 1 to 4 to domains of a single severity, by blending them with the same images in `clean`.

    A domain is not changed if it has several severities, or if its labels differ from those of `clean`.
    """
    clean = domains.by_name.get(CLEAN)
    if clean is None:
        return domains
    return Domains({name: _with_blends(domain, clean) for name, domain in domains.by_name.items()})


def _with_blends(domain: Domain, clean: Domain) -> Domain:
    if domain is clean or len(domain.levels) > 1 or not np.array_equal(domain.labels, clean.labels):
        return domain
    hardest = SEVERITIES[-1]
    milder = {s: Blended(clean.images, domain.images, s / hardest) for s in SEVERITIES[:-1]}
    return Domain({**milder, hardest: domain.images}, domain.labels, hardest)


def mapped(domains: Domains, folder: Path) -> Domains:
    """Write the images in memory to files of a folder, each once, so that other processes can map them."""
    written: dict[int, Mapped] = {}

    def move(images: Images) -> Images:
        if isinstance(images, Blended):
            return Blended(move(images.clean), move(images.corrupted), images.share)
        if not isinstance(images, InMemory):
            return images
        if id(images) not in written:
            path = folder / f"{len(written)}.npy"
            np.save(path, images.pixels)
            written[id(images)] = Mapped(path, 0, len(images), channels_last=False)
        return written[id(images)]

    return Domains(
        {
            name: replace(domain, levels={severity: move(images) for severity, images in domain.levels.items()})
            for name, domain in domains.by_name.items()
        }
    )
