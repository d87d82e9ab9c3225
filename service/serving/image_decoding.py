"""Encoded images on their way into the queue: decoded in its bounds and in time, on threads of their own."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from torch import Tensor

from service.errors import DeadlineError, SaturatedError
from service.serving.scheduler import Scheduler
from service.streams.stream import Stream
from service.support.thread_pool import Pool
from service.types import InferRequest, InputSpec, Limits
from service.wire.codec import decode_input, pixels_of

MOST_THREADS = 4


class Pixels:
    """Pixels of images that are being decoded, and of decoded ones whose requests are not answered yet."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Count pixels in; those of a request by itself always fit.

        Raises:
            SaturatedError: If there are too many with those of other requests.
        """
        with self._lock:
            if self._held and self._held + count > self._most:
                said = f"{self._held} pixels of images are under way; with {count} more they exceed {self._most}"
                raise SaturatedError(said)
            self._held += count

    def give_back(self, count: int) -> None:
        """Count pixels out."""
        with self._lock:
            self._held -= count


class Decoder:
    """Decodes the images of requests, each in its place in the queue's bounds."""

    def __init__(
        self, scheduler: Scheduler, limits: Limits, *, max_pixels: int, threads: int, deadline_seconds: float
    ) -> None:
        self._scheduler = scheduler
        self._limits = limits
        self._pixels = Pixels(max_pixels)
        self._pool = Pool("images", max(1, min(MOST_THREADS, threads // 2)))
        self._deadline_seconds = deadline_seconds

    @asynccontextmanager
    async def decoded(self, request: InferRequest, spec: InputSpec, stream: Stream | None) -> AsyncIterator[Tensor]:
        """Give the images of a request as the model's input; they count as under way until the block ends.

        Raises:
            SaturatedError: If too many requests wait, or too many pixels are under way.
            BusyError: If too many requests of this stream wait.
            DeadlineError: If the images are not decoded in time.
            UnfitError: If they are not what the model takes.
            TooLargeError: If they are beyond the limits of one request.
        """
        outputs = sum(len(tensor.data) for tensor in request.inputs) * spec.shape[1] * spec.shape[2]
        with self._held(outputs):
            try:
                with self._scheduler.place(stream):
                    async with asyncio.timeout(self._deadline_seconds):
                        x = await self._pool.run(self._decode, request, spec)
            except TimeoutError:
                said = f"the images were not decoded within {self._deadline_seconds:g} s; nothing was changed"
                raise DeadlineError(said) from None
            yield x

    def close(self) -> None:
        """Drop the images that wait."""
        self._pool.close()

    def _decode(self, request: InferRequest, spec: InputSpec) -> Tensor:
        """Decode; runs on the decoder's own threads."""
        with self._held(pixels_of(request, spec, self._limits)):
            return decode_input(request, spec, self._limits)

    @contextmanager
    def _held(self, count: int) -> Iterator[None]:
        self._pixels.take(count)
        try:
            yield
        finally:
            self._pixels.give_back(count)
