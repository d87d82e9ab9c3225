"""`acclimate streams`: list, show, create, set, reset, delete, watch."""

import time
from contextlib import suppress
from itertools import islice
from typing import Annotated, Any

import typer

from service.cli.output import lists
from service.cli.output.printing import print_list, print_one, say
from service.cli.remote import details, parsing, watch_lines
from service.cli.remote.confirmation import confirm, loss_of_state
from service.cli.remote.connection import DEFAULT_URL, reach
from service.cli.remote.errors import MistakeError
from service.cli.remote.options import AsJson, Guard, IfGeneration, KeyFile, Settings, StreamId, Url, Yes
from service.client import Client, RefusedError, StreamRow

app = typer.Typer(help="List, show and change streams.", no_args_is_help=True)
UNFIT = 422
NONE = "There are no streams. A stream's first request creates it, or `acclimate streams create`."

Model = Annotated[str | None, typer.Option(help="The model; required if the server has several.")]
Adapter = Annotated[str | None, typer.Option(help="The spec, such as `unmix_tns+eta+lame`, or `auto`.")]
Mode = Annotated[
    str | None,
    typer.Option(help="adapt: learn. frozen: answer only. shadow: learn, but answer as the source model."),
]
Durability = Annotated[
    str | None,
    typer.Option(help="ephemeral: lost at a restart. periodic: saved every few seconds. sync: before each answer."),
]
Batch = Annotated[
    int | None,
    typer.Option("--adapt-batch-size", min=1, help="Images to collect for a step; 1 for a step with each request."),
]
Idempotent = Annotated[
    bool | None,
    typer.Option("--idempotent/--not-idempotent", help="Refuse a request id that comes with another body."),
]


@app.command("list")
def list_streams(url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """List all streams with their state and signals.

    Columns that do not fit the terminal are left out. Example: `acclimate streams list --json | jq -r '.[].id'`
    """
    with reach(url, key_file) as client:
        rows = {} if as_json else {row.id: row for row in client.overview()}
        print_list(client.streams(), lambda all_, width: lists.streams(all_, rows, width), NONE, as_json=as_json)


@app.command()
def show(stream: StreamId, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """Show one stream in full: its settings, state, signals and guard.

    Example: `acclimate streams show camera-7`
    """
    with reach(url, key_file) as client:
        view = client.stream(stream)
        row = None if as_json else _row(client, stream)
        print_one(view, lambda one: details.stream(one, row), as_json=as_json)


@app.command()
def create(
    stream: Annotated[str | None, typer.Argument(help="The stream's id. Default: the server makes one up.")] = None,
    model: Model = None,
    adapter: Adapter = None,
    option: Settings = None,
    mode: Mode = None,
    guard: Guard = None,
    durability: Durability = None,
    adapt_batch_size: Batch = None,
    idempotent: Idempotent = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Create a stream. Omitted settings take the model's defaults.

    Example: `acclimate streams create camera-7 --adapter batch+eta --option eta.lr=1e-4 --guard every=1000`
    """
    settings = _set_only(
        id=stream, model=model, adapter=adapter, mode=mode, durability=durability, adapt_batch_size=adapt_batch_size,
        idempotent=idempotent,
    )  # fmt: skip
    settings |= {"options": parsing.options(option, {})} if option else {}
    settings |= {"guard": parsing.guard(guard, {})} if guard else {}
    with reach(url, key_file) as client:
        view = client.create(settings)
        print_one(view, lambda one: details.stream(one, None), as_json=as_json)


@app.command("set")
def change(
    stream: StreamId,
    adapter: Adapter = None,
    option: Settings = None,
    mode: Mode = None,
    guard: Guard = None,
    durability: Durability = None,
    adapt_batch_size: Batch = None,
    idempotent: Idempotent = None,
    if_generation: IfGeneration = None,
    yes: Yes = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Change settings of a stream. Options and rules that are not named stay.

    A new adapter, or options that change shapes, start from the initial state; the command asks before that.
    Example: `acclimate streams set camera-7 --mode frozen`
    """
    settings = _set_only(
        adapter=adapter, mode=mode, durability=durability, adapt_batch_size=adapt_batch_size, idempotent=idempotent
    )
    if not (settings or option or guard):
        raise MistakeError("nothing is given to change; expected one of --adapter, --option, --mode, --guard, ...")
    with reach(url, key_file) as client:
        view = client.stream(stream)
        if option:
            settings["options"] = parsing.options(option, view.options if adapter in (None, view.adapter) else {})
        if guard:
            settings["guard"] = parsing.guard(guard, view.guard)
        client.change(stream, settings, if_generation, dry_run=True)
        if adapter or option:
            confirm(loss_of_state(client, view, "may start from its initial state"), yes=yes)
        changed = client.change(stream, settings, if_generation)
        print_one(changed, lambda one: details.stream(one, None), as_json=as_json)


@app.command()
def reset(
    stream: StreamId,
    if_generation: IfGeneration = None,
    yes: Yes = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Return a stream to the source state, after a question that names the loss.

    Example: `acclimate streams reset camera-7 --if-generation 300`
    """
    with reach(url, key_file) as client:
        confirm(_loss_by_reset(client, stream, if_generation), yes=yes)
        view = client.reset(stream, if_generation)
        print_one(view, lambda one: f"{one.id} is in the source state, generation {one.generation}", as_json=as_json)


@app.command()
def delete(
    stream: StreamId,
    if_generation: IfGeneration = None,
    yes: Yes = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
) -> None:
    """End a stream and delete its state; its snapshots stay. Unfit and damaged streams can be ended too.

    Example: `acclimate streams delete camera-7`
    """
    with reach(url, key_file) as client:
        client.delete(stream, if_generation, dry_run=True)
        confirm(_loss(client, stream, "ends"), yes=yes)
        client.delete(stream, if_generation)
        say(f"{stream} has ended; its snapshots stay")


@app.command()
def watch(
    stream: StreamId,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between requests to the server.")] = 1.0,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many lines.")] = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Print a line whenever a stream has changed or answered, until Ctrl-C. With --json, each line is its JSON.

    Example: `acclimate streams watch camera-7 --every 5`
    """
    with suppress(KeyboardInterrupt), reach(url, key_file) as client:
        if not as_json:
            client.stream(stream)
            say(watch_lines.HEADINGS)
        for view in islice(watch_lines.moves(client, stream, every), count):
            say(view.json_text() if as_json else watch_lines.line(view, time.time()))


def _loss_by_reset(client: Client, stream: str, generation: int | None) -> str:
    """Describe the loss by a reset. A stream that is unfit for its model, or damaged, can be reset too.

    Raises:
        RefusedError: If the server would refuse the reset.
    """
    try:
        client.reset(stream, generation, dry_run=True)
    except RefusedError as error:
        if error.status != UNFIT:
            raise
    return _loss(client, stream, "goes back to the source state")


def _loss(client: Client, stream: str, change: str) -> str:
    """Describe a stream's loss. For an unfit or damaged stream, the server's error is used."""
    try:
        return loss_of_state(client, client.stream(stream), change)
    except RefusedError as error:
        if error.status != UNFIT:
            raise
        return f"{error}. What it has learned is lost."


def _set_only(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _row(client: Client, stream: str) -> StreamRow | None:
    return next((row for row in client.overview() if row.id == stream), None)
