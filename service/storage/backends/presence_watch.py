"""Checks every second that the store's files are still there. Without them the server is not ready."""

import asyncio

from service.storage.backends.presence import Presence
from service.telemetry.logs import log

LOOK_SECONDS = 1.0
REASON = "the data folder or the catalogue is gone or was replaced; put it back, or restart the server"
"""The public reason. It names no path, since anybody may read it; the log does."""


class StoreWatch:
    """Watches the files that the server opened."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._lost = ""

    def troubles(self) -> list[str]:
        """Return the reasons why the server is not ready; none while all files are there."""
        return [REASON] if self._lost else []

    async def run(self) -> None:
        """Watch until cancelled; log when a file is lost, and when all are back."""
        while True:
            lost = await asyncio.to_thread(self._presence.lost)
            if lost and not self._lost:
                log.error("store_lost", found=lost, reason=REASON)
            elif self._lost and not lost:
                log.info("store_is_back")
            self._lost = lost
            await asyncio.sleep(LOOK_SECONDS)
