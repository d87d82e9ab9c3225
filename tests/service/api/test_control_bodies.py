"""Bodies of control calls and of log-in: bounded before anything is parsed, and what is wrong is told in brief."""

import asyncio
import json
import time

import pytest

from tests.applications import INFER, JSON, assert_error
from tests.serving import images

LONG = 250_000
BOMBS = {
    "arrays": b'{"key": [' + b"[]," * 20_000 + b"[]]}",
    "objects": b'{"key": [' + b"{}," * 20_000 + b"{}]}",
    "extra_keys": b'{"key": "x", ' + b",".join(b'"k%d": 0' % number for number in range(20_000)) + b"}",
    "deep": b"[" * 100_000,
    "numbers": b'{"labels": [' + b"0," * 200_000 + b"0]}",
}
PATHS = [("POST", "/v1/streams"), ("PATCH", "/v1/streams/known"), ("POST", "/v1/streams/known/feedback"),
         ("POST", "/v1/streams/known/snapshots"), ("PATCH", "/v1/streams/infer")]  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize(("method", "path"), PATHS)
def test_a_bomb_to_a_control_call_is_413(bounded, method, path, name):
    assert_error(bounded(method, path, content=BOMBS[name], headers=JSON), 413, "the ")


@pytest.mark.parametrize("name", BOMBS)
def test_log_in_reads_no_more_than_4_kb(bounded, name):
    assert_error(bounded("POST", "/v1/session", content=BOMBS[name], headers=JSON), 413, "expected at most 4096")


def test_log_in_reads_no_more_than_4_kb_of_a_body_that_does_not_tell_its_length(bounded):
    read = []

    async def body():
        for number in range(1000):
            read.append(number)
            yield b" " * 1024

    answer = bounded("POST", "/v1/session", content=body(), headers=JSON)

    assert_error(answer, 413, "more than 4096 bytes")
    assert len(read) <= 6


def test_a_key_is_still_taken(bounded):
    assert bounded("POST", "/v1/session", json={"key": "x" * 512}).status_code == 204


@pytest.mark.parametrize(
    "body",
    [
        {f"k{number}": 0 for number in range(3_900)},
        {"options": {f"p{number}": [] for number in range(3_900)}},
        {"options": {"tent": {f"p{number}": [] for number in range(3_900)}}},
        {"guard": {f"p{number}": [] for number in range(3_900)}},
        {"x" * LONG: 0},
        {"adapter": ["x" * LONG]},
    ],
    ids=["extra", "options", "part", "guard", "long_key", "long_value"],
)
def test_what_is_wrong_with_a_large_body_is_told_soon_and_in_brief(bounded, body):
    began = time.process_time()
    answer = bounded("POST", "/v1/streams", json=body)

    assert_error(answer, 422, "")
    assert time.process_time() - began < 3


@pytest.mark.parametrize("labels", [[None] * 2000, [[]] * 4, ["x"] * 4097])
def test_wrong_labels_are_told_soon_and_in_brief(bounded, labels):
    items = [{"request": f"r{number}", "labels": labels} for number in range(10)]

    answer = bounded("POST", "/v1/streams/known/feedback", json={"items": items})

    assert_error(answer, 422, "labels")


def test_ten_thousand_labels_are_taken(bounded):
    items = [{"request": f"request-{number:032}", "labels": ["a"] * 100} for number in range(100)]

    answer = bounded("POST", "/v1/streams/known/feedback", json={"items": items})

    assert answer.status_code == 200, answer.text


def test_a_long_path_and_a_long_query_are_told_in_brief(bounded):
    assert_error(bounded("GET", "/v1/" + "x" * 10_000), 404, "there is nothing at")
    assert bounded("GET", "/v1/streams?" + "a=b&" * 10_000).status_code == 200


LEFT = {
    "control_call": ("POST", "/v1/streams", "application/json"),
    "json": ("POST", INFER, "application/json"),
    "image": ("POST", INFER, "image/png"),
    "form": ("POST", INFER, "multipart/form-data; boundary=b"),
    "snapshot": ("POST", "/v1/snapshots", "application/octet-stream"),
}


@pytest.mark.parametrize("name", LEFT)
def test_a_client_that_leaves_in_the_middle_of_its_body_is_one_line_of_information(bounded, capsys, name):
    method, path, content_type = LEFT[name]
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", content_type.encode()), (b"content-length", b"900")],
        "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        "root_path": "", "state": {},
    }  # fmt: skip

    async def receive():
        return messages.pop(0)

    async def send(_message):
        pass

    capsys.readouterr()
    asyncio.run(bounded.app(scope, receive, send))
    said = "".join(capsys.readouterr())

    assert said.count("\n") == 1
    assert "client_left" in said
    assert "Traceback" not in said


def test_a_form_of_too_many_parts_or_headers_is_refused(bounded):
    part = b'--b\r\nContent-Disposition: form-data; name="i"; filename="a"\r\n\r\nx\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    forms = {
        "files": part * 2000 + b"--b--\r\n",
        "fields": part.replace(b'; filename="a"', b"") * 20 + b"--b--\r\n",
        "headers": b"--b\r\n" + b"a: b\r\n" * 10_000 + b"\r\nx\r\n--b--\r\n",
        "no_end": part,
    }

    answers = {name: bounded("POST", INFER, content=form, headers=headers) for name, form in forms.items()}

    assert {name: answer.status_code for name, answer in answers.items()} == {
        "files": 413, "fields": 413, "headers": 400, "no_end": 400,
    }  # fmt: skip
    assert json.loads(answers["headers"].content)["error"].startswith("the body is no multipart form")


def test_an_image_in_a_form_is_still_answered(bounded):
    answer = bounded("POST", INFER, json={"inputs": []})
    assert answer.status_code == 400
    assert bounded.infer(images(1))["outputs"]
