"""Limits a server's connections: their number, and the time that each may take."""

import os
import resource
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

OPEN_DESCRIPTORS = Path("/proc/self/fd")
MOST = 10_000
"""Default limit on connections, if the limit on file descriptors allows that many."""
RESERVE = 256
"""File descriptors kept free for files, databases and child processes, if the limit is high enough."""
FEWEST = 4
OVERFLOW = 32
"""Connections beyond the limit that are answered 503. Health checks on them are served."""

Admission: TypeAlias = Literal["served", "overflow", "refused"]


@dataclass(frozen=True, slots=True)
class Patience:
    """Time limits for clients.

    Attributes:
        head_seconds: For the whole head of a request, from its first byte or the start of the connection.
        grace_seconds: For a body, before its rate counts.
        body_rate: Minimum average rate of a body, in bytes per second.
        stall_seconds: For a client that reads nothing of its answer.
    """

    head_seconds: float = 10.0
    grace_seconds: float = 20.0
    body_rate: float = 4096.0
    stall_seconds: float = 60.0


class Connection(Protocol):
    """The interface that the table needs of a connection."""

    def evict(self) -> None:
        """Close the connection to make room. No request is running on it."""

    def check(self, now: float) -> None:
        """Close the connection if its client has taken too long."""


class Connections:
    """All connections of a server. Those without a running request are kept in order of their idle time."""

    def __init__(self, most: int, overflow: int = OVERFLOW) -> None:
        self._most = most
        self._overflow = overflow
        self._all: set[Connection] = set()
        self._waiting: OrderedDict[Connection, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._all)

    def admit(self, connection: Connection) -> Admission:
        """Accept a new connection, or refuse it.

        At the limit, the connection that was idle longest is closed. If none is idle, a few more connections are
        accepted to be answered 503, and all others are refused at once.
        """
        admission: Admission = "served"
        if len(self._all) >= self._most and not self._evict_one():
            admission = "overflow" if len(self._all) < self._most + self._overflow else "refused"
        if admission != "refused":
            self._all.add(connection)
            self._waiting[connection] = None
        return admission

    def waits(self, connection: Connection) -> None:
        """Record that a connection has no running request."""
        if connection in self._all:
            self._waiting[connection] = None
            self._waiting.move_to_end(connection)

    def works(self, connection: Connection) -> None:
        """Record that a connection has a running request."""
        self._waiting.pop(connection, None)

    def forget(self, connection: Connection) -> None:
        """Remove a connection that has ended."""
        self._all.discard(connection)
        self._waiting.pop(connection, None)

    def sweep(self, now: float) -> None:
        """Have every connection check its client's time limits."""
        for connection in list(self._all):
            connection.check(now)

    def _evict_one(self) -> bool:
        if not self._waiting:
            return False
        connection = next(iter(self._waiting))
        self.forget(connection)
        connection.evict()
        return True


def most_connections(configured: int, open_now: Callable[[], int] | None = None) -> int:
    """Return the limit on connections: the configured one, if there are enough file descriptors for it.

    Args:
        configured: The operator's limit; 0 for as many as possible, up to 10,000.
        open_now: Counts open file descriptors; by default those of this process.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return configured or MOST
    free = limit - (open_now or _open_descriptors)() - OVERFLOW
    possible = max(FEWEST, free - min(RESERVE, free // 2))
    return min(configured or MOST, possible)


def _open_descriptors() -> int:
    try:
        return len(os.listdir(OPEN_DESCRIPTORS))
    except OSError:  # no /proc
        return 64
