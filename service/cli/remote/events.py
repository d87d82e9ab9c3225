"""`acclimate events`: lists the log of actions on streams, or follows it live."""

from collections import deque
from contextlib import suppress
from itertools import islice
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from service.cli.output import lists
from service.cli.output.printing import print_array, print_list, say
from service.cli.remote.connection import DEFAULT_URL, reach
from service.cli.remote.existence import check_has_events
from service.cli.remote.options import AsJson, KeyFile, OfStream, Url
from service.client import Client, EventView

SHOWN = 30


class ListUnlessNamed(TyperGroup):
    """Runs `list` if no command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert `list` before options, or if there are no arguments."""
        unnamed = args[0].startswith("-") and args[0] != "--help" if args else not ctx.resilient_parsing
        return super().parse_args(ctx, ["list", *args] if unnamed else args)


app = typer.Typer(cls=ListUnlessNamed, help="Read the log of actions on streams. `acclimate events` alone lists.")

Since = Annotated[int | None, typer.Option(min=0, help="Only events after this id.")]
Last = Annotated[int, typer.Option(min=1, help="Number of newest events in the table; --json has all.")]


@app.command("list")
def list_events(
    stream: OfStream = None,
    since: Since = None,
    last: Last = SHOWN,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """List events, newest last.

    Example: `acclimate events list --stream camera-7 --last 100`
    """
    with reach(url, key_file) as client:
        if stream is not None:
            check_has_events(client, stream)
        if as_json:
            print_array(client.events(since or 0, stream))
        else:
            print_list(_newest(client, since, stream, last), lists.events, "There are no events.", as_json=False)


def _newest(client: Client, since: int | None, stream: str | None, last: int) -> list[EventView]:
    """Return the newest events. Without a stream, only the newest ids are requested."""
    after = since or 0
    if stream is None:
        after = max(after, client.newest_event() - last)
    return list(deque(client.events(after, stream), maxlen=last))


@app.command()
def follow(
    stream: OfStream = None,
    since: Since = None,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many events.")] = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Print events as they happen, one per line, until Ctrl-C. It reconnects when the server restarts.

    Without --since it starts with the next event.

    Example: `acclimate events follow --json | jq 'select(.kind == "guard")'`
    """
    with suppress(KeyboardInterrupt), reach(url, key_file) as client:
        if stream is not None:
            check_has_events(client, stream)
        for event in islice(client.follow(since, stream), count):
            say(event.json_text() if as_json else lists.event_line(event))
