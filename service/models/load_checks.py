"""Checks of a model at load: its outputs match bundle.toml, and its copies give the same answers."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from adapters import Prepared, SourceModel
from adapters.choosing.adapter import ChoosingFit
from adapters.errors import UnfitModelError
from adapters.network.fidelity import Fidelity
from adapters.output_kind import fault, within_unit
from adapters.pipeline import Fit
from adapters.source import as_inputs

PROBE_IMAGES = "probe.images"
TRIED = 3
"""Random images with coarse structure, and images of the probe set, that copies are compared on."""
COARSE = 4
"""Squares per side of images with coarse structure, because a network may answer all noise alike."""
BEYOND = 100.0
"""Factor on the value range for extreme inputs. Logits leave [0, 1] there; probabilities do not."""


def samples(source: SourceModel) -> list[Tensor]:
    """Return batches (N, *input_shape) to compare a model's copies on: random images, and probe images if it has any.

    They are the same at every call.
    """
    low, high = source.value_range
    generator = torch.Generator().manual_seed(0)
    channels, *sides = source.input_shape
    fine = torch.rand(1, channels, *sides, generator=generator)
    coarse = torch.rand(TRIED, channels, *[COARSE] * len(sides), generator=generator)
    images = torch.cat([fine, functional.interpolate(coarse, tuple(sides))])
    images = images * torch.linspace(0.5, 1.0, len(images)).reshape(-1, *[1] * len(source.input_shape))
    batches = [low + (high - low) * images[:TRIED], low + (high - low) * images[TRIED:]]
    probe = source.artefacts.get(PROBE_IMAGES)
    return batches if probe is None else [*batches, as_inputs(probe[:TRIED], source.value_range)]


def check_outputs(fidelity: Fidelity, source: SourceModel) -> None:
    """Check that a model's outputs are of the kind that it declares.

    Raises:
        UnfitModelError: If they are not. The message names the line to write in bundle.toml, if there is one.
    """
    found = [each.outputs for each in fidelity.answered]
    if source.output == "logits" and all(map(within_unit, found)):
        low, high = source.value_range
        middle, reach = (low + high) / 2, BEYOND * (high - low)
        found += [
            fidelity.outputs(middle + sign * reach * (each.x - middle))
            for each in fidelity.answered
            for sign in (1.0, -1.0)
        ]
    reason = fault(source.output, torch.cat(found).float())
    if reason:
        raise UnfitModelError(f"{reason}{' under [model] in bundle.toml' if 'write output' in reason else ''}")


def check_copies(fidelity: Fidelity, prepared: Prepared[Any]) -> None:
    """Compare a fitted adapter's networks with the shipped one, except those that a learner has extended.

    Raises:
        UnfitModelError: If one differs. The message names the first layer that does.
    """
    fits = prepared.fits.values() if isinstance(prepared, ChoosingFit) else [prepared]
    for fit in fits:
        if isinstance(fit, Fit) and not fit.net.added:
            fidelity.check(fit.net)
