"""Prints the server's answers: as its JSON, or formatted for people."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import typer
from rich.console import RenderableType
from rich.text import Text

from service.cli.output.tables import console, plain
from service.views.view import View

AnyView = TypeVar("AnyView", bound=View)


def print_one(view: AnyView, shown: Callable[[AnyView], RenderableType], *, as_json: bool) -> None:
    """Print one item."""
    said = view.json_text() if as_json else shown(view)
    if isinstance(said, str):
        say(said)
    else:
        console().print(said)


def print_list(
    views: Iterable[AnyView], shown: Callable[[Sequence[AnyView], int], RenderableType], none: str, *, as_json: bool
) -> None:
    """Print a list as a JSON array with one item per line, or as a table; `none` is printed for an empty list."""
    if as_json:
        print_array(views)
        return
    listed, out = list(views), console()
    out.print(shown(listed, out.width) if listed else Text(none, style="dim"))


def print_array(views: Iterable[View]) -> None:
    """Print a JSON array with one item per line. If the first page is refused, nothing is printed."""
    opening = "["
    for view in views:
        typer.echo(f"{opening}\n{view.json_text()}", nl=False)
        opening = ","
    typer.echo("[]" if opening == "[" else "\n]")


def say(text: str | Text) -> None:
    """Print a line."""
    console().print(plain(text), soft_wrap=True)
