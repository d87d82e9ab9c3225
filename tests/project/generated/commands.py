"""The page of every command."""

from collections.abc import Iterator

import typer
from typer.core import TyperCommand, TyperGroup

from service.cli.main import LATER, app, loaded
from tests.project.generated.tables import page, table

INTRO = """\
`acclimate COMMAND --help` lists a command's arguments and options, with an example. Commands for a running server
find it by `--url` or `ACCLIMATE_URL`; [operating](operating.md) shows them at work."""


def commands() -> str:
    rows = ((f"`acclimate {name}`", help_of(command).partition("\n\n")[0]) for name, command in walked())
    return page("Commands", INTRO, table(("command", "what it does"), rows))


def walked() -> list[tuple[str, TyperCommand]]:
    """Every command by its full name, in the order of the help."""
    return list(_below(typer.main.get_command(app), ""))


def help_of(command: TyperCommand) -> str:
    return command.help or ""


def _below(command: object, name: str) -> Iterator[tuple[str, TyperCommand]]:
    if isinstance(command, TyperGroup):
        for each in command.list_commands(None):
            whole = loaded(each) if not name and each in LATER else command.get_command(None, each)
            yield from _below(whole, f"{name} {each}".strip())
    elif isinstance(command, TyperCommand):
        yield name, command
