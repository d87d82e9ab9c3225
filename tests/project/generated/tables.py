"""Markdown tables."""

from collections.abc import Iterable, Sequence

NOTE = "<!-- Written by `make docs` from the code: change the code, or the text in tests/project/generated. -->"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are single lines in which `|` stands for itself."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def page(title: str, *paragraphs: str) -> str:
    """Return a page of its parts, with a note that it is generated."""
    return "\n\n".join((f"# {title}", NOTE, *paragraphs)) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
