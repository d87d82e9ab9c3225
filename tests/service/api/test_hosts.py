"""The Host of a request: one, of the form that hosts have, and never repeated in an answer's Location."""

import asyncio

import pytest

from service.api.host import HOST
from tests.applications import assert_error

REFUSED = {
    "two": ([b"127.0.0.1", b"127.0.0.1"], "2 Host headers, expected one"),
    "two_of_which_one_is_foreign": ([b"127.0.0.1", b"evil.example"], "2 Host headers, expected one"),
    "none": ([], "no Host header"),
    "empty": ([b""], "Host is ''"),
    "user": ([b"me@127.0.0.1"], "Host is 'me@127.0.0.1'"),
    "path": ([b"127.0.0.1/x"], "Host is '127.0.0.1/x'"),
    "query": ([b"127.0.0.1?x"], "Host is"),
    "blank": ([b"127.0.0.1 evil.example"], "Host is"),
    "list": ([b"127.0.0.1, evil.example"], "Host is"),
    "markup": ([b"<script>"], "Host is"),
    "port_that_is_no_number": ([b"127.0.0.1:x"], "Host is"),
    "percent": ([b"127.0.0.1%2f"], "Host is"),
    "not_ascii": (["exämple".encode("latin-1")], "Host is"),
    "open_bracket": ([b"[::1"], "Host is"),
    "too_long": ([b"a" * 5000], "Host is"),
}


def ask(api, hosts, path="/v2/health/live", version="1.1"):
    """Call the application with exactly these Hosts; return status, headers and body."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"host", host) for host in hosts], "http_version": version, "scheme": "http",
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "root_path": "", "state": {},
    }  # fmt: skip
    asyncio.run(api.app(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize("name", REFUSED)
def test_any_other_host_is_400(bounded, name):
    hosts, said = REFUSED[name]

    status, _, body = ask(bounded, hosts)

    assert (status, len(body) < 500) == (400, True)
    assert said in body.decode()


def test_http_1_0_needs_no_host_for_the_check_itself(bounded):
    assert ask(bounded, [], version="1.0")[0] == 403  # without keys only loopback names are served


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "127.0.0.1:80", "[::1]:8000", "[fe80::1%eth0]", "my_service.local", "a-b.example."],
)
def test_hosts_that_clients_and_proxies_send_pass(host):
    assert HOST.fullmatch(host)


@pytest.mark.parametrize("path", ["/v1/streams/", "/v1/models/", "/metrics/", "/v2/models/reference/infer/"])
def test_no_path_is_redirected_to_the_host_that_the_client_named(bounded, path):
    answer = bounded("GET", path, headers={"Host": "localhost:99"})

    assert_error(answer, 404, "there is nothing at")
    assert "location" not in answer.headers
