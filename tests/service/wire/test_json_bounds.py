"""JSON that would take too much memory or time is refused before objects are built from it."""

import json
import time
import tracemalloc

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import MalformedError, ServiceError, TooLargeError
from service.types import JsonLimits, Limits
from service.wire.codec import parse_request
from service.wire.json_bounds import check_json

MB = 2**20
SMALL = JsonLimits(bytes=1000, containers=10, keys=10, values=20, depth=4)
EIGHT = 8 * MB
BOMBS = {
    "arrays": b'{"inputs": [' + b"[]," * (EIGHT // 3 - 20) + b"[]]}",
    "objects": b'{"inputs": [' + b"{}," * (EIGHT // 3 - 20) + b"{}]}",
    "keys": b"{" + b",".join(b'"k%d":0' % number for number in range(600_000)) + b"}",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep_objects": b'{"a":' * 50_000 + b"0" + b"}" * 50_000,
    "deep_often": (b"[" * 900 + b"]" * 900 + b",") * 4000,
    "numbers": b"[" + b"0," * 3_000_000 + b"0]",
    "beyond_its_bytes": b" " * (EIGHT + 1),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_little_time_and_memory(name):
    tracemalloc.start()
    began = time.thread_time()
    with pytest.raises(TooLargeError, match="the JSON part"):
        parse_request(BOMBS[name], None, Limits())
    seconds, (_, peak) = time.thread_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert seconds < 2
    assert peak < 100 * MB


HONEST = {
    "a_million_numbers": {"inputs": [{"data": [0] * 1_000_000}]},
    "floats": {"inputs": [{"data": [0.123456789] * 500_000}]},
    "images_by_rows": {"inputs": [{"data": [[[[0.5] * 28] * 28] * 3] * 100}]},
    "a_text_of_brackets": {"id": "[{" * 200_000},
    "a_text_of_colons_and_commas": {"id": ":,[" * 300_000},
    "a_text_of_escapes": {"id": '\\"[{:,' * 200_000},
    "a_text_that_ends_in_backslashes": {"id": "\\" * 7, "note": "[" * 300_000},
    "encoded_images": {"inputs": [{"data": ["QUJD" * 250_000] * 4}]},
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_bodies_pass(name):
    check_json(json.dumps(HONEST[name]).encode(), JsonLimits())


JSONS = st.recursive(
    st.none() | st.integers(-9, 9) | st.text(st.sampled_from('ab"\\[]{}:,'), max_size=12),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(st.sampled_from('k"\\['), max_size=3), inner),
    max_leaves=40,
)


def counted(value, depth=1):
    """Containers, keys, commas and depth of a value."""
    if not isinstance(value, list | dict):
        return 0, 0, 0, depth - 1
    inner = [counted(each, depth + 1) for each in (value.values() if isinstance(value, dict) else value)]
    keys = len(value) if isinstance(value, dict) else 0
    sums = [sum(each[place] for each in inner) for place in range(3)]
    commas = max(0, len(value) - 1)
    return sums[0] + 1, sums[1] + keys, sums[2] + commas, max([depth, *(each[3] for each in inner)])


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(JSONS)
def test_what_is_within_the_bounds_passes_and_what_is_beyond_them_does_not(value):
    text = orjson.dumps(value)
    containers, keys, values, _ = counted(value)
    beyond = len(text) > 1000 or containers > 10 or keys > 10 or values > 20

    if beyond:
        with pytest.raises(TooLargeError):
            check_json(text, SMALL)
    elif counted(value)[3] <= SMALL.depth:
        check_json(text, SMALL)


@pytest.mark.parametrize("text", [b"1e999999", b"[1" + b"0" * 4_000_000 + b"]", b"[0." + b"1" * 4_000_000 + b"]"])
def test_endless_numbers_are_parsed_or_refused_at_once(text):
    began = time.thread_time()
    with pytest.raises(ServiceError):
        parse_request(text, None, Limits())

    assert time.thread_time() - began < 1


def test_more_inputs_than_any_model_has_are_refused_before_they_are_read():
    entries = [{"name": str(number), "shape": [1], "datatype": "FP32", "data": [0]} for number in range(1025)]

    with pytest.raises(TooLargeError, match="inputs holds 1025 objects; at most 1024"):
        parse_request(orjson.dumps({"inputs": entries}), None, Limits())


def test_bytes_elements_without_number_are_refused_before_they_are_read():
    size = 4 * 1_000_000
    declared = {"name": "x", "shape": [1, 1_000_000], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    header = orjson.dumps({"inputs": [declared]})

    with pytest.raises(TooLargeError, match="a batch of 1000000; at most 256"):
        parse_request(header + bytes(size), len(header), Limits())


@pytest.mark.parametrize("length", [0xFFFFFFFF, 100, 5])
def test_a_bytes_element_that_lies_about_its_length_is_malformed(length):
    declared = {"name": "x", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 8}}
    header = orjson.dumps({"inputs": [declared]})

    with pytest.raises(MalformedError, match="is truncated"):
        parse_request(header + length.to_bytes(4, "little") + b"abcd", len(header), Limits())
