"""Plots of a comparison as PNG files: error over time, against batch size and against cost. Needs matplotlib."""

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, TypeAlias

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from service.offline.evaluation.comparison import Cell
from service.offline.evaluation.protocols import Plan

# Distinguishable with colour blindness: Okabe and Ito, Color Universal Design, 2008, without the yellow, which is too
# pale on white.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
MOST_BORDERS = 30
"""The time axis names domains only if there are at most this many."""
MOST_MARKED = 20
"""Curves of at most this many points have markers, because a single point would draw no line."""
Draw: TypeAlias = Callable[[Axes, list[Cell], "dict[str, Style]"], None]
Style: TypeAlias = dict[str, Any]


def write_plots(cells: Sequence[Cell], plans: Sequence[Plan], names: Sequence[str], folder: Path) -> list[Path]:
    """Plot a comparison into a folder. Error is plotted against batch size only if there are several sizes.

    Args:
        cells: The results.
        plans: The order of images under each protocol, for the borders of domains.
        names: The names of the domains.
        folder: The folder; it is created if it does not exist.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = [cell for cell in cells if cell.runs]
    sizes = sorted({cell.batch for cell in shown})
    files = [_over_time([cell for cell in shown if cell.batch == size], plans, names, folder) for size in sizes]
    if len(sizes) > 1:
        files.append(_panels(shown, _draw_batches, "Error against batch size", folder / "error_by_batch.png"))
    if shown:
        files.append(_panels(shown, _draw_cost, "Error against cost", folder / "error_by_cost.png"))
    return files


def _styles(cells: Sequence[Cell]) -> dict[str, Style]:
    """Return a colour and a marker for each pipeline, and dashed lines once the colours are used up."""
    texts = dict.fromkeys(cell.pipeline for cell in cells)
    looks = zip(cycle(COLOURS), cycle(MARKERS), strict=False)
    return {
        text: {"color": colour, "marker": marker, "linestyle": DASHES[number // len(COLOURS) % len(DASHES)]}
        for number, (text, (colour, marker)) in enumerate(zip(texts, looks, strict=False))
    }


def _over_time(cells: list[Cell], plans: Sequence[Plan], names: Sequence[str], folder: Path) -> Path:
    styles = _styles(cells)
    figure = Figure(figsize=(12, 0.9 + 3.9 * len(plans)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(plans), 1, squeeze=False)
    for axes, plan in zip(grid[:, 0], plans, strict=True):
        total = len(plan.items)
        for cell in (cell for cell in cells if cell.protocol == plan.protocol):
            step = total / len(cell.course)
            middles = [(place + 0.5) * step for place in range(len(cell.course))]
            look = styles[cell.pipeline] if len(cell.course) <= MOST_MARKED else {**styles[cell.pipeline], "marker": ""}
            axes.plot(
                middles, cell.course, label=f"{cell.pipeline}: {cell.error:.1f} %", linewidth=1.4, markersize=4, **look
            )
        _name_domains(axes, plan, names)
        axes.set(xlim=(0, total), ylim=(0, None), xlabel="images seen", ylabel="error in %")
        axes.set_title(f"{plan.protocol}, batches of {cells[0].batch}", loc="left", pad=44 if _named(plan) else None)
        _finish(axes)
        axes.legend(
            loc="upper left", bbox_to_anchor=(1.005, 1), frameon=False, fontsize=9, title="spec: error over all"
        )
    figure.suptitle("Error over time", fontweight="bold", x=0.01, ha="left")
    return _save(figure, folder / f"error_over_time_batch_{cells[0].batch}.png")


def _named(plan: Plan) -> bool:
    return len(plan.borders) <= MOST_BORDERS


def _name_domains(axes: Axes, plan: Plan, names: Sequence[str]) -> None:
    """Mark and name the start of each domain, unless there are too many, as in `mixed`."""
    if not _named(plan):
        return
    ends = [start for start, _ in plan.borders[1:]] + [len(plan.items)]
    for (start, number), end in zip(plan.borders, ends, strict=True):
        axes.axvline(start, color="0.8", linewidth=0.8, zorder=0)
        axes.text(
            (start + end) / 2, 1.01, names[number].replace("_", " "), transform=axes.get_xaxis_transform(),
            rotation=30, fontsize=8, ha="left", va="bottom",
        )  # fmt: skip


def _panels(cells: list[Cell], draw: Draw, title: str, path: Path) -> Path:
    """Draw a panel for each protocol in two columns, with one legend."""
    protocols = list(dict.fromkeys(cell.protocol for cell in cells))
    columns = min(2, len(protocols))
    rows = -(-len(protocols) // columns)
    figure = Figure(figsize=(1.5 + 5.2 * columns + 2, 0.8 + 3.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    styles = _styles(cells)
    for axes, protocol in zip(grid, protocols, strict=False):
        draw(axes, [cell for cell in cells if cell.protocol == protocol], styles)
        axes.set_title(protocol, loc="left")
        axes.set_ylabel("error in %")
        axes.set_ylim(bottom=0)
        _finish(axes)
    for axes in grid[len(protocols) :]:
        axes.set_visible(False)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9, title="spec")
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    return _save(figure, path)


def _draw_batches(axes: Axes, cells: list[Cell], styles: dict[str, Style]) -> None:
    sizes = sorted({cell.batch for cell in cells})
    for text, style in styles.items():
        mine = sorted((cell for cell in cells if cell.pipeline == text), key=lambda cell: cell.batch)
        axes.errorbar(
            [cell.batch for cell in mine], [cell.error for cell in mine],
            yerr=[cell.standard_error for cell in mine], label=text, capsize=3, markersize=5, **style,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("images per batch")


def _draw_cost(axes: Axes, cells: list[Cell], styles: dict[str, Style]) -> None:
    several = len({cell.batch for cell in cells}) > 1
    for text, style in styles.items():
        mine = sorted((cell for cell in cells if cell.pipeline == text), key=lambda cell: cell.batch)
        costs = [cell.milliseconds / cell.batch for cell in mine]
        look = style if several else {**style, "linestyle": ""}
        axes.plot(costs, [cell.error for cell in mine], label=text, markersize=7, linewidth=0.8, **look)
        if several:
            for cell, cost in zip(mine, costs, strict=True):
                axes.annotate(
                    str(cell.batch), (cost, cell.error), xytext=(5, 4), textcoords="offset points", fontsize=7
                )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()
    axes.set_xlabel("milliseconds per image, one thread" + (" (numbers: images per batch)" if several else ""))


def _finish(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=130)
    return path
