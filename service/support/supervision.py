"""Supervised background tasks and threads: each unexpected end is logged and counted, and the task is restarted."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.telemetry.logs import log
from service.telemetry.metrics import Telemetry

FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.1, 10.0
"""Wait before a restart. It doubles with each failure, and starts over once the task has run for SETTLED_SECONDS."""
SETTLED_SECONDS = 5.0
"""A task that has run for this long since its last start counts as healthy."""
DOWN_SECONDS = 10.0
"""A task that has been failing for longer than this makes the server not ready."""


@dataclass(slots=True)
class Health:
    """The health of one background task.

    Attributes:
        started: Time of its latest start, on the monotonic clock.
        running: Whether it is running.
        failing_since: Time of the first failure of the current series; None if it has never failed.
        backoff: Seconds before the next restart.
    """

    started: float
    running: bool = True
    failing_since: float | None = None
    backoff: float = FIRST_BACKOFF_SECONDS

    def settled(self, now: float) -> bool:
        """Return whether it has run for long enough to count as healthy."""
        return self.running and now - self.started >= SETTLED_SECONDS


class Supervisor:
    """Runs background tasks until it is closed, and reports those that keep failing.

    Args:
        telemetry: Its `restarts` counter counts restarts by task.
        clock: The monotonic clock.
    """

    def __init__(self, telemetry: Telemetry, clock: Callable[[], float] = time.monotonic) -> None:
        self._restarts = telemetry.restarts
        self._clock = clock
        self._lock = threading.Lock()
        self._health: dict[str, Health] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    def start(self, name: str, job: Callable[[], Awaitable[None]]) -> None:
        """Run a coroutine function as a task of the running event loop, and restart it whenever it ends."""
        self._note_start(name)
        task = self._tasks[name] = asyncio.ensure_future(_awaited(job))
        task.add_done_callback(lambda ended: self._task_ended(name, job, ended))

    def start_thread(self, name: str, job: Callable[[], None]) -> threading.Thread:
        """Run a function on its own thread until it returns. After an exception it is called again on that thread."""
        self._note_start(name)
        thread = threading.Thread(target=self._keep_running, args=(name, job), name=name, daemon=True)
        thread.start()
        return thread

    def troubles(self) -> list[str]:
        """Return one sentence for each task that has been failing for longer than DOWN_SECONDS."""
        now = self._clock()
        with self._lock:
            down = [name for name, health in self._health.items() if self._is_down(health, now)]
        return [f"the background task {name!r} keeps failing; the log says why" for name in down]

    def close(self) -> None:
        """Cancel all tasks and restart none. Threads are not stopped; they end when their functions return."""
        self._closed = True
        for task in self._tasks.values():
            task.cancel()

    def _task_ended(self, name: str, job: Callable[[], Awaitable[None]], task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if self._closed:
            return
        backoff = self._note_end(name, error)
        task.get_loop().call_later(backoff, self._start_again, name, job)

    def _start_again(self, name: str, job: Callable[[], Awaitable[None]]) -> None:
        if not self._closed:
            self.start(name, job)

    def _keep_running(self, name: str, job: Callable[[], None]) -> None:
        while True:
            try:
                return job()
            except BaseException as error:  # noqa: BLE001 - otherwise the thread would end silently for good
                time.sleep(self._note_end(name, error))
                self._note_start(name)

    def _note_start(self, name: str) -> None:
        self._restarts.labels(name)  # so that a task that has never ended is exposed as 0
        with self._lock:
            health = self._health.setdefault(name, Health(self._clock()))
            health.started, health.running = self._clock(), True

    def _note_end(self, name: str, error: BaseException | None) -> float:
        """Log and count the end of a task, and return the seconds to wait before its restart."""
        now = self._clock()
        with self._lock:
            health = self._health[name]
            if health.failing_since is None or health.settled(now):
                health.failing_since, health.backoff = now, FIRST_BACKOFF_SECONDS
            backoff, health.backoff = health.backoff, min(2 * health.backoff, MAX_BACKOFF_SECONDS)
            health.running = False
        self._restarts.labels(name).inc()
        log.error("background_task_ended", task=name, restart_seconds=backoff, exc_info=error)
        return backoff

    @staticmethod
    def _is_down(health: Health, now: float) -> bool:
        if health.failing_since is None or health.settled(now):
            return False
        return now - health.failing_since > DOWN_SECONDS


async def _awaited(job: Callable[[], Awaitable[None]]) -> None:
    await job()
