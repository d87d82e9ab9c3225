"""Formats sizes, ages, shares and other numbers for people."""

import math
import time
from datetime import datetime

DASH = "-"
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def size(count: int) -> str:
    """Return a number of bytes with three digits and a unit.

    Example:
        >>> size(17), size(14_913), size(70_600_000), size(2_000_000_000)
        ('17 B', '14.9 kB', '70.6 MB', '2.00 GB')
    """
    if count < 1000:
        return f"{count} B"
    power = min(4, int(math.log10(count)) // 3)
    value = count / 1000**power
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {'kMGT'[power - 1]}B"


def age(then: float, now: float | None = None) -> str:
    """Return how long ago a moment was; `now` defaults to the clock.

    Example:
        >>> age(100.0, 100.4), age(100.0, 280.0), age(0.0, 200_000.0)
        ('just now', '3 min ago', '2 d ago')
    """
    seconds = (time.time() if now is None else now) - then
    for length, unit in UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "just now"


def figure(value: float | None, digits: int = 3) -> str:
    """Return a formatted number, or a dash for none.

    Example:
        >>> figure(0.26047), figure(None), figure(0.0194, 2), figure(0.0000018)
        ('0.260', '-', '0.02', '1.8e-06')
    """
    if value is None or math.isnan(value):
        return DASH
    return f"{value:.1e}" if 0 < abs(value) < 0.5 * 10**-digits else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """Return a share in percent, or a dash for none.

    Example:
        >>> share(0.78125), share(1.0), share(None)
        ('78.1 %', '100.0 %', '-')
    """
    return DASH if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun.

    Example:
        >>> counted(1, "step"), counted(12_000, "step")
        ('1 step', '12,000 steps')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def moment(then: float) -> str:
    """Return a moment in local time, without the date if it is today."""
    local = datetime.fromtimestamp(then).astimezone()
    today = local.date() == datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")


def pairs(values: dict[str, object]) -> str:
    """Return names and values on one line.

    Example:
        >>> pairs({"tent": {"lr": 0.001}, "seed": 7})
        'tent.lr=0.001, seed=7'
    """
    said = []
    for name, value in values.items():
        if isinstance(value, dict):
            said += [f"{name}.{inner}={one}" for inner, one in value.items()]
        else:
            said.append(f"{name}={value}")
    return ", ".join(said)
