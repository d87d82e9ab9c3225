"""Tables that fit a terminal: the least important columns are left out if it is narrow."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 160
"""Line length if output is not a terminal, as in a pipe."""
GAP = 2


@dataclass(frozen=True, slots=True)
class Column:
    """A column and its cells.

    Attributes:
        name: Its heading.
        cells: Its cells, from the first row to the last.
        weight: 0 for a column that is always shown; the greatest weight is left out first.
        justify: Alignment of the cells.
        folds_at: Longer cells may wrap if space is short; None if no cell may.
    """

    name: str
    cells: Sequence[str | Text]
    weight: int = 0
    justify: Literal["left", "right"] = "left"
    folds_at: int | None = None

    @property
    def width(self) -> int:
        """The smallest width of the column."""
        widest = max(cell_len(str(cell)) for cell in (self.name, *self.cells))
        return widest if self.folds_at is None else min(widest, self.folds_at)


def console() -> Console:
    """Return standard output, with colours only on a terminal."""
    made = Console(highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PIPED_WIDTH
    return made


def table(columns: Sequence[Column], width: int) -> Table:
    """Return a table of the columns that fit, with a caption that names the others."""
    shown = fitting(columns, width)
    left_out = [column.name for column in columns if column not in shown]
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    if left_out:
        made.caption = f"too narrow for: {', '.join(left_out)}"
        made.caption_justify = "left"
    for column in shown:
        made.add_column(column.name, justify=column.justify, overflow="fold", no_wrap=column.folds_at is None)
    for cells in zip(*(column.cells for column in shown), strict=True):
        made.add_row(*map(plain, cells))
    return made


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Return the columns that fit into a width, in their order.

    Example:
        >>> columns = [Column("stream", ["a"]), Column("drift", ["0.1"], 2), Column("bytes", ["7"], 1)]
        >>> [column.name for column in fitting(columns, 16)]
        ['stream', 'bytes']
    """
    shown = list(columns)
    while sum(column.width + GAP for column in shown) - GAP > width:
        least = max(shown, key=lambda column: column.weight)
        if least.weight == 0:
            break
        shown.remove(least)
    return shown


def facts(rows: Sequence[tuple[str, str | Text]]) -> Table:
    """Return a table of names and values, one per line."""
    made = Table(box=None, show_header=False, padding=(0, GAP, 0, 0), pad_edge=False)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, said in rows:
        made.add_row(name, plain(said))
    return made


def plain(said: str | Text) -> Text:
    r"""Return text without markup and control characters: notes and names come from others.

    Example:
        >>> plain("[red]\x1b[2J").plain
        '[red]?[2J'
    """
    if isinstance(said, Text):
        return said
    return Text("".join(letter if letter.isprintable() else "?" for letter in said))
