"""The port of a server: taken before anything is loaded, and answered from then on."""

import json
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection

import pytest

from service.errors import SettingsError
from service.support.port import Port
from tests.serving import ROOT, SLACK_SECONDS, serving


def ask(port, path, method="GET"):
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def number_of(port):
    return int(port.url.rpartition(":")[2])


def test_while_a_server_loads_it_is_live_and_not_ready_and_everything_else_is_told_to_come_again():
    with Port("127.0.0.1", 0) as port:
        live, ready, other = (ask(number_of(port), path) for path in ("/v2/health/live", "/v2/health/ready", "/v2"))
        posted = ask(number_of(port), "/v2/models/m/infer", "POST")

    assert (live[0], json.loads(live[1])) == (200, {"live": True})
    assert (ready[0], json.loads(ready[1])) == (503, {"ready": False})
    for status, body, headers in (other, posted):
        assert (status, json.loads(body)) == (503, {"error": "the server is starting; try again later"})
        assert headers["Retry-After"] == "1"


def test_who_connects_after_the_port_is_handed_over_waits_for_the_server():
    with Port("127.0.0.1", 0) as port:
        ask(number_of(port), "/v2/health/live")
        listening = port.hand_over()
        with socket.create_connection(("127.0.0.1", number_of(port)), timeout=5):
            accepted, _ = listening.accept()
            accepted.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_in_use_is_refused_by_name(host):
    with Port(host, 0) as port, pytest.raises(SettingsError, match=f"cannot listen on {host} port {number_of(port)}"):
        Port(host, number_of(port))


def test_a_port_is_free_again_where_loading_fails():
    def load():
        with Port("127.0.0.1", 0) as port:
            numbers.append(number_of(port))
            raise SettingsError("no bundle is given")

    numbers = []
    with pytest.raises(SettingsError, match="no bundle is given"):
        load()
    with Port("127.0.0.1", numbers[0]):
        pass


@pytest.mark.e2e
def test_a_port_in_use_ends_serve_before_it_loads_torch():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-X", "importtime", "-m", "service", "serve", "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert "cannot listen on 127.0.0.1 port" in done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "service.support.port" in imported
    assert not {"torch", "fastapi", "uvicorn", "onnxruntime"} & imported


@pytest.mark.e2e
def test_beyond_loopback_without_keys_no_port_is_taken(tmp_path):
    command = [sys.executable, "-m", "service", "serve", "--host", "0.0.0.0", "--port", "1"]  # no one may bind 1
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, "refusing to listen on 0.0.0.0 without keys" in done.stderr) == (2, True)


@pytest.mark.e2e
def test_a_starting_server_answers_probes_until_it_is_ready(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    command = [sys.executable, "-m", "service", "serve", "--port", str(number), "--data", str(tmp_path / "data")]
    seen, ends = [], time.monotonic() + 120
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while time.monotonic() < ends and (200, 200) not in seen:
                try:
                    seen.append((ask(number, "/v2/health/live")[0], ask(number, "/v2/health/ready")[0]))
                except ConnectionRefusedError:
                    assert not seen, "it was refused after it had been answered"
                time.sleep(0.05)
        finally:
            process.terminate()
            process.wait(60)

    assert seen[0] == (200, 503)
    assert seen[-1] == (200, 200)


@pytest.mark.e2e
def test_at_the_limit_of_file_descriptors_health_is_answered_and_the_server_recovers(tmp_path):
    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160)); "
        "sys.argv[0] = 'acclimate'; runpy.run_module('service', run_name='__main__')"
    )
    with serving(tmp_path, python=("-c", limited)) as server:
        number, held, statuses = int(server.url.rpartition(":")[2]), [], []
        for _ in range(400):
            try:
                held.append(socket.create_connection(("127.0.0.1", number), timeout=1))
            except OSError:
                break
        began = time.monotonic()
        statuses = [ask(number, path)[0] for path in ("/v2/health/live", "/v2/health/ready", "/v2", "/v1/streams")]
        seconds = time.monotonic() - began
        for each in held:
            each.close()
        after = [ask(number, "/v1/streams")[0] for _ in range(5)]
        status = server.stop()

    assert statuses == [200] * 4
    assert seconds < SLACK_SECONDS
    assert after == [200] * 5
    assert status == 0
    assert "Traceback" not in server.log.read_text()
