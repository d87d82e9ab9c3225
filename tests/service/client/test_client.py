"""The client: retries, live events, and answers of other servers."""

import json
from contextlib import contextmanager

import httpx
import numpy as np
import pytest

from service.client import Client, RefusedError, UnreachableError
from service.client.live import follow
from service.client.retrying import retried

EVENT = {"time": 0.0, "kind": "reset", "stream": "s", "model": "m", "action": "", "reason": "", "figures": {}}


def events(*ids):
    return "".join(f"id: {number}\ndata: {json.dumps({'id': number, **EVENT})}\n\n" for number in ids)


class Fake:
    """A connection whose answers are texts of server-sent events, or errors."""

    def __init__(self, *answers):
        self.answers, self.resumed = list(answers), []

    def stream(self, _path, headers, **_settings):
        @contextmanager
        def opened():
            self.resumed.append(headers["Last-Event-ID"])
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            yield httpx.Response(200, text=answer)

        return opened()


def test_following_goes_on_after_the_last_event_where_the_connection_was_lost():
    connection, pauses = Fake(events(4, 5), UnreachableError("lost"), events(6)), []
    told = follow(connection, 3, None, 6, pauses.append)

    assert [next(told).id for _ in range(3)] == [4, 5, 6]
    assert connection.resumed == ["3", "5", "5"]
    assert pauses == [0.5, 1.0]


def test_following_gives_up_where_the_server_does_not_come_back():
    connection = Fake(events(4), UnreachableError("lost"), UnreachableError("lost for good"))
    told = follow(connection, 3, None, 2, [].append)

    assert next(told).id == 4
    with pytest.raises(UnreachableError, match="lost for good"):
        next(told)


def test_following_a_server_that_is_not_there_is_refused_at_once():
    with pytest.raises(UnreachableError):
        next(follow(Fake(UnreachableError("no server")), 0, None, 6, [].append))


def test_only_what_may_pass_is_tried_again_and_not_for_ever():
    full, pauses = RefusedError("full", 503, 2.0), []
    errors = [full, UnreachableError("lost"), full, full]

    def fail():
        raise errors.pop(0)

    with pytest.raises(RefusedError, match="full"):
        retried(fail, 2, pauses.append)
    assert (len(errors), pauses) == (1, [2.0, 1.0])
    errors[:] = [RefusedError("unfit", 422)]
    with pytest.raises(RefusedError, match="unfit"):
        retried(fail, 2, pauses.append)


def test_a_batch_of_another_type_is_refused_before_it_is_sent():
    with Client("http://127.0.0.1:1") as client, pytest.raises(ValueError, match="float64, expected one of float32"):
        client.infer("m", "input", np.zeros((1, 1, 2, 2)))


def test_where_no_server_is_nothing_is_ready():
    with Client("http://127.0.0.1:1") as client:
        assert client.ready() is False


@pytest.mark.parametrize(
    ("body", "said"), [(b"<html>", "its answer is not JSON"), (b"{}", "StreamList: items is missing")]
)
def test_another_kind_of_server_is_a_refusal_that_says_so(monkeypatch, body, said):
    monkeypatch.setattr(
        httpx.Client, "request", lambda _self, method, url, **_: httpx.Response(
            200, content=body, request=httpx.Request(method, f"http://other{url}")
        ),
    )  # fmt: skip

    with Client("http://other") as client, pytest.raises(RefusedError, match=said):
        next(client.streams())
