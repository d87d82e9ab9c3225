"""The random augmentations of mean-teacher methods (CoTTA, RMT, RoTTA) and of ROID, in pure tensor code.

The order is: colour jitter; rotation with shift and scale, repeating the border; slight blur; flip; slight noise.
One draw serves the whole batch; only the noise is drawn per element. ROID's augmentation has neither blur nor noise.

Public code pads by half the side instead of repeating the border. The results are equal except for black corners in
images that are long or under 16 pixels.
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
"""Positions of red, green and blue on the colour circle, in sixths."""
LEAST_SPAN = 1e-12
REACH = 2
"""Radius of the blur, in pixels."""
NOISE = 0.005
"""Standard deviation of the noise, for values in [0, 1]."""


@dataclass(frozen=True)
class Draw:
    """The random parameters of one augmentation, the same for every image of a batch.

    Attributes:
        order: Order of the five colour operations.
        factors: Brightness .6-1.4, contrast .7-1.3, saturation .5-1.5, hue shift -.06-.06 turns, gamma .7-1.3.
        degrees: Rotation, -15 to 15.
        shift: Whole pixels (x, y), up to an eighth of the side.
        scale: .9-1.1.
        sigma: Standard deviation of the blur, in pixels, .001-.5.
        flip: True to mirror images left to right.
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
    """Draw an augmentation for images of this size."""

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
    """Draw an augmentation and apply it to x (N, C, H, W); x and the result lie within the value range."""
    drawn = draw(generator, *x.shape[-2:])
    return _within(value_range, x, lambda unit: augment(unit, drawn, generator))


def random_sharp_view(x: Tensor, generator: torch.Generator, value_range: tuple[float, float]) -> Tensor:
    """Draw an augmentation and apply it to x (N, C, H, W) without blur and noise; both lie within the value range."""
    drawn = draw(generator, *x.shape[-2:])
    return _within(value_range, x, lambda unit: augment_sharp(unit, drawn))


def mild_view(x: Tensor, generator: torch.Generator, value_range: tuple[float, float]) -> Tensor:
    """Augment x for EcoTTA's warm-up, with one draw for all images.

    The probabilities are 0.4 for colour jitter, 0.2 for blur and 0.1 for removing colour.
    """

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
    moved = _sampled(colour(x.clamp(0, 1), drawn), _grid(x, drawn, REACH), "border")
    x = _flipped(_blurred(moved, drawn.sigma), drawn)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return (x + NOISE * noise).clamp(0, 1)


def augment_sharp(x: Tensor, drawn: Draw) -> Tensor:
    """Return ROID's augmented images (N, C, H, W) within [0, 1]: mirrored at the border, without blur and noise."""
    height, width = x.shape[-2:]
    top, left = height // 2, width // 2  # reflection padding must be less than the side
    padded = functional.pad(colour(x.clamp(0, 1), drawn), (left, left, top, top), mode="reflect")
    share = torch.tensor([width / padded.shape[-1], height / padded.shape[-2]], dtype=x.dtype)
    return _flipped(_sampled(padded, _grid(x, drawn) * share, "zeros"), drawn).clamp(0, 1)


def colour(x: Tensor, drawn: Draw) -> Tensor:
    """Jitter colours of x (N, C, H, W) in [0, 1]; saturation and hue leave images unchanged that are not RGB."""
    for number in drawn.order:
        x = COLOUR[number](x, drawn.factors[number])
    return x


def grey(x: Tensor) -> Tensor:
    """Convert x (N, C, H, W) to grey images (N, 1, H, W)."""
    if x.shape[1] != len(GREY):
        return x.mean(1, keepdim=True)
    red, green, blue = x[:, :1], x[:, 1:2], x[:, 2:]
    return (GREY[0] * red).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])


def hue(x: Tensor, turns: float) -> Tensor:
    """Rotate the hue of x (N, 3, H, W) by a fraction of the colour circle.

    The code avoids `torch.where` and remainders, which cost ten times as much as an addition.

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
    """Rotate, scale and shift x (N, C, H, W) about its centre, bilinearly; pixels from outside the image are 0."""
    return _sampled(x, _grid(x, drawn), "zeros")


def blur(x: Tensor, sigma: float) -> Tensor:
    """Blur x (N, C, H, W) by a Gaussian over 5 x 5 pixels, mirrored at the border."""
    return _blurred(functional.pad(x, (REACH, REACH, REACH, REACH), mode="reflect"), sigma)


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Blur x (N, C, H, W) without padding: the result is (N, C, H - 2 REACH, W - 2 REACH)."""
    weights = [math.exp(-((tap - REACH) ** 2) / (2 * sigma**2)) for tap in range(2 * REACH + 1)]
    taps = [weight / sum(weights) for weight in weights]
    return _weighted(_weighted(x, taps, -1), taps, -2)


def _grid(x: Tensor, drawn: Draw, rim: int = 0) -> Tensor:
    """Return the sampling grid (1, H + 2 rim, W + 2 rim, 2) for x (N, C, H, W).

    It gives each pixel's source position, -1 to 1 within the image; `rim` adds that many pixels on every side.
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


def _sampled(x: Tensor, grid: Tensor, padding: Literal["zeros", "border"]) -> Tensor:
    """Sample every image of x (N, C, H, W) at a grid (1, h, w, 2), bilinearly; `padding` fills positions outside."""
    grids = grid.expand(len(x), -1, -1, -1)
    return functional.grid_sample(x, grids, mode="bilinear", padding_mode=padding, align_corners=False)


def _within(value_range: tuple[float, float], x: Tensor, view: Callable[[Tensor], Tensor]) -> Tensor:
    low, high = value_range
    if (low, high) == (0, 1):
        return view(x)  # saves four passes over x
    return low + view((x - low) / (high - low)) * (high - low)


def _weighted(x: Tensor, taps: Sequence[float], dim: int) -> Tensor:
    """Return the weighted sum of neighbours along a dimension; a convolution of so few channels is ten times slower.

    Neighbours with a weight below rounding are left out.
    """
    size, least = x.shape[dim] - 2 * REACH, torch.finfo(x.dtype).eps / 16
    total = taps[REACH] * x.narrow(dim, REACH, size)
    for number, tap in enumerate(taps):
        if number != REACH and tap > least:
            total = total.add_(x.narrow(dim, number, size), alpha=tap)
    return total


def _flipped(x: Tensor, drawn: Draw) -> Tensor:
    return x.flip(-1) if drawn.flip else x


def _far(sector: Tensor, pure: int) -> Tensor:
    """Return the distance, 0 to 1, of positions on a circle of six sectors from the third around a pure colour."""
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
