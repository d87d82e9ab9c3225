"""Watches for a step that takes too long: the server is not ready meanwhile, and the log names the stream."""

import asyncio

from service.models.worker import Busy, Worker
from service.telemetry.logs import log

LOOK_SECONDS = 1.0
"""How often the log is told; readiness is asked for anew each time."""


class StepWatch:
    """Says whether the worker has been at one job for longer than it may.

    Args:
        worker: What runs the steps.
        seconds: The most that one job may take.
    """

    def __init__(self, worker: Worker, seconds: float) -> None:
        self._worker = worker
        self._seconds = seconds

    def troubles(self) -> list[str]:
        """Name the stream whose step takes too long, if one does."""
        busy = self._worker.stuck(self._seconds)
        return [] if busy is None else [f"a step of {busy.of or 'the server'} takes longer than {self._seconds:g} s"]

    async def run(self) -> None:
        """Log a step that takes too long, and that it is over, once each; until cancelled."""
        known: Busy | None = None
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            found = self._worker.stuck(self._seconds)
            if found is not None and found is not known:
                log.error("step_takes_too_long", of=found.of, seconds=self._seconds)
            if known is not None and found is not known:
                log.info("step_is_over", of=known.of)
            known = found
