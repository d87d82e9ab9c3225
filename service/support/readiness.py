"""What keeps a running server from being ready, collected from the parts that can get into trouble."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

Check: TypeAlias = Callable[[], Sequence[str]]
"""Returns a sentence for each trouble that a part of the server has now."""


class Readiness:
    """Asks every check whether its part of the server works."""

    def __init__(self, *checks: Check) -> None:
        self._checks = list(checks)

    def add(self, check: Check) -> None:
        """Ask one more check from now on."""
        self._checks.append(check)

    def troubles(self) -> list[str]:
        """Return all troubles; none where the server can serve."""
        return [trouble for check in self._checks for trouble in check()]
