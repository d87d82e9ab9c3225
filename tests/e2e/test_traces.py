"""Traces: sent to a collector where OpenTelemetry's own setting names one, and nowhere else."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.serving import serving


@pytest.fixture
def collector():
    """Something that takes traces as a collector does: its address, and the bodies it got."""
    bodies = []

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    thread.join()
    server.server_close()


def infer(server):
    image = [0.5] * 28 * 28
    tensor = {"name": "input", "shape": [1, 1, 28, 28], "datatype": "FP32", "data": image}
    body = {"inputs": [tensor], "parameters": {"sequence_id": "camera-7"}}
    with server.client() as client:
        assert client.post("/v2/models/fashion/infer", json=body).status_code == 200


def test_a_request_is_traced_to_the_collector_with_what_became_of_it(tmp_path, collector):
    address, bodies = collector

    with serving(tmp_path, environment={"OTEL_EXPORTER_OTLP_ENDPOINT": address}) as server:
        infer(server)
        server.stop()

    paths, contents = zip(*bodies, strict=True)
    assert set(paths) == {"/v1/traces"}
    traced = b"".join(contents)
    assert b"stream turn" in traced
    assert b"acclimate.action" in traced
    assert b"kept" in traced


def test_without_a_collector_nothing_is_sent(tmp_path, collector):
    _, bodies = collector

    with serving(tmp_path) as server:
        infer(server)

    assert bodies == []
