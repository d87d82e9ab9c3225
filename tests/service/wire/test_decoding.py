"""Encoded images take their place in the queue, on threads of their own, within bounds on pixels and time."""

import asyncio
import io
import threading
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from service.errors import SaturatedError, TooLargeError, UnfitError
from service.types import InputSpec, Limits
from service.wire.decoding import Pixels
from service.wire.images import decode_images
from tests.applications import INFER, application, assert_error, facts
from tests.serving import images

PNG = {"Content-Type": "image/png"}
SPEC = InputSpec("image", (3, 4, 6))
MB = 2**20


def png(width=16, height=16, **options):
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG", **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def large():
    """A file that takes some tenths of a second to decode."""
    return png(4000, 3900, compress_level=1)


def image_call(content, stream):
    return ("POST", INFER, {"content": content, "headers": {**PNG, "X-Stream-Id": stream}})


def test_images_take_their_place_in_the_queue_before_they_are_decoded(bundles, tmp_path, large):
    with application(tmp_path, bundles[0], max_queue=2) as api:
        answers = api.together(*(image_call(large, f"s{number}") for number in range(6)))

    refused = [answer for answer in answers if answer.status_code != 200]
    assert 1 <= len(refused) <= 4
    for answer in refused:
        assert_error(answer, 503, "2 requests wait, as many as allowed")


def test_images_of_one_stream_count_among_its_requests(bundles, tmp_path, large):
    with application(tmp_path, bundles[0], max_queue_per_stream=1) as api:
        api.create(id="s")
        answers = api.together(*(image_call(large, "s") for _ in range(3)))
        after = api.infer(images(1), "s")

    counts = Counter(answer.status_code for answer in answers)
    assert counts[429] >= 1
    assert counts[200] + counts[429] == 3
    assert facts(after)["tta_generation"] == counts[200] + 1


def test_images_that_are_not_decoded_in_time_are_504_and_change_nothing(bundles, tmp_path, large):
    with application(tmp_path, bundles[0], deadline_seconds=0.05) as api:
        api.create(id="s")
        answers = api.together(*(image_call(large, "s") for _ in range(3)))
        generation = api.stream("s")["generation"]

    for answer in answers:
        assert_error(answer, 504, "were not decoded within 0.05 s; nothing was changed")
    assert generation == 0


def test_pixels_under_way_are_bounded_over_all_requests(bundles, tmp_path, large):
    with application(tmp_path, bundles[0], max_pixels_under_way=16_000_000, threads=4) as api:
        alone = api("POST", INFER, content=large, headers=PNG)
        answers = api.together(*(image_call(large, f"s{number}") for number in range(4)))
        after = api("POST", INFER, content=large, headers=PNG)

    assert (alone.status_code, after.status_code) == (200, 200)
    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused
    for answer in refused:
        assert_error(answer, 503, "pixels of images are under way")


def test_pixels_of_one_request_always_fit_and_are_given_back():
    pixels = Pixels(100)
    pixels.take(500)
    with pytest.raises(SaturatedError, match="500 pixels of images are under way; with 1 more they exceed 100"):
        pixels.take(1)
    pixels.give_back(500)
    pixels.take(60)
    pixels.take(40)


def test_images_are_decoded_where_asyncios_own_threads_are_all_busy(api):
    released = threading.Event()

    async def play():
        loop = asyncio.get_running_loop()
        blocked = [loop.run_in_executor(None, released.wait) for _ in range(64)]
        try:
            return await asyncio.wait_for(api._client.post(INFER, content=png(), headers=PNG), 20)
        finally:
            released.set()
            await asyncio.gather(*blocked)

    assert api._runner.run(play()).status_code == 200


def test_a_large_jpeg_of_many_scans_is_refused_before_it_is_decoded():
    file = io.BytesIO()
    Image.fromarray(np.zeros((4000, 3900), np.uint8)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content[content.rfind(b"\xff\xda") : -2]

    def with_scans(more):
        return content[:-2] + last * more + content[-2:]

    assert decode_images([with_scans(0)], SPEC, Limits()).shape == (1, 3, 4, 6)
    with pytest.raises(TooLargeError, match="scans; at most 20 are allowed at its size"):
        decode_images([with_scans(30)], SPEC, Limits())


def with_texts(megabytes):
    texts = PngImagePlugin.PngInfo()
    for number in range(megabytes):
        texts.add_text(f"text {number}", "x" * (MB - 100), zip=True)
    return png(pnginfo=texts)


def test_a_png_of_very_long_texts_is_refused():
    with pytest.raises(UnfitError, match="is not a readable JPEG or PNG file"):
        decode_images([with_texts(8)], SPEC, Limits())


def test_texts_in_the_files_of_a_batch_are_not_held_together():
    files = [with_texts(3)] * 40
    tracemalloc.start()
    decode_images(files, SPEC, Limits())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 30 * MB
