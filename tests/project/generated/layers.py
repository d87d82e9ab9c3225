"""The drawing of the layers, from the import contracts in `pyproject.toml`."""

import tomllib
from collections.abc import Iterable, Sequence
from html import escape

from tests.serving import ROOT

PACKAGES = ("service", "adapters")
WIDTH, ROW, GAP, MARGIN, HEAD = 360, 26, 6, 20, 48
APART = 60
FILL = {"service": "#d9eeea", "adapters": "#f4e8cf"}
STYLE = "font: 13px ui-monospace, monospace; fill: #1d2b29"
Layers = Sequence[Sequence[str]]


def layers(package: str) -> Layers:
    """The layers of a package, the upper first; each may hold several modules."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (found,) = (each for each in contracts if each["type"] == "layers" and each["containers"] == [package])
    return [line.replace(":", "|").replace(" ", "").split("|") for line in found["layers"]]


def drawing() -> str:
    """Two columns of boxes: the server's layers, and the engine's, which they use."""
    columns = {package: layers(package) for package in PACKAGES}
    height = HEAD + max(map(len, columns.values())) * (ROW + GAP) + MARGIN
    width = 2 * WIDTH + APART + 2 * MARGIN
    left = {package: MARGIN + index * (WIDTH + APART) for index, package in enumerate(PACKAGES)}
    drawn = [line for package, rows in columns.items() for line in _column(package, rows, left[package])]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'role="img" aria-label="The layers of service and of adapters">'
    )
    ground = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, ground, *drawn, _arrow(left), "</svg>"]) + "\n"


def _column(package: str, rows: Layers, x: int) -> Iterable[str]:
    yield f'<text x="{x}" y="{HEAD - 18}" style="{STYLE}; font-weight: bold">{package}: imports lead down</text>'
    for index, row in enumerate(rows):
        y = HEAD + index * (ROW + GAP)
        yield f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{ROW}" rx="4" fill="{FILL[package]}"/>'
        yield f'<text x="{x + 10}" y="{y + 18}" style="{STYLE}">{escape(" · ".join(row))}</text>'


def _arrow(left: dict[str, int]) -> str:
    """From the server to the engine, which does not know it."""
    x, y = left["service"] + WIDTH + 6, HEAD - 22
    end = left["adapters"] - 6
    return f'<path d="M{x} {y} H{end} m-7 -5 l7 5 l-7 5" fill="none" stroke="#1d2b29" stroke-width="1.5"/>'
