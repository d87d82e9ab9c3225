"""Protocols: the order of a stream's images and domains, and the places of resets.

Every protocol is a pure function of (domains, settings, seed). It shows every image of every domain exactly once
(`long`: once per repetition), so that the errors under all protocols are over the same images.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from service.errors import UnfitError
from service.offline.evaluation.data import SEVERITIES, Domain, Domains, Items, joined
from service.offline.evaluation.pixels import Integers

RAMP = (*SEVERITIES, *SEVERITIES[-2::-1])
"""The severities along a domain in the gradual protocol: up and down again."""


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """The settings of the protocols.

    Attributes:
        shuffle: Whether to shuffle each domain's images; otherwise they keep their stored order, as for a recording.
        delta: `correlated`: Dirichlet parameter; smaller values give longer runs of one label.
        slots: `correlated`: number of parts of a domain that each label is spread over by a Dirichlet draw.
        repetitions: `long`: how often the domains repeat.
        order: `correlated`: a fixed order of each domain's images (domains, images), instead of a drawn one.
    """

    shuffle: bool = True
    delta: float = 0.1
    slots: int = 10
    repetitions: int = 10
    order: Integers | None = None


@dataclass(frozen=True)
class Segment:
    """Consecutive images; with `reset`, the state is reset to the source state before them."""

    items: Items
    reset: bool = False
    repetition: int = 0


@dataclass(frozen=True)
class Plan:
    """The order of a whole run."""

    protocol: str
    segments: tuple[Segment, ...]

    @property
    def items(self) -> Items:
        """All images, in order."""
        return joined([segment.items for segment in self.segments])

    @property
    def repetitions(self) -> Integers:
        """The repetition of each image, counted from 0."""
        return np.concatenate([np.full(len(segment.items), segment.repetition) for segment in self.segments])

    @property
    def borders(self) -> list[tuple[int, int]]:
        """The start of each domain, as an image's position, and the domain's number."""
        domain = self.items.domain
        starts = np.flatnonzero(np.diff(domain, prepend=-1))
        return [(int(start), int(domain[start])) for start in starts]

    def batches(self, size: int) -> Iterator[tuple[bool, Items]]:
        """Yield (reset before it, items) for each batch. Batches run across segments, but not across resets."""
        for stretch in _stretches(self.segments):
            items = joined([segment.items for segment in stretch])
            for start in range(0, len(items), size):
                yield stretch[0].reset and start == 0, items[start : start + size]


Generator: TypeAlias = np.random.Generator
Protocol: TypeAlias = Callable[[Domains, PlanSettings, Generator], list[Segment]]


def make_plan(protocol: str, domains: Domains, settings: PlanSettings, seed: int) -> Plan:
    """Return the plan of a protocol; equal arguments give equal plans.

    Raises:
        UnfitError: If there is no such protocol, or the data do not meet its requirements.
    """
    if protocol not in PROTOCOLS:
        raise UnfitError(f"there is no protocol {protocol!r}; there are: {', '.join(PROTOCOLS)}")
    return Plan(protocol, tuple(PROTOCOLS[protocol](domains, settings, np.random.default_rng(seed))))


def reset(domains: Domains, settings: PlanSettings, generator: Generator) -> list[Segment]:
    """Show one domain after the other, with a reset before each: the method knows every domain shift."""
    return [Segment(segment.items, reset=True) for segment in continual(domains, settings, generator)]


def continual(domains: Domains, settings: PlanSettings, generator: Generator) -> list[Segment]:
    """Show one domain after the other, without resets."""
    return [
        Segment(_items(number, domain, _within(domain, settings, generator))) for number, domain in enumerate(domains)
    ]


def gradual(domains: Domains, settings: PlanSettings, generator: Generator) -> list[Segment]:
    """Raise the severity from 1 to 5 and lower it again within each domain, over nine equal parts of its images.

    The domain `clean` needs no severities.
    """
    segments = []
    for number, (name, domain) in enumerate(domains.by_name.items()):
        rows = _within(domain, settings, generator)
        if _is_whole(name, domain):
            segments.append(Segment(_items(number, domain, rows)))
            continue
        for severity, part in zip(RAMP, np.array_split(rows, len(RAMP)), strict=True):
            segments.append(Segment(_items(number, domain, part, severity)))
    return segments


def mixed(domains: Domains, settings: PlanSettings, generator: Generator) -> list[Segment]:
    """Shuffle all domains together."""
    items = joined([segment.items for segment in continual(domains, settings, generator)])
    return [Segment(items[generator.permutation(len(items))])]


def correlated(domains: Domains, settings: PlanSettings, generator: Generator) -> list[Segment]:
    """Show one domain after the other, with runs of one label, as if a camera saw one thing for a while.

    Within a domain, every label is spread over slots in shares drawn from a Dirichlet distribution. Within a slot, the
    images of a label follow each other.

    Reference: Yuan et al., Robust Test-Time Adaptation in Dynamic Scenarios, CVPR 2023 (section 4.1).
    """
    if settings.order is not None:
        return given(domains, settings.order)
    return [
        Segment(_items(number, domain, _correlated(domain.labels, settings, generator)))
        for number, domain in enumerate(domains)
    ]


def long(domains: Domains, settings: PlanSettings, generator: Generator) -> list[Segment]:
    """Repeat the continual protocol, to see whether adaptation lasts or collapses in the end."""
    return [
        Segment(segment.items, repetition=repetition)
        for repetition in range(settings.repetitions)
        for segment in continual(domains, settings, generator)
    ]


def given(domains: Domains, order: Integers) -> list[Segment]:
    """Show one domain after the other, with each domain's images in a fixed order (domains, images).

    Raises:
        UnfitError: If the order's shape does not match the domains, or a row is not a permutation.
    """
    counts = [len(domain) for domain in domains]
    if order.shape != (len(counts), counts[0]) or len(set(counts)) > 1:
        found = f"({len(counts)}, {counts[0]})" if len(set(counts)) == 1 else f"{len(counts)} rows of {counts}"
        raise UnfitError(f"the order is {order.shape}, expected {found}: a row of image numbers for each domain")
    if not np.array_equal(np.sort(order, axis=1), np.broadcast_to(np.arange(counts[0]), order.shape)):
        raise UnfitError(f"a row of the order leaves out or repeats an image, expected 0 to {counts[0] - 1} once each")
    return [Segment(_items(number, domain, order[number])) for number, domain in enumerate(domains)]


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {each.__name__: each for each in (reset, continual, gradual, mixed, correlated, long)}
)


def _items(number: int, domain: Domain, rows: Integers, severity: int | None = None) -> Items:
    level = domain.severity if severity is None else severity
    return Items(np.full(len(rows), number), np.full(len(rows), level), rows.astype(np.int64))


def _within(domain: Domain, settings: PlanSettings, generator: Generator) -> Integers:
    return generator.permutation(len(domain)) if settings.shuffle else np.arange(len(domain))


def _is_whole(name: str, domain: Domain) -> bool:
    if all(severity in domain.levels for severity in SEVERITIES):
        return False
    if name == "clean":
        return True
    raise UnfitError(
        f"gradual needs {name} at severities 1 to 5, or the same images in a domain `clean` to blend with; "
        f"known are the severities {sorted(domain.levels)}"
    )


def _correlated(labels: Integers, settings: PlanSettings, generator: Generator) -> Integers:
    slots: list[list[Integers]] = [[] for _ in range(settings.slots)]
    for label in np.unique(labels):
        mine = generator.permutation(np.flatnonzero(labels == label))
        shares = generator.dirichlet(np.full(settings.slots, settings.delta))
        borders = np.rint(np.cumsum(shares)[:-1] * len(mine)).astype(np.int64)
        for slot, part in zip(slots, np.split(mine, borders), strict=True):
            slot.append(part)
    return np.concatenate([slot[place] for slot in slots for place in generator.permutation(len(slot))])


def _stretches(segments: tuple[Segment, ...]) -> Iterator[list[Segment]]:
    """Group segments so that every group except the first begins with a reset."""
    stretch: list[Segment] = []
    for segment in segments:
        if segment.reset and stretch:
            yield stretch
            stretch = []
        stretch.append(segment)
    yield stretch
