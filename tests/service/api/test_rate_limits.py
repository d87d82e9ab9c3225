"""How often a caller may call: token buckets, and the refusals they lead to."""

import hashlib

from starlette.requests import Request

from service.api.middleware.rate_limit import RateLimit
from service.api.sessions import Sessions
from service.support import token_bucket as buckets_module
from service.support.token_bucket import Buckets
from tests.applications import INFER, application, assert_error
from tests.serving import images, infer_body


def test_a_bucket_gives_its_burst_then_its_rate():
    now = [0.0]
    buckets = Buckets(2.0, 2.0, lambda: now[0])

    burst = [buckets.take("a") for _ in range(5)]
    now[0] = 0.5

    assert burst == [0.0] * 4 + [0.5]
    assert (buckets.take("a"), buckets.take("a"), buckets.take("b")) == (0.0, 0.5, 0.0)


def test_buckets_are_bounded_and_the_longest_unseen_is_forgotten(monkeypatch):
    monkeypatch.setattr(buckets_module, "MAX_BUCKETS", 2)
    buckets = Buckets(1.0, 1.0, lambda: 0.0)
    for name in "abc":
        buckets.take(name)

    assert len(buckets) == 2
    assert buckets.take("c") > 0
    assert buckets.take("a") == 0


def test_beyond_its_rate_a_caller_is_told_when_to_come_again_and_health_is_answered(bundles, tmp_path):
    with application(tmp_path, bundles[0], rate_per_key=0.1, rate_burst_seconds=20) as api:
        answers = [api("GET", "/v1/streams") for _ in range(3)]
        health = [api("GET", "/v2/health/live").status_code for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert_error(answers[2], 429, "more than 0.1 requests a second came from this caller, as many as allowed")
    assert answers[2].headers["Retry-After"] == "10"
    assert health == [200, 200, 200]


def test_with_keys_each_key_has_a_bucket_of_its_own_that_does_not_hold_the_key():
    async def answered(*_arguments):
        pass

    def caller(key, path="/v1/streams"):
        headers = [(b"x-api-key", key)]
        return limit._caller(
            Request({"type": "http", "method": "GET", "path": path, "headers": headers, "client": ("127.0.0.1", 1)})
        )

    limit = RateLimit(answered, Sessions(), keyed=True, rate=1.0, burst_seconds=1.0)

    assert caller(b"one") == hashlib.sha256(b"one").hexdigest()
    assert caller(b"one") != caller(b"two")


def test_a_stream_that_gets_too_much_is_refused_and_the_others_are_not(bundles, tmp_path):
    with application(tmp_path, bundles[0], rate_per_stream=0.1, rate_burst_seconds=20) as api:
        answers = [api("POST", INFER, json=infer_body(images(1), "busy")) for _ in range(3)]
        other = api("POST", INFER, json=infer_body(images(1), "calm"))
        reset = api("POST", "/v1/streams/busy/reset")

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 10
    assert_error(answers[2], 429, "stream 'busy' gets more than 0.1 requests a second")
    assert (other.status_code, reset.status_code) == (200, 200)
