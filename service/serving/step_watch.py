"""Watches for a step that takes too long. The server is not ready meanwhile, and the log names the stream."""

import asyncio

from service.models.worker import Busy, Worker
from service.telemetry.logs import log

LOOK_SECONDS = 1.0
"""Seconds between looks for the log. Readiness checks look for themselves."""


class StepWatch:
    """Reports a job that the worker has run for longer than allowed.

    Args:
        worker: Runs the steps.
        seconds: Longest time that one job may take.
    """

    def __init__(self, worker: Worker, seconds: float) -> None:
        self._worker = worker
        self._seconds = seconds

    def troubles(self) -> list[str]:
        """Name the stream whose step takes too long; [] if there is none."""
        busy = self._worker.stuck(self._seconds)
        return [] if busy is None else [f"a step of {busy.of or 'the server'} takes longer than {self._seconds:g} s"]

    async def run(self) -> None:
        """Log each step that takes too long, and its end, once each, until cancelled."""
        logged: Busy | None = None
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            found = self._worker.stuck(self._seconds)
            if found is not None and found is not logged:
                log.error("step_takes_too_long", of=found.of, seconds=self._seconds)
            if logged is not None and found is not logged:
                log.info("step_is_over", of=logged.of)
            logged = found
