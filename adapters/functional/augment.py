"""The random augmentation of mean-teacher methods (CoTTA, RMT, RoTTA), and ROID's, in pure tensor code.

In this order: colour jitter, rotation with shift and scale, the border repeated, slight blur, flip, slight noise.
One draw serves the whole batch; only the noise is drawn per element. ROID's has neither blur nor noise.

Public code pads by half the side instead of repeating the border: the same, but for black corners in images that are
long or under 16 pixels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

GREY = (0.2989, 0.587, 0.114)
PURE = (0, 2, 4)
"""Where red, green and blue are on the colour circle, in sixths of it."""
LEAST_SPAN = 1e-12
REACH = 2
"""Of the blur, in pixels to each side."""
NOISE = 0.005


@dataclass(frozen=True)
class Draw:
    """What one augmentation does to every image of a batch.

    Attributes:
        order: In which order the five colour operations come.
        factors: Brightness .6-1.4, contrast .7-1.3, saturation .5-1.5, hue shift -.06-.06 turns, gamma .7-1.3.
        degrees: Rotation, -15 to 15.
        shift: Whole pixels (x, y), up to an eighth of the side.
        scale: .9-1.1.
        sigma: Of the blur, in pixels, .001-.5.
        flip: Whether left and right are changed.
    """

    order: tuple[int, ...]
    factors: tuple[float, ...]
    degrees: float
    shift: tuple[int, int]
    scale: float
    sigma: float
    flip: bool


RANGES = ((0.6, 1.4), (0.7, 1.3), (0.5, 1.5), (-0.06, 0.06), (0.7, 1.3))


def draw(generator: torch.Generator, height: int, width: int) -> Draw:
    """Draw an augmentation for images of a size."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    return Draw(
        order=tuple(torch.randperm(len(RANGES), generator=generator).tolist()),
        factors=tuple(uniform(low, high) for low, high in RANGES),
        degrees=uniform(-15, 15),
        shift=(round(uniform(-width / 8, width / 8)), round(uniform(-height / 8, height / 8))),
        scale=uniform(0.9, 1.1),
        sigma=uniform(0.001, 0.5),
        flip=uniform(0, 1) < 0.5,
    )


def random_view(x: Tensor, generator: torch.Generator, value_range: tuple[float, float]) -> Tensor:
    """Draw an augmentation and return x (N, C, H, W) under it; x and the answer lie within the value range."""
    drawn = draw(generator, *x.shape[-2:])
    return _within(value_range, x, lambda unit: augment(unit, drawn, generator))


def random_sharp_view(x: Tensor, generator: torch.Generator, value_range: tuple[float, float]) -> Tensor:
    """Draw an augmentation and return x (N, C, H, W) under it without blur and noise; both within the value range."""
    drawn = draw(generator, *x.shape[-2:])
    return _within(value_range, x, lambda unit: augment_sharp(unit, drawn))


def mild_view(x: Tensor, generator: torch.Generator, value_range: tuple[float, float]) -> Tensor:
    """Jitter colours (in 4 of 10 calls), blur (2) or remove colour (1), one draw for all images: EcoTTA's warm-up."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    low, high = value_range
    x = ((x - low) / (high - low)).clamp(0, 1)
    jitters, blurs, greys = uniform(0, 1) < 0.4, uniform(0, 1) < 0.2, uniform(0, 1) < 0.1
    factors = (uniform(0.6, 1.4), uniform(0.6, 1.4), uniform(0.6, 1.4), uniform(-0.1, 0.1))
    for number in torch.randperm(len(factors), generator=generator).tolist() if jitters else []:
        x = COLOUR[number](x, factors[number])
    x = blur(x, uniform(0.1, 2.0)) if blurs else x
    x = grey(x).expand_as(x) if greys else x
    return low + x * (high - low)


def augment(x: Tensor, drawn: Draw, generator: torch.Generator) -> Tensor:
    """Return augmented images (N, C, H, W) within [0, 1]; `generator` draws the noise."""
    seen = _sampled(colour(x.clamp(0, 1), drawn), _places(x, drawn, REACH), "border")
    x = _flipped(_blurred(seen, drawn.sigma), drawn)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return (x + NOISE * noise).clamp(0, 1)


def augment_sharp(x: Tensor, drawn: Draw) -> Tensor:
    """Return ROID's augmented images (N, C, H, W) within [0, 1]: mirrored at the border, no blur, no noise."""
    height, width = x.shape[-2:]
    top, left = height // 2, width // 2  # the most that mirroring can do at every size
    padded = functional.pad(colour(x.clamp(0, 1), drawn), (left, left, top, top), mode="reflect")
    share = torch.tensor([width / padded.shape[-1], height / padded.shape[-2]], dtype=x.dtype)
    return _flipped(_sampled(padded, _places(x, drawn) * share, "zeros"), drawn).clamp(0, 1)


def colour(x: Tensor, drawn: Draw) -> Tensor:
    """Jitter colours of x (N, C, H, W) in [0, 1]; saturation and hue do nothing to images that are not RGB."""
    for number in drawn.order:
        x = COLOUR[number](x, drawn.factors[number])
    return x


def grey(x: Tensor) -> Tensor:
    """Return the grey images (N, 1, H, W) of x (N, C, H, W)."""
    if x.shape[1] != len(GREY):
        return x.mean(1, keepdim=True)
    red, green, blue = x[:, :1], x[:, 1:2], x[:, 2:]
    return (GREY[0] * red).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])


