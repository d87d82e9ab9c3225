"""The command line, `acclimate`: lists all commands at once, and loads torch only for those that need it."""

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
    "tune": "Choose a spec's options on some domains, and report what they are worth on others.",
    "calibrate": "Compute what methods need from source data, once, so that the server does not need the data.",
    "export": "Write a model and its adapter as one ONNX graph, for devices with ONNX Runtime alone.",
    "bundle": "Check model bundles.",
    "key": "Make an API key and the line for the keys file.",
})  # fmt: skip
"""Commands whose modules are loaded when they are called, each with the first line of its help."""
MODULES = MappingProxyType({"tune": "compare"})
"""Modules of service/cli that are not named as their command."""


class Commands(TyperGroup):
    """All commands, listed without loading those of `LATER`.

    Torch takes two seconds to import: too long for `acclimate --help` and for `acclimate streams list`, and for a shell
    that completes an id.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return [*LATER, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None; one of `LATER` with its name and the first line of its help only."""
        if cmd_name in LATER:
            return TyperCommand(cmd_name, help=LATER[cmd_name])
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is called, loaded, and its arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, loaded(name) if name in LATER else command, rest


@cache
def loaded(name: str) -> Any:
    """Return a command of `LATER` whole."""
    module = import_module(f"service.cli.{MODULES.get(name, name)}")
    return typer.main.get_group(module.app).commands[name]


def _print_version(asked: bool) -> None:
    if asked:
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
    """Take the options that go before any command."""


app.command()(models.models)
app.command()(models.adapters)
app.add_typer(streams.app, name="streams")
app.add_typer(snapshots.app, name="snapshots")
app.add_typer(events.app, name="events")
app.command()(feedback.feedback)


def main() -> None:
    """Run the command; a refusal is one line on standard error and exit status 2, as for a wrong option."""
    try:
        sys.exit(app(prog_name="acclimate", standalone_mode=False))
    except typer.Abort:
        Console(stderr=True).print("acclimate: nothing was done", highlight=False)
        sys.exit(1)
    except TyperException as error:
        _refuse(_of_usage(error))
    except ValidationError as error:
        _refuse(sentences(map(_of_setting, error.errors())))
    except UnreadableError as error:
        _refuse(_not_json(error))
    except (ServiceError, RefusedError, MistakeError) as error:
        _refuse(str(error))


def _of_usage(error: TyperException) -> str:
    """Return what is wrong with options and arguments, in our words where typer's are pydantic's."""
    cause, context = error.__cause__, getattr(error, "ctx", None)
    if isinstance(cause, ValidationError):
        first = cause.errors()[0]
        error.message = sentences([{**first, "loc": ()}]).removeprefix("it is ")
    said = error.format_message().rstrip(".")
    if not said:  # the help was shown, as no command was named
        sys.exit(2)
    return f"{said}; see `{context.command_path} --help`" if context is not None else said


def _of_setting(problem: Any) -> dict[str, Any]:
    """Return a finding whose place is the environment variable, where the value came from there."""
    name = str(problem["loc"][0]) if problem["loc"] else ""
    variable = f"ACCLIMATE_{name.upper()}"
    from_there = os.environ.get(variable) == str(problem["input"])
    return {**problem, "loc": (variable if from_there else name, *problem["loc"][1:])}


def _not_json(error: UnreadableError) -> str:
    """Return in words that a variable, which pydantic names only within its message, is not JSON."""
    found = re.search(r'field "(\w+)"', str(error))
    variable = f"ACCLIMATE_{found[1].upper()}" if found else "a setting"
    return f'{variable} is {os.environ.get(variable, "")[:100]!r}, expected a JSON list such as ["a", "b"]'


def _refuse(said: str) -> None:
    Console(stderr=True).print(f"[bold red]acclimate:[/] {escape(said)}", soft_wrap=True, highlight=False)
    sys.exit(2)
