"""How the server stops: in order, keeping its streams, and within a time limit whatever hangs."""

import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from service.serving.scheduler import Scheduler
from service.storage.checkpointer import Keeper
from service.storage.store_calls import StoreCalls
from service.support.supervision import Supervisor
from service.telemetry.logs import log

KEEP_SECONDS = 3.0
"""Time limit of each write at the stop."""
PART_SECONDS = 0.5
"""How long each part may take to close."""
GRACE_SECONDS = 7.0
"""After the time to drain, or after the last batch of streams was kept, the process is ended."""
LOOK_SECONDS = 0.1
HUNG = 1
"""Exit status of a stop in which something hung."""


@dataclass
class Lifecycle:
    """Whether requests are taken, and how to stop taking them.

    Attributes:
        ready: Whether the server has started and does not stop.
        drain: Refuses new requests.
        began: When the stop began, on the monotonic clock.
        progressed: When a batch of streams was kept last at the stop.
        hung: The parts that did not stop in time.
    """

    ready: bool = False
    drain: Callable[[], None] = lambda: None
    began: float = math.inf
    progressed: float = 0.0
    hung: list[str] = field(default_factory=list)

    def begin_stop(self) -> None:
        """Refuse new requests from now on; the time to drain begins."""
        self.began = min(self.began, time.monotonic())
        self.drain()

    def drain_left(self, drain_seconds: float) -> float:
        """Return the rest of the time to drain."""
        return max(0.0, self.began + drain_seconds - time.monotonic())

    def progress(self) -> None:
        """Note that the stop goes on."""
        self.progressed = time.monotonic()

    def is_late(self, drain_seconds: float) -> bool:
        """Whether the stop takes longer than it may."""
        return time.monotonic() > GRACE_SECONDS + max(self.began + drain_seconds, self.progressed)


def end_when_late(lifecycle: Lifecycle, drain_seconds: float) -> None:
    """End the process by force once its stop is late; watched by a thread that nothing waits for."""

    def watch() -> None:
        while not lifecycle.is_late(drain_seconds):
            time.sleep(LOOK_SECONDS)
        log.error("stop_forced", seconds=round(time.monotonic() - lifecycle.began, 1), hung=lifecycle.hung)
        os._exit(HUNG)

    threading.Thread(target=watch, name="stop", daemon=True).start()


async def stop(
    lifecycle: Lifecycle,
    scheduler: Scheduler,
    keeper: Keeper,
    supervisor: Supervisor,
    calls: StoreCalls,
    drain_seconds: float,
) -> None:
    """Drain, then keep all streams: those that wait for a worker that hangs, too."""
    lifecycle.ready = False
    lifecycle.begin_stop()
    drained = await scheduler.drain(lifecycle.drain_left(drain_seconds))
    supervisor.close()
    calls.seconds = min(calls.seconds, KEEP_SECONDS)
    kept, hangs = await keeper.close(lifecycle.progress)
    lifecycle.hung += hangs
    log.info("stopping", drained=drained, streams_kept=kept)


def close_part(lifecycle: Lifecycle, name: str, close: Callable[[], object]) -> None:
    """Close a part of the server; one that hangs is noted and left behind."""
    thread = threading.Thread(target=close, name=f"close {name}", daemon=True)
    thread.start()
    thread.join(PART_SECONDS)
    if thread.is_alive():
        lifecycle.hung.append(name)
