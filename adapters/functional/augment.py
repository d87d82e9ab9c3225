"""The random augmentation of mean-teacher methods (CoTTA, RMT, RoTTA), and ROID's, in pure tensor code.

In this order: colour jitter, padding to twice the side, rotation with shift and scale, slight blur, centre crop, flip,
slight noise. One draw serves the whole batch; only the noise is drawn per element. ROID's has neither blur nor noise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

GREY = (0.2989, 0.587, 0.114)
PURE = (0, 2, 4)
"""Where red, green and blue are on the colour circle, in sixths of it."""
LEAST_SPAN = 1e-12
BLUR_TAPS = 5
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
    padded = _padded(colour(x.clamp(0, 1), drawn), "replicate")
    top, left = (min(BLUR_TAPS // 2, side // 2) for side in x.shape[-2:])
    seen = _sampled(padded, _places(padded, drawn), x.shape, (top, left))  # the centre, with a rim for the blur
    x = _flipped(blur(seen, drawn.sigma)[..., top : top + x.shape[-2], left : left + x.shape[-1]], drawn)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return (x + NOISE * noise).clamp(0, 1)


def augment_sharp(x: Tensor, drawn: Draw) -> Tensor:
    """Return ROID's augmented images (N, C, H, W) within [0, 1]: mirrored at the border, no blur, no noise."""
    padded = _padded(colour(x.clamp(0, 1), drawn), "reflect")
    return _flipped(_sampled(padded, _places(padded, drawn), x.shape, (0, 0)), drawn).clamp(0, 1)


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
    places = _places(x, drawn).expand(len(x), -1, -1, -1)
    return functional.grid_sample(x, places, mode="bilinear", padding_mode="zeros", align_corners=False)


def blur(x: Tensor, sigma: float) -> Tensor:
    """Blur x (N, C, H, W) by a Gaussian over 5 x 5 pixels, mirrored at the border."""
    half = BLUR_TAPS // 2
    weights = [math.exp(-((tap - half) ** 2) / (2 * sigma**2)) for tap in range(BLUR_TAPS)]
    taps = [weight / sum(weights) for weight in weights]
    x = functional.pad(x, (half, half, half, half), mode="reflect")
    return _weighted(_weighted(x, taps, -1), taps, -2)


def _places(x: Tensor, drawn: Draw) -> Tensor:
    """Return where each pixel of any image of x (N, C, H, W) comes from: (1, H, W, 2), from -1 to 1 within it."""
    height, width = x.shape[-2:]
    angle = math.radians(drawn.degrees)
    cos, sin = math.cos(angle) / drawn.scale, math.sin(angle) / drawn.scale
    dx, dy = 2 * drawn.shift[0] / width, 2 * drawn.shift[1] / height
    skew = height / width  # grid coordinates run from -1 to 1 along both sides
    matrix = [[cos, sin * skew, 0.0], [-sin / skew, cos, 0.0]]
    for row in matrix:
        row[2] = -row[0] * dx - row[1] * dy
    return functional.affine_grid(torch.tensor([matrix], dtype=x.dtype), [1, *x.shape[1:]], align_corners=False)


def _sampled(padded: Tensor, places: Tensor, shape: torch.Size, rim: tuple[int, int]) -> Tensor:
    """Sample the centre of padded images, of a shape (N, C, H, W) with a rim of so many rows and columns beyond it.

    The rest of the padded images is never looked at.
    """
    height, width = shape[-2:]
    top, left = height // 2 - rim[0], width // 2 - rim[1]
    centre = places[:, top : top + height + 2 * rim[0], left : left + width + 2 * rim[1]].expand(
        len(padded), -1, -1, -1
    )
    return functional.grid_sample(padded, centre, mode="bilinear", padding_mode="zeros", align_corners=False)


def _within(value_range: tuple[float, float], x: Tensor, view: Callable[[Tensor], Tensor]) -> Tensor:
    low, high = value_range
    return low + view((x - low) / (high - low)) * (high - low)


def _weighted(x: Tensor, taps: Sequence[float], dim: int) -> Tensor:
    """Return the weighted sum of neighbours along a dimension: a convolution of so few channels costs ten times it."""
    kept = x.shape[dim] - len(taps) + 1
    total = taps[0] * x.narrow(dim, 0, kept)
    for number, tap in enumerate(taps[1:], 1):
        total = total.add_(x.narrow(dim, number, kept), alpha=tap)
    return total


def _padded(x: Tensor, mode: str) -> Tensor:
    """Pad x (N, C, H, W) by half its side, the most that mirroring can do at every size."""
    top, left = x.shape[-2] // 2, x.shape[-1] // 2
    return functional.pad(x, (left, left, top, top), mode=mode)


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
