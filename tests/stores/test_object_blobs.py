"""Objects on a real S3 server: one put twice is one object, whoever lost the reply to the first put."""

import threading
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from service.errors import StoreDownError, UnfitError
from service.storage.backends.objects import ObjectBlobs
from tests.stores import seaweed


@pytest.fixture
def blobs(s3, monkeypatch):
    """Open the blobs under a new prefix, by way of the server's own endpoint or of another."""
    prefix = s3.new_prefix()

    def opened(endpoint=s3.endpoint):
        for name, value in {**s3.environment, "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        return ObjectBlobs(f"s3://{seaweed.BUCKET}/{prefix}")

    return opened


@contextmanager
def losing_the_first_reply(endpoint, method):
    """Pass requests on to a server; the first of a method takes effect there, but its reply is lost: 502."""
    lost = []

    class Passing(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def passed_on(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            upstream = HTTPConnection(urlsplit(endpoint).netloc, timeout=30)
            upstream.request(self.command, self.path, body, dict(self.headers))
            response = upstream.getresponse()
            content = response.read()
            upstream.close()
            if self.command == method and not lost:
                lost.append(response.status)
                return self.reply(502, [], b"")
            return self.reply(response.status, response.getheaders(), content)

        def reply(self, status, headers, content):
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_PUT = do_GET = do_DELETE = passed_on  # noqa: N815 - the library's names

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Passing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", lost
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_put_whose_reply_was_lost_succeeds_when_it_is_tried_again(blobs):
    blobs().put("a", b"content", len)
    blobs().put("a", b"content", len)

    assert blobs().get("a") == b"content"


def test_a_put_whose_reply_is_lost_on_the_way_succeeds_by_the_clients_own_retry(blobs, s3):
    with losing_the_first_reply(s3.endpoint, "PUT") as (endpoint, lost):
        blobs(endpoint).put("a", b"content", len)

    assert lost == [200]
    assert blobs().get("a") == b"content"


def test_another_content_under_the_same_name_is_refused_and_the_first_stays(blobs):
    blobs().put("a", b"content", len)

    with pytest.raises(StoreDownError, match="holds another content as a"):
        blobs().put("a", b"another", len)
    assert blobs().get("a") == b"content"


def test_a_content_that_its_check_refuses_leaves_no_object(blobs):
    def refuse(_content):
        raise UnfitError("damaged")

    with pytest.raises(UnfitError):
        blobs().put("a", b"content", refuse)
    assert list(blobs().names()) == []
