"""The command line, `acclimate`. It lists all commands at once, and loads torch only for those that need it."""

import os
import re
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import version
from types import MappingProxyType
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError as UnreadableError
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from service.cli.remote import events, feedback, models, snapshots, streams
from service.cli.remote.errors import MistakeError
from service.client import RefusedError
from service.errors import ServiceError
from service.support.validation_messages import sentences

LATER = MappingProxyType({
    "serve": "Serve models; every stream adapts by itself.",
    "demo": "Send a drifting stream to a frozen and an adapting stream, and compare their errors.",
    "compare": "Run specs over labelled data, offline, and show which of them err least.",
    "tune": "Choose a spec's options on some domains, and report their error on others.",
    "calibrate": "Compute source artefacts once, so that the server does not need the source data.",
    "export": "Write a model and its adapter as one ONNX graph, for devices with ONNX Runtime alone.",
    "bundle": "Check model bundles.",
    "key": "Make an API key and the line for the keys file.",
})  # fmt: skip
"""Commands whose modules are loaded on use, with the first line of each command's help."""
MODULES = MappingProxyType({"tune": "compare"})
"""Modules in service/cli whose name differs from the command's."""


class Commands(TyperGroup):
    """All commands. Those in `LATER` are listed without being loaded.

    Importing torch takes two seconds: too long for `acclimate --help`, for `acclimate streams list`, and for a shell
    that completes an id.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return [*LATER, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None. A command in `LATER` comes as a stub with its name and first line of help."""
        if cmd_name in LATER:
            return TyperCommand(cmd_name, help=LATER[cmd_name])
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the called command, fully loaded, and its arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, loaded(name) if name in LATER else command, rest


@cache
def loaded(name: str) -> Any:
    """Return a command in `LATER`, fully loaded."""
    module = import_module(f"service.cli.{MODULES.get(name, name)}")
    return typer.main.get_group(module.app).commands[name]


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"acclimate {version('acclimate')}")
        raise typer.Exit


app = typer.Typer(
    cls=Commands,
    help="An inference server whose model keeps adapting to the data it is sent.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Accept the options before any command."""


app.command()(models.models)
app.command()(models.adapters)
app.add_typer(streams.app, name="streams")
app.add_typer(snapshots.app, name="snapshots")
app.add_typer(events.app, name="events")
app.command()(feedback.feedback)


def main() -> None:
    """Run the command. A refusal prints one line on standard error and exits with status 2, like a wrong option."""
    try:
        sys.exit(app(prog_name="acclimate", standalone_mode=False))
    except typer.Abort:
        Console(stderr=True).print("acclimate: nothing was done", highlight=False)
        sys.exit(1)
    except TyperException as error:
        _refuse(_usage_error(error))
    except ValidationError as error:
        _refuse(sentences(map(_setting_error, error.errors())))
    except UnreadableError as error:
        _refuse(_not_json(error))
    except (ServiceError, RefusedError, MistakeError) as error:
        _refuse(str(error))


def _usage_error(error: TyperException) -> str:
    """Describe an error in options and arguments, with the wording of other validation errors if pydantic found it."""
    cause, context = error.__cause__, getattr(error, "ctx", None)
    if isinstance(cause, ValidationError):
        first = cause.errors()[0]
        error.message = sentences([{**first, "loc": ()}]).removeprefix("it is ")
    said = error.format_message().rstrip(".")
    if not said:  # no command was named, so the help was shown
        sys.exit(2)
    return f"{said}; see `{context.command_path} --help`" if context is not None else said


def _setting_error(problem: Any) -> dict[str, Any]:
    """Return a validation error located at the environment variable, if the value came from there."""
    name = str(problem["loc"][0]) if problem["loc"] else ""
    variable = f"ACCLIMATE_{name.upper()}"
    from_variable = os.environ.get(variable) == str(problem["input"])
    return {**problem, "loc": (variable if from_variable else name, *problem["loc"][1:])}


def _not_json(error: UnreadableError) -> str:
    """Describe a variable that is not JSON. Pydantic names the setting only in its message."""
    found = re.search(r'field "(\w+)"', str(error))
    variable = f"ACCLIMATE_{found[1].upper()}" if found else "a setting"
    return f'{variable} is {os.environ.get(variable, "")[:100]!r}, expected a JSON list such as ["a", "b"]'


def _refuse(said: str) -> None:
    Console(stderr=True).print(f"[bold red]acclimate:[/] {escape(said)}", soft_wrap=True, highlight=False)
    sys.exit(2)