def hue(x: Tensor, turns: float) -> Tensor:
    """Rotate the hue of x (N, 3, H, W) by a share of the colour circle.

    Without `torch.where` and remainders, which cost ten times an addition.

    Example:
        >>> red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
        >>> hue(red, 1 / 3).flatten().round(decimals=4)
        tensor([0., 1., 0.])
    """
    if x.shape[1] != len(GREY):
        return x
    value, least = x.amax(1), x.amin(1)
    span = value - least
    red, green, blue = x.unbind(1)
    most_red = (value == red).to(x.dtype)
    most_green = (value == green).to(x.dtype).mul_(1 - most_red)
    most_blue = (1 - most_red).sub_(most_green)
    ahead = (green - blue).mul_(most_red).addcmul_(blue - red, most_green).addcmul_(red - green, most_blue)
    sector = ahead.div_(span.clamp_min(LEAST_SPAN)).add_(most_green, alpha=2).add_(most_blue, alpha=4)
    turned = sector.div_(6).add_(turns)
    turned = turned.sub_(turned.floor()).mul_(6)
    return torch.stack([torch.addcmul(value, span, _far(turned, pure), value=-1) for pure in PURE], 1)


def affine(x: Tensor, drawn: Draw) -> Tensor:
    """Rotate, scale and shift x (N, C, H, W) about its centre, bilinearly; what comes from outside is 0."""
    return _sampled(x, _places(x, drawn), "zeros")


def blur(x: Tensor, sigma: float) -> Tensor:
    """Blur x (N, C, H, W) by a Gaussian over 5 x 5 pixels, mirrored at the border."""
    return _blurred(functional.pad(x, (REACH, REACH, REACH, REACH), mode="reflect"), sigma)


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Blur the middle of x (N, C, H, W), without a rim of `REACH`: (N, C, H - 4, W - 4)."""
    weights = [math.exp(-((tap - REACH) ** 2) / (2 * sigma**2)) for tap in range(2 * REACH + 1)]
    taps = [weight / sum(weights) for weight in weights]
    return _weighted(_weighted(x, taps, -1), taps, -2)


def _places(x: Tensor, drawn: Draw, rim: int = 0) -> Tensor:
    """Return where each pixel of any image of x (N, C, H, W) comes from: (1, H, W, 2), from -1 to 1 within it.

    A rim of so many pixels beyond the image makes that (1, H + 2 rim, W + 2 rim, 2).
    """
    height, width = x.shape[-2:]
    whole = height + 2 * rim, width + 2 * rim
    angle = math.radians(drawn.degrees)
    cos, sin = math.cos(angle) / drawn.scale, math.sin(angle) / drawn.scale
    dx, dy = 2 * drawn.shift[0] / width, 2 * drawn.shift[1] / height
    skew = height / width  # grid coordinates run from -1 to 1 along both sides
    rows = ((cos, sin * skew), (-sin / skew, cos))
    matrix = [[a * whole[1] / width, b * whole[0] / height, -a * dx - b * dy] for a, b in rows]
    return functional.affine_grid(torch.tensor([matrix], dtype=x.dtype), [1, 1, *whole], align_corners=False)


def _sampled(x: Tensor, places: Tensor, beyond: Literal["zeros", "border"]) -> Tensor:
    """Sample every image of x (N, C, H, W) at places (1, h, w, 2), bilinearly, and repeat its border or not."""
    everywhere = places.expand(len(x), -1, -1, -1)
    return functional.grid_sample(x, everywhere, mode="bilinear", padding_mode=beyond, align_corners=False)


def _within(value_range: tuple[float, float], x: Tensor, view: Callable[[Tensor], Tensor]) -> Tensor:
    low, high = value_range
    if (low, high) == (0, 1):
        return view(x)  # the same, and saves four walks through it
    return low + view((x - low) / (high - low)) * (high - low)


def _weighted(x: Tensor, taps: Sequence[float], dim: int) -> Tensor:
    """Return the weighted sum of neighbours along a dimension: a convolution of so few channels costs ten times it.

    Neighbours whose weight is lost in rounding are left out.
    """
    kept, least = x.shape[dim] - 2 * REACH, torch.finfo(x.dtype).eps / 16
    total = taps[REACH] * x.narrow(dim, REACH, kept)
    for number, tap in enumerate(taps):
        if number != REACH and tap > least:
            total = total.add_(x.narrow(dim, number, kept), alpha=tap)
    return total


def _flipped(x: Tensor, drawn: Draw) -> Tensor:
    return x.flip(-1) if drawn.flip else x


def _far(sector: Tensor, pure: int) -> Tensor:
    """Return how far, from 0 to 1, places on a circle of six sectors are from the third of it around a pure colour."""
    return (sector - (pure + 3) % 6).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)


def _brightness(x: Tensor, factor: float) -> Tensor:
    return (x * factor).clamp_(0, 1)


def _contrast(x: Tensor, factor: float) -> Tensor:
    return torch.lerp(grey(x).mean((1, 2, 3), keepdim=True), x, factor).clamp_(0, 1)


def _saturation(x: Tensor, factor: float) -> Tensor:
    return torch.lerp(grey(x), x, factor).clamp_(0, 1) if x.shape[1] == len(GREY) else x


def _gamma(x: Tensor, exponent: float) -> Tensor:
    return x.clamp(1e-8, 1).log_().mul_(exponent).exp_()


COLOUR: tuple[Callable[[Tensor, float], Tensor], ...] = (_brightness, _contrast, _saturation, hue, _gamma)
