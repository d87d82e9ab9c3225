"""From a parsed request to the model's input: checked, and decoded within bounds on number, pixels and time."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass
from time import perf_counter
from typing import TypeAlias

from torch import Tensor

from service.errors import DeadlineError, SaturatedError
from service.support.thread_pool import Pool
from service.types import ON_REQUEST, OUTPUTS, InferRequest, InputSpec, Limits
from service.wire.codec import decode_input, pixels_of, wanted_outputs
from service.wire.stream_parameters import Sequence, sequence_of, timeout_of

MOST_THREADS = 4
Place: TypeAlias = Callable[[str], AbstractContextManager[None]]
"""Counts the decoding for a stream, by its id or "", towards the limits of the queue. It may refuse."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedRequest:
    """A request that fits its model.

    Attributes:
        request: The parsed request.
        x: Its images, (N, C, H, W) float32 within the model's value range.
        sequence: Its stream, and whether it starts or ends it.
        outputs: The names of the requested outputs.
        by: Event loop time until which it may wait for its turn.
        began: When its decoding began, in seconds of `perf_counter`.
    """

    request: InferRequest
    x: Tensor
    sequence: Sequence
    outputs: tuple[str, ...]
    by: float
    began: float


class Pixels:
    """Counts the pixels of images that are being decoded, or are decoded and wait for an answer."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Add pixels. While none are counted, any number is accepted.

        Raises:
            SaturatedError: If together with other requests' pixels there are too many.
        """
        with self._lock:
            if self._held and self._held + count > self._most:
                said = f"{self._held} pixels of images are under way; with {count} more they exceed {self._most}"
                raise SaturatedError(said)
            self._held += count

    def give_back(self, count: int) -> None:
        """Subtract pixels."""
        with self._lock:
            self._held -= count


class Decoder:
    """Turns parsed requests into the models' inputs. Encoded images are decoded on separate threads.

    Args:
        limits: The limits of one request.
        max_pixels: Most pixels of images under way, over all requests.
        threads: PyTorch's number of threads; half as many decode.
        deadline_seconds: Time limit for a request's images.
    """

    def __init__(self, limits: Limits, *, max_pixels: int, threads: int, deadline_seconds: float) -> None:
        self.limits = limits
        self._pixels = Pixels(max_pixels)
        self._pool = Pool("images", max(1, min(MOST_THREADS, threads // 2)))
        self._deadline_seconds = deadline_seconds

    @asynccontextmanager
    async def decoded(
        self, request: InferRequest, spec: InputSpec, header: str, place: Place
    ) -> AsyncIterator[DecodedRequest]:
        """Yield a request with its tensor. The pixels of its images count until the block ends.

        Args:
            request: The parsed request.
            spec: The model's input.
            header: The stream id from the header `X-Stream-Id`; "" for none.
            place: Counts the decoding of encoded images.

        Raises:
            SaturatedError: If too many requests wait, or too many pixels are under way.
            BusyError: If too many requests of this stream wait.
            DeadlineError: If the images are not decoded in time.
            MalformedError: If parameter and header name different streams.
            UnfitError: If the request does not fit the model's input, or a parameter is wrong.
            TooLargeError: If its images exceed the limits of one request.
        """
        began = perf_counter()
        sequence, by = sequence_of(request, header), asyncio.get_running_loop().time() + timeout_of(request)
        outputs = wanted_outputs(request, (*OUTPUTS, *ON_REQUEST), ON_REQUEST)
        async with self._tensor(request, spec, place, sequence.stream_id) as x:
            yield DecodedRequest(request, x, sequence, outputs, by, began)

    def close(self) -> None:
        """Drop the images that wait to be decoded."""
        self._pool.close()

    def _tensor(
        self, request: InferRequest, spec: InputSpec, place: Place, stream_id: str
    ) -> AbstractAsyncContextManager[Tensor]:
        if all(tensor.datatype != "BYTES" for tensor in request.inputs):
            return nullcontext(decode_input(request, spec, self.limits))
        return self._images(request, spec, place(stream_id))

    @asynccontextmanager
    async def _images(
        self, request: InferRequest, spec: InputSpec, place: AbstractContextManager[None]
    ) -> AsyncIterator[Tensor]:
        """Yield the encoded images' tensor. They count towards the queue's limits until they are decoded."""
        size = sum(len(tensor.data) for tensor in request.inputs) * spec.shape[1] * spec.shape[2]
        with self._held(size):
            try:
                with place:
                    async with asyncio.timeout(self._deadline_seconds):
                        x = await self._pool.run(self._decode, request, spec)
            except TimeoutError:
                said = f"the images were not decoded within {self._deadline_seconds:g} s; nothing was changed"
                raise DeadlineError(said) from None
            yield x

    def _decode(self, request: InferRequest, spec: InputSpec) -> Tensor:
        """Decode the images, on one of the decoder's threads."""
        with self._held(pixels_of(request, spec, self.limits)):
            return decode_input(request, spec, self.limits)

    @contextmanager
    def _held(self, count: int) -> Iterator[None]:
        self._pixels.take(count)
        try:
            yield
        finally:
            self._pixels.give_back(count)
