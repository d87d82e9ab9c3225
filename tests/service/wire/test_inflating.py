"""Compressed bodies: inflated within the bound, or refused by name."""

import gzip
import json
import time
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import MalformedError, TooLargeError
from service.wire.inflate import Inflater
from tests.applications import INFER, JSON, OCTETS, assert_error
from tests.serving import images, infer_body

MB = 2**20


def raw_deflate(data):
    made = zlib.compressobj(wbits=-15)
    return made.compress(data) + made.flush()


CODED = {
    "gzip": ("gzip", gzip.compress),
    "gzip_in_two_parts": ("gzip", lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:])),
    "x_gzip": ("X-GZip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw_deflate": ("deflate", raw_deflate),
    "identity": ("identity", bytes),
}


def inflate(coding, pieces, most=MB):
    inflater = Inflater(coding, most)
    out = b"".join([inflater.feed(piece) for piece in pieces])
    inflater.finish()
    return out


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(
    st.binary(max_size=2000),
    st.integers(1, 50),
    st.sampled_from(["gzip", "gzip_in_two_parts", "deflate", "raw_deflate"]),
)
def test_what_was_compressed_comes_back_however_it_is_cut(data, size, name):
    coding, compress = CODED[name]
    whole = compress(data)

    assert inflate(coding, [whole[at : at + size] for at in range(0, len(whole), size)]) == data


@pytest.mark.parametrize("name", CODED)
def test_a_compressed_request_is_answered_as_the_plain_one(bounded, name):
    coding, compress = CODED[name]
    body = infer_body(images(2), None)
    plain = bounded("POST", INFER, json=body)

    answer = bounded(
        "POST", INFER, content=compress(json.dumps(body).encode()), headers={**JSON, "Content-Encoding": coding}
    )

    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"] == plain.json()["outputs"]


def test_the_length_of_the_json_header_is_that_of_the_inflated_body(bounded):
    x = images(2).astype("<f4")
    declared = {
        "name": "images",
        "shape": list(x.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": x.nbytes},
    }
    header = json.dumps({"inputs": [declared]}).encode()
    headers = {**OCTETS, "Content-Encoding": "gzip", "Inference-Header-Content-Length": str(len(header))}

    answer = bounded("POST", INFER, content=gzip.compress(header + x.tobytes()), headers=headers)

    assert answer.status_code == 200, answer.text


def test_a_compressed_control_call_is_taken(api):
    content = gzip.compress(b'{"id": "squeezed"}')

    created = api("POST", "/v1/streams", content=content, headers={**JSON, "Content-Encoding": "gzip"})

    assert (created.status_code, created.json()["id"]) == (201, "squeezed")


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "gzip, deflate", "nonsense"])
@pytest.mark.parametrize("path", [INFER, "/v1/streams", "/v1/snapshots"])
def test_any_other_coding_is_415_by_name(bounded, path, coding):
    answer = bounded("POST", path, content=b"{}", headers={**JSON, "Content-Encoding": coding})

    assert_error(answer, 415, f"Content-Encoding is '{coding}', expected gzip, deflate or none")


GOOD = gzip.compress(json.dumps(infer_body(images(2), None)).encode())
BROKEN = {
    "truncated": ("gzip", GOOD[:-9]),
    "without_its_checksum": ("gzip", GOOD[:-4]),
    "with_a_wrong_checksum": ("gzip", GOOD[:-8] + b"\0" * 8),
    "followed_by_something": ("gzip", GOOD + b"something"),
    "not_compressed": ("gzip", b'{"inputs": []}'),
    "not_deflated": ("deflate", b"\xff\xff\xff"),
    "one_byte": ("deflate", b"x"),
    "nothing": ("gzip", b""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_body_that_is_not_compressed_as_it_says_is_400(bounded, name):
    coding, content = BROKEN[name]

    assert_error(bounded("POST", INFER, content=content, headers={**JSON, "Content-Encoding": coding}), 400, coding)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw_deflate", "members"])
def test_a_bomb_is_refused_at_the_bound_without_being_inflated(coding):
    zeros = bytes(100 * MB)
    bomb = {
        "gzip": gzip.compress, "deflate": zlib.compress, "raw_deflate": raw_deflate,
        "members": lambda data: gzip.compress(data[:MB]) * 100,
    }[coding](zeros)  # fmt: skip
    tracemalloc.start()
    with pytest.raises(TooLargeError, match="inflates to more than 1048576 bytes"):
        inflate("deflate" if "deflate" in coding else "gzip", [bomb])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 10 * MB


def test_empty_members_without_end_are_refused_soon():
    began = time.thread_time()
    with pytest.raises(MalformedError, match="1001 gzip streams"):
        inflate("gzip", [gzip.compress(b"") * 100_000])

    assert time.thread_time() - began < 2


def test_a_bomb_over_http_is_413(bounded):
    content = gzip.compress(bytes(10 * MB))

    assert_error(bounded("POST", INFER, content=content, headers={**JSON, "Content-Encoding": "gzip"}), 413, "inflates")
