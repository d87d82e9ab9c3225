"""The headers that tell browsers what they may do with an answer."""

import pytest

from service.api.routes.dashboard import POLICY as DASHBOARD_POLICY
from service.api.security_headers import POLICY


@pytest.mark.parametrize(
    ("path", "status", "policy"),
    [
        ("/v1/streams", 200, POLICY),
        ("/v2", 200, POLICY),
        ("/v1/nowhere", 404, POLICY),
        ("/docs", 200, DASHBOARD_POLICY),
        ("/", 200, DASHBOARD_POLICY),
    ],
)
def test_every_answer_has_its_security_headers(api, path, status, policy):
    answer = api("GET", path)

    assert answer.status_code == status
    assert answer.headers["Content-Security-Policy"] == policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert (answer.headers.get("Cache-Control") == "no-store") == path.startswith("/v")


def test_a_refusal_at_the_gate_has_them_too(api):
    answer = api("GET", "/v1/streams", headers={"Host": "evil.com"})

    assert answer.status_code == 403
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert answer.headers["Cache-Control"] == "no-store"


def test_an_unexpected_failure_has_them_too(api, monkeypatch):
    def fail(_self):
        raise RuntimeError("a fault")

    monkeypatch.setattr("service.streams.table.StreamTable.__iter__", fail)
    answer = api("GET", "/metrics")

    assert answer.status_code == 500
    assert answer.headers["Content-Security-Policy"] == POLICY
