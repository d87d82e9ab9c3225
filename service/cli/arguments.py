"""Command-line options that several commands share."""

from typing import Annotated

import typer

AllowFactory = Annotated[
    list[str] | None,
    typer.Option("--allow-factory", help="A model factory `package.module:callable` that bundles can name."),
]
