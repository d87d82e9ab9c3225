"""Stops the server in order: it keeps all streams, and it ends within a time limit even if something hangs."""

import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from service.serving.admission import Admission
from service.storage.checkpointer import Keeper
from service.storage.store_calls import StoreCalls
from service.support.supervision import Supervisor
from service.telemetry.logs import log

KEEP_SECONDS = 3.0
"""Time limit for each write during the stop."""
PART_SECONDS = 0.5
"""Time limit for closing each part."""
GRACE_SECONDS = 7.0
"""Seconds after the drain time, or after the last kept batch of streams, until the process is ended by force."""
LOOK_SECONDS = 0.1
HUNG = 1
"""Exit status of a stop in which something hung."""


@dataclass
class Lifecycle:
    """The server's start and stop.

    Attributes:
        ready: True from the end of the start until the stop.
        drain: Refuses new requests.
        began: When the stop began, in seconds of the monotonic clock.
        progressed: When the stop last kept a batch of streams.
        hung: The parts that did not stop in time.
    """

    ready: bool = False
    drain: Callable[[], None] = lambda: None
    began: float = math.inf
    progressed: float = 0.0
    hung: list[str] = field(default_factory=list)

    def begin_stop(self) -> None:
        """Refuse new requests from now on, and start the drain time."""
        self.began = min(self.began, time.monotonic())
        self.drain()

    def drain_left(self, drain_seconds: float) -> float:
        """Return the rest of the drain time in seconds."""
        return max(0.0, self.began + drain_seconds - time.monotonic())

    def progress(self) -> None:
        """Record that the stop makes progress."""
        self.progressed = time.monotonic()

    def is_late(self, drain_seconds: float) -> bool:
        """Return whether the stop takes longer than allowed."""
        return time.monotonic() > GRACE_SECONDS + max(self.began + drain_seconds, self.progressed)


def end_when_late(lifecycle: Lifecycle, drain_seconds: float) -> None:
    """End the process by force if its stop is late. A daemon thread watches for it."""

    def watch() -> None:
        while not lifecycle.is_late(drain_seconds):
            time.sleep(LOOK_SECONDS)
        log.error("stop_forced", seconds=round(time.monotonic() - lifecycle.began, 1), hung=lifecycle.hung)
        os._exit(HUNG)

    threading.Thread(target=watch, name="stop", daemon=True).start()


async def stop(
    lifecycle: Lifecycle,
    admission: Admission,
    keeper: Keeper,
    supervisor: Supervisor,
    calls: StoreCalls,
    drain_seconds: float,
) -> None:
    """Drain, then keep all streams, even if the worker hangs."""
    lifecycle.ready = False
    lifecycle.begin_stop()
    drained = await admission.drain(lifecycle.drain_left(drain_seconds))
    supervisor.close()
    calls.seconds = min(calls.seconds, KEEP_SECONDS)
    kept, hangs = await keeper.close(lifecycle.progress)
    lifecycle.hung += hangs
    log.info("stopping", drained=drained, streams_kept=kept)


def close_part(lifecycle: Lifecycle, name: str, close: Callable[[], object]) -> None:
    """Close a part of the server. If it hangs, record it and go on."""
    thread = threading.Thread(target=close, name=f"close {name}", daemon=True)
    thread.start()
    thread.join(PART_SECONDS)
    if thread.is_alive():
        lifecycle.hung.append(name)
