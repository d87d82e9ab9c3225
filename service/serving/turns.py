"""The order of waiting jobs: each stream's own line, and the queue of those whose turn it is."""

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

from service.serving.stream_batching import Kind, Shared
from service.serving.ticket import Ticket


class Turns:
    """Orders tickets. The first one in a stream's line has the stream's turn until it leaves, also while it runs.

    Tickets with a turn wait for the worker in the order in which their turns came. A stream's next ticket queues behind
    the tickets of other streams that wait already, so a stream with many tickets does not hold up the others.

    Args:
        kind: Returns the kind of steps that a ticket can share, or None. It is called in the ticket's turn.
        room: Returns how many other steps fit in the group of a step.
    """

    def __init__(self, kind: Callable[[Ticket[Any]], Kind | None], room: Callable[[Shared], int]) -> None:
        self._kind = kind
        self._room = room
        self._lines: dict[str, deque[Ticket[Any]]] = {}
        self._ready: dict[Ticket[Any], Kind | None] = {}

    def any_ready(self) -> bool:
        """Return whether a ticket with a turn waits for the worker."""
        return bool(self._ready)

    def enter(self, ticket: Ticket[Any]) -> None:
        """Put a ticket at the end of its stream's line."""
        line = self._lines.setdefault(ticket.stream.id, deque())
        line.append(ticket)
        if line[0] is ticket:
            self._ready[ticket] = self._kind(ticket)

    def take(self) -> list[Ticket[Any]]:
        """Remove the next ticket from the queue, and those that can share its step; [] if none is ready.

        They keep their streams' turns.
        """
        first = next(iter(self._ready), None)
        if first is None:
            return []
        del self._ready[first]
        others = self._alike(first) if self._ready else []
        for each in others:
            del self._ready[each]
        return [first, *others]

    def leave(self, ticket: Ticket[Any]) -> None:
        """Remove a ticket that has ended, or does not wait any longer. Its turn passes to the next of its stream."""
        self._ready.pop(ticket, None)
        line = self._lines[ticket.stream.id]
        had_turn = line[0] is ticket
        line.remove(ticket)
        if not line:
            del self._lines[ticket.stream.id]
        elif had_turn:
            self._ready[line[0]] = self._kind(line[0])

    def _alike(self, ticket: Ticket[Any]) -> list[Ticket[Any]]:
        """Return ready tickets that can share a ticket's step, in their order, as many as fit."""
        kind = self._kind(ticket)  # again, since the first group of a kind may have measured that groups are slower
        if kind is None or ticket.shared is None:
            return []
        alike = (each for each, its_kind in self._ready.items() if its_kind == kind)
        return list(islice(alike, self._room(ticket.shared)))
