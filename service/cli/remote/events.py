"""`acclimate events`: what was done to streams, when and why; listed, or as it happens."""

from collections import deque
from contextlib import suppress
from itertools import islice
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from service.cli.output import lists
from service.cli.output.printing import print_array, print_list, say
from service.cli.remote.connection import DEFAULT_URL, reach
from service.cli.remote.existence import known_to_events
from service.cli.remote.options import AsJson, KeyFile, OfStream, Url
from service.client import Client, EventView

SHOWN = 30


class ListUnlessNamed(TyperGroup):
    """Means `list` where no command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `list` before options, and in the place of nothing."""
        unnamed = args[0].startswith("-") and args[0] != "--help" if args else not ctx.resilient_parsing
        return super().parse_args(ctx, ["list", *args] if unnamed else args)


app = typer.Typer(
    cls=ListUnlessNamed, help="Read what was done to streams, when and why. `acclimate events` alone lists."
)

Since = Annotated[int | None, typer.Option(min=0, help="Only events after the one of this id.")]
Last = Annotated[int, typer.Option(min=1, help="How many of the newest the table shows; --json has all.")]


@app.command("list")
def list_events(
    stream: OfStream = None,
    since: Since = None,
    last: Last = SHOWN,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """List events, the newest last.

    Example: `acclimate events list --stream camera-7 --last 100`
    """
    with reach(url, key_file) as client:
        if stream is not None:
            known_to_events(client, stream)
        if as_json:
            print_array(client.events(since or 0, stream))
        else:
            print_list(_newest(client, since, stream, last), lists.events, "There are no events.", as_json=False)


def _newest(client: Client, since: int | None, stream: str | None, last: int) -> list[EventView]:
    """Return the newest events; without a stream to look for, none older are asked for."""
    after = since or 0
    if stream is None:
        after = max(after, client.newest_event() - last)
    return list(deque(client.events(after, stream), maxlen=last))


@app.command()
def follow(
    stream: OfStream = None,
    since: Since = None,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Print events as they happen, one a line; Ctrl-C ends it. It goes on when the server restarts.

    Without --since it begins with the next event.

    Example: `acclimate events follow --json | jq 'select(.kind == "guard")'`
    """
    with suppress(KeyboardInterrupt), reach(url, key_file) as client:
        if stream is not None:
            known_to_events(client, stream)
        for event in islice(client.follow(since, stream), count):
            say(event.json_text() if as_json else lists.event_line(event))
