"""Labelled streams for `benchmarks.false_alarms`: corruptions in order, mixed, sorted by label, and a stuck camera.

A stream is a sequence of images of some domains, of which the first is clean; its images, labels and the frozen model's
answers are made once and served to every spec.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from adapters.source import as_inputs
from service.models.hosted import HostedModel
from service.offline.evaluation.data import Domains, Items, joined

LEAST_RUN, LEAST_IMAGES = 5, 32
"""Requests, and images, that a class lasts in a sorted stream, at least."""
BEFORE, STUCK = 0.2, 0.4
"""Shares of the requests before a camera sticks, and while it does."""
TRIED = 64
"""Images among which the frame is chosen that a camera sticks on."""
ANSWERED = 64
"""Images that the frozen model answers together."""

Make: TypeAlias = Callable[[HostedModel, Domains, int, int, np.random.Generator], Items]
"""Makes a stream of so many requests of so many images each."""


@dataclass(frozen=True)
class Sent:
    """A stream as it is sent: x (R, B, C, H, W), labels (R, B), and whether the frozen model is wrong there (R, B)."""

    x: Tensor
    labels: Tensor
    frozen_wrong: Tensor


def in_order(
    model: HostedModel,  # noqa: ARG001 - the form of `Make`
    domains: Domains,
    requests: int,
    batch: int,
    generator: np.random.Generator,
) -> Items:
    """Return domain after domain, as long as each other, the images of each in any order."""
    numbers = np.arange(requests * batch) * len(domains) // (requests * batch)
    return joined(
        [_drawn(domains, number, int((numbers == number).sum()), generator) for number in range(len(domains))]
    )


def mixed(model: HostedModel, domains: Domains, requests: int, batch: int, generator: np.random.Generator) -> Items:
    """Return images of all domains in any order."""
    return in_order(model, domains, requests, batch, generator)[generator.permutation(requests * batch)]


def sorted_by_label(
    model: HostedModel,  # noqa: ARG001 - the form of `Make`
    domains: Domains,
    requests: int,
    batch: int,
    generator: np.random.Generator,
) -> Items:
    """Return some domains, the classes of each one after the other, each for at least `LEAST_RUN` requests."""
    classes = len(np.unique(next(iter(domains)).labels))
    shown = max(1, min(len(domains), requests // (classes * max(LEAST_RUN, LEAST_IMAGES // batch))))
    parts = []
    for place in range(shown):
        count = requests * batch * (place + 1) // shown - requests * batch * place // shown
        items = _drawn(domains, place * len(domains) // shown, count, generator)
        parts.append(items[np.argsort(domains.labels(items), kind="stable")])
    return joined(parts)


def stuck(model: HostedModel, domains: Domains, requests: int, batch: int, generator: np.random.Generator) -> Items:
    """Return clean images, one of them again and again that the frozen model answers rightly, then clean ones."""
    items = _drawn(domains, 0, requests * batch, generator)
    candidates = items[:TRIED]
    x = as_inputs(torch.from_numpy(domains.pixels(candidates)), model.source.value_range)
    right = model.answer_as_source(x).probabilities.argmax(1).numpy() == domains.labels(candidates)
    frame = int(np.flatnonzero(right)[0]) if right.any() else 0
    rows = items.row.copy()
    first, last = (round(share * requests) * batch for share in (BEFORE, BEFORE + STUCK))
    rows[first:last] = candidates.row[frame]
    return Items(items.domain, items.severity, rows)


STREAMS: Mapping[str, Make] = MappingProxyType(
    {"in order": in_order, "mixed": mixed, "sorted": sorted_by_label, "stuck": stuck}
)


def made(model: HostedModel, domains: Domains, kind: str, requests: int, batch: int, seed: int) -> Sent:
    """Return a stream of one of the kinds of `STREAMS`, answered by the frozen model; fully given by the arguments."""
    items = STREAMS[kind](model, domains, requests, batch, np.random.default_rng([seed, batch]))
    x = as_inputs(torch.from_numpy(domains.pixels(items)), model.source.value_range)
    labels = torch.from_numpy(domains.labels(items))
    answers = torch.cat([model.answer_as_source(part).probabilities.argmax(1) for part in torch.split(x, ANSWERED)])
    return Sent(
        x=x.reshape(requests, batch, *x.shape[1:]),
        labels=labels.reshape(requests, batch),
        frozen_wrong=(answers != labels).reshape(requests, batch),
    )


def _drawn(domains: Domains, number: int, count: int, generator: np.random.Generator) -> Items:
    """Return images of one domain in any order, each once before any comes again."""
    domain = list(domains)[number]
    rounds = [generator.permutation(len(domain)) for _ in range(-(-count // len(domain)))]
    rows = np.concatenate([*rounds, np.empty(0, np.int64)])[:count]
    return Items(np.full(count, number), np.full(count, domain.severity), rows)
