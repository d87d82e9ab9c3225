"""Background tasks and threads under supervision: an end is logged and counted, and the task is started again."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.telemetry.logs import log
from service.telemetry.metrics import Telemetry

FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.1, 10.0
"""Wait before a restart; it doubles with each failure until the task has run for a while again."""
SETTLED_SECONDS = 5.0
"""A task that has run this long since its last start counts as sound."""
DOWN_SECONDS = 10.0
"""A task that keeps failing for longer makes the server not ready."""


@dataclass(slots=True)
class Health:
    """How one background task is.

    Attributes:
        started: When it was started last, on the monotonic clock.
        running: Whether it runs.
        failing_since: When the first of its latest failures was; None while it is sound.
        backoff: Seconds before the next restart.
    """

    started: float
    running: bool = True
    failing_since: float | None = None
    backoff: float = FIRST_BACKOFF_SECONDS

    def settled(self, now: float) -> bool:
        """Whether it has run for long enough to count as sound."""
        return self.running and now - self.started >= SETTLED_SECONDS


class Supervisor:
    """Runs background tasks until it is closed, and knows which of them keep failing.

    Args:
        telemetry: Counts restarts by task.
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
        """Run a coroutine function as a task of the running event loop, again whenever it ends."""
        self._note_start(name)
        task = self._tasks[name] = asyncio.ensure_future(_awaited(job))
        task.add_done_callback(lambda ended: self._task_ended(name, job, ended))

    def start_thread(self, name: str, job: Callable[[], None]) -> threading.Thread:
        """Run a function on a thread of its own until it returns; a failure starts it again, on the same thread."""
        self._note_start(name)
        thread = threading.Thread(target=self._keep_running, args=(name, job), name=name, daemon=True)
        thread.start()
        return thread

    def troubles(self) -> list[str]:
        """Name each task that has kept failing for longer than is tolerated."""
        now = self._clock()
        with self._lock:
            down = [name for name, health in self._health.items() if self._is_down(health, now)]
        return [f"the background task {name!r} keeps failing; the log says why" for name in down]

    def close(self) -> None:
        """Cancel all tasks and start none again. Threads end by themselves."""
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
            except BaseException as error:  # noqa: BLE001 - a thread that ends in silence stops its work for good
                time.sleep(self._note_end(name, error))
                self._note_start(name)

    def _note_start(self, name: str) -> None:
        self._restarts.labels(name)  # a task that never ended shows as 0
        with self._lock:
            health = self._health.setdefault(name, Health(self._clock()))
            health.started, health.running = self._clock(), True

    def _note_end(self, name: str, error: BaseException | None) -> float:
        """Log and count the end of a task; return the seconds to wait before its restart."""
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
