"""Bounds on a server's connections: how many there are, and how long each may take."""

import os
import resource
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

OPEN_DESCRIPTORS = Path("/proc/self/fd")
MOST = 10_000
"""Connections, where the limit on file descriptors would allow more."""
RESERVE = 256
"""File descriptors kept for files, databases and child processes, where the limit is high enough."""
FEWEST = 4
OVERFLOW = 32
"""Connections beyond the bound that are answered 503; health is still served to them."""

Admission: TypeAlias = Literal["served", "overflow", "refused"]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server waits for its clients.

    Attributes:
        head_seconds: For the whole head of a request, from its first byte, or from the connection's beginning.
        grace_seconds: For a body, before its rate counts.
        body_rate: The fewest bytes per second at which a body must come, on average.
        stall_seconds: For a client that reads nothing of its answer.
    """

    head_seconds: float = 10.0
    grace_seconds: float = 20.0
    body_rate: float = 4096.0
    stall_seconds: float = 60.0


class Connection(Protocol):
    """What the table of connections needs of a connection."""

    def evict(self) -> None:
        """Close: another connection needs the place, and no request is under way on this one."""

    def check(self, now: float) -> None:
        """Close if the client has taken too long."""


class Connections:
    """All connections of a server, and those of them on which no request is under way, the longest first."""

    def __init__(self, most: int, overflow: int = OVERFLOW) -> None:
        self._most = most
        self._overflow = overflow
        self._all: set[Connection] = set()
        self._waiting: OrderedDict[Connection, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._all)

    def admit(self, connection: Connection) -> Admission:
        """Take in a new connection.

        At the bound, the connection that has waited longest without a request under way makes room. If all have one,
        a few more connections are taken in to be answered 503, and those beyond these are refused at once.
        """
        admission: Admission = "served"
        if len(self._all) >= self._most and not self._evict_one():
            admission = "overflow" if len(self._all) < self._most + self._overflow else "refused"
        if admission != "refused":
            self._all.add(connection)
            self._waiting[connection] = None
        return admission

    def waits(self, connection: Connection) -> None:
        """Note that no request is under way on a connection from now on."""
        if connection in self._all:
            self._waiting[connection] = None
            self._waiting.move_to_end(connection)

    def works(self, connection: Connection) -> None:
        """Note that a request is under way on a connection."""
        self._waiting.pop(connection, None)

    def forget(self, connection: Connection) -> None:
        """Note that a connection has ended."""
        self._all.discard(connection)
        self._waiting.pop(connection, None)

    def sweep(self, now: float) -> None:
        """Let every connection check the time that its client has taken."""
        for connection in list(self._all):
            connection.check(now)

    def _evict_one(self) -> bool:
        if not self._waiting:
            return False
        connection = next(iter(self._waiting))
        self.forget(connection)
        connection.evict()
        return True


def most_connections(asked: int, open_now: Callable[[], int] | None = None) -> int:
    """Return the bound on connections: as asked, but no more than the limit on file descriptors leaves.

    Args:
        asked: The bound that the operator wants; 0 for as many as there may be.
        open_now: Counts the file descriptors that are open; by default those of this process.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return asked or MOST
    free = limit - (open_now or _open_descriptors)() - OVERFLOW
    possible = max(FEWEST, free - min(RESERVE, free // 2))
    return min(asked or MOST, possible)


def _open_descriptors() -> int:
    try:
        return len(os.listdir(OPEN_DESCRIPTORS))
    except OSError:  # no /proc
        return 64
