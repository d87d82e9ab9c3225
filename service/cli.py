"""The command line, `acclimate`: what operators do with a running server starts at once, the rest loads torch first."""

import sys
from functools import cache
from typing import Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from service.client import RefusedError
from service.errors import ServiceError
from service.operating import events, snapshots, streams
from service.operating.errors import MistakeError

LOADED_WHEN_NEEDED = ("serve", "demo", "compare", "tune", "calibrate", "export", "bundle", "key")
"""The commands of `service.commands`, in the order of the help."""


class Commands(TyperGroup):
    """All commands; those of `service.commands` are imported when one of them is asked for.

    Torch takes two seconds to import: too long for `acclimate streams list`, and for a shell that completes an id.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return [*LOADED_WHEN_NEEDED, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None."""
        return _loaded(cmd_name) if cmd_name in LOADED_WHEN_NEEDED else super().get_command(ctx, cmd_name)


@cache
def _loaded(name: str) -> Any:
    from service.commands import app as group

    return typer.main.get_group(group).commands[name]


app = typer.Typer(
    cls=Commands,
    help="An inference server whose model keeps adapting to the data it is sent.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)
app.add_typer(streams.app, name="streams")
app.add_typer(snapshots.app, name="snapshots")
app.add_typer(events.app, name="events")


def main() -> None:
    """Run the command; a refusal is one line on standard error and exit status 2."""
    try:
        app(prog_name="acclimate")
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}, given {str(e['input'])[:100]!r}" for e in error.errors()
        )
        _refuse("; ".join(problems))
    except (ServiceError, RefusedError, MistakeError) as error:
        _refuse(str(error))


def _refuse(said: str) -> None:
    Console(stderr=True).print(f"[bold red]acclimate:[/] {escape(said)}", soft_wrap=True, highlight=False)
    sys.exit(2)
