"""Made domains for the small networks: random images, and the same random labels in each domain."""

from functools import partial

import numpy as np

from service.offline.evaluation.data import Domains, in_memory
from service.offline.evaluation.protocols import PlanSettings, make_plan
from tests.models import plain_source, reference_source

REFERENCE = partial(reference_source)
PLAIN = partial(plain_source)


def made_images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 16, 16), dtype=np.uint8)


def made_domains(count: int = 24, classes: int = 10) -> Domains:
    labels = np.random.default_rng(9).integers(0, classes, count)
    return Domains(
        {name: in_memory(made_images(count, number), labels) for number, name in enumerate(("clean", "fog", "snow"))}
    )


def made_plan(protocol: str, domains: Domains):
    return make_plan(protocol, domains, PlanSettings(repetitions=2), 0)


def ignore(images: int) -> None:
    del images
