"""Readiness: collects the problems that keep a running server from being ready."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

Check: TypeAlias = Callable[[], Sequence[str]]
"""Returns one sentence for each current problem of a part of the server."""


class Readiness:
    """Runs the readiness checks of all parts of the server."""

    def __init__(self, *checks: Check) -> None:
        self._checks = list(checks)

    def add(self, check: Check) -> None:
        """Add a check."""
        self._checks.append(check)

    def troubles(self) -> list[str]:
        """Return all current problems; an empty list means that the server is ready."""
        return [trouble for check in self._checks for trouble in check()]
