"""The examples run as they are shown, against real servers."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.project.pages import EXAMPLES, ROOT, blocks
from tests.serving import serving, wait_ready
from tests.stores.programs import free_ports, program, wait_until

FOLDER = ROOT / "examples"
LOOP = [sys.executable, str(FOLDER / "camera_loop.py")]
STREAMS = [f"camera-{number}" for number in range(6)]
QUICK = {"ACCLIMATE_COMPILED": "false", "ACCLIMATE_GROUP_STREAMS": "1"}


@pytest.fixture
def here(tmp_path):
    """A folder that looks to the examples as the repository's root does."""
    for name in ("examples", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def environment(**more):
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **more}


def told(command, cwd, **more):
    done = subprocess.run(command, cwd=cwd, env=environment(**more), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_example_is_listed_and_its_file_is_there():
    listed = re.findall(r"^\| \[[^]]*\]\(([^)]+)\) \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    there = {path for path in FOLDER.iterdir() if path.name not in ("README.md", "__pycache__")}

    assert {(FOLDER / name).relative_to(FOLDER).parts[0] for name in listed} == {path.name for path in there}
    assert len(EXAMPLES) == 3


@pytest.mark.e2e
def test_the_camera_loop_sends_frames_and_learns_from_each(tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(3):
        (frames / f"{number}.png").write_bytes((ROOT / "docs" / "images" / "clothes.png").read_bytes())
    with serving(tmp_path, environment=QUICK) as server:
        wait_ready(server)
        said = told([*LOOP, "--url", server.url, "--frames", str(frames), "--pause", "0"], ROOT).splitlines()

    assert [re.sub(r" +", " ", re.sub(r"entropy [\d.]+ ", "", line)).strip() for line in said] == [
        f"{number} Ankle boot generation {number + 1} kept" for number in range(3)
    ]


@pytest.mark.e2e
def test_the_camera_loop_goes_on_after_a_restart_of_the_server(tmp_path):
    (port,) = free_ports(1)
    url, data = f"http://127.0.0.1:{port}", tmp_path / "data"
    with ExitStack() as first:
        server = first.enter_context(serving(tmp_path, "--port", str(port), environment=QUICK, data=data))
        wait_ready(server)
        command = [sys.executable, "-u", *LOOP[1:], "--url", url, "--most", "60", "--pause", "0.05"]
        with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as loop:
            said = [loop.stdout.readline() for _ in range(5)]
            first.close()
            with serving(tmp_path, "--port", str(port), environment=QUICK, data=data):
                said += loop.stdout.readlines()
            assert loop.wait(60) == 0

    assert [line for line in said if "kept" not in line] == []
    generations = [int(re.search(r"generation (\d+) kept", line)[1]) for line in said]
    assert generations == list(range(1, 61))


@pytest.mark.e2e
def test_ones_own_bundle_is_made_checked_calibrated_and_served(here):
    page = FOLDER / "own_bundle" / "README.md"
    said = told(["bash", "-e", "-c", "\n".join(blocks(page, "bash"))], here)
    (curl,) = re.findall(r"^curl .*$", page.read_text(), re.MULTILINE)
    arguments = ("--bundle", str(here / "build" / "stripes"), "--allow-factory", "networks:build")
    importable = {**QUICK, "PYTHONPATH": f"{FOLDER / 'own_bundle'}"}
    with serving(here, *arguments, environment=importable) as server:
        wait_ready(server)
        answer = json.loads(told(["bash", "-c", curl.replace("localhost:8000", server.address)], here))

    shown = re.search(r"([\d.]+) % right; stripes.png shows (\w+)", said)
    assert float(shown[1]) > 95
    labels = next(output["data"] for output in answer["outputs"] if output["name"] == "labels")
    assert ["rows", "columns", "checks"][labels[0]] == shown[2]
    assert (here / "build" / "stripes" / "artefacts" / "probe.safetensors").exists()


def test_the_notebook_runs_and_adapting_errs_less(tmp_path):
    notebook = json.loads((FOLDER / "engine.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    said = told([sys.executable, "-c", "\n\n".join(cells)], tmp_path, OMP_NUM_THREADS="1")

    errors = [tuple(map(float, found)) for found in re.findall(r"frozen +([\d.]+) % +adapting +([\d.]+) %", said)]
    assert len(errors) == 15
    assert sum(adapting for _, adapting in errors) < sum(frozen for frozen, _ in errors)
    assert "going back is exact: True" in said
    assert all(not cell.get("outputs") for cell in notebook["cells"])


@contextmanager
def fleet(here):
    """The fleet as `run.sh` starts it, on free ports; yields its process, the proxy's address and the two servers'."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
    named = dict(zip(("FLEET_PROXY", "FLEET_FIRST", "FLEET_SECOND"), addresses, strict=True))
    haproxy = program("haproxy", "apt install haproxy", Path("/usr/sbin"))
    path = f"{Path(sys.executable).parent}:{haproxy.parent}:{os.environ['PATH']}"
    log = (here / "fleet.log").open("w")
    process = subprocess.Popen(
        ["examples/fleet/run.sh"], cwd=here, env={**os.environ, **QUICK, **named, "PATH": path}, stdout=log, stderr=log
    )
    try:
        yield process, *addresses
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        log.close()


def ready(address):
    try:
        return httpx.get(f"http://{address}/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.e2e
def test_the_fleet_sends_each_stream_to_one_server_and_both_work(here):
    image = (ROOT / "docs" / "images" / "clothes.png").read_bytes()
    with fleet(here) as (process, proxy, *servers):
        wait_until(lambda: all(map(ready, servers)) and ready(proxy), "the fleet is ready", 200, every=0.5)
        with httpx.Client(base_url=f"http://{proxy}", timeout=60) as client:
            generations = [[sent(client, stream, image) for stream in STREAMS] for _ in range(3)]
            shown = [client.get(f"/v1/streams/{stream}").json() for stream in STREAMS]
        held = [
            {stream["id"] for stream in httpx.get(f"http://{server}/v1/streams").json()["items"] if stream["resident"]}
            for server in servers
        ]
        os.kill(child(process, servers[0].rpartition(":")[2]), signal.SIGTERM)
        wait_until(lambda: gone(servers[0]), "the first server has stopped", 60)
        with httpx.Client(base_url=f"http://{proxy}", timeout=60) as client:
            wait_until(lambda: all(answers(client, stream) for stream in STREAMS), "the second server took over", 60)
            taken_over = [sent(client, stream, image) for stream in STREAMS]

    assert generations == [[number] * len(STREAMS) for number in (1, 2, 3)]
    assert [(stream["id"], stream["generation"], stream["resident"]) for stream in shown] == [
        (stream, 3, True) for stream in STREAMS
    ]
    assert held[0] | held[1] == set(STREAMS)
    assert held[0] & held[1] == set()
    assert all(held)
    assert taken_over == [4] * len(STREAMS)


def gone(address):
    try:
        httpx.get(f"http://{address}/v2/health/live")
    except httpx.TransportError:
        return True
    return False


def child(process, port):
    """The process id of the server that `run.sh` started on a port."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (found,) = (pid for pid in children if port in Path(f"/proc/{pid}/cmdline").read_text().split("\0"))
    return int(found)


def answers(client, stream):
    return client.get(f"/v1/streams/{stream}").status_code == 200


def sent(client, stream, image):
    headers = {"Content-Type": "image/png", "X-Stream-Id": stream}
    answer = client.post("/v2/models/fashion/infer", content=image, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["parameters"]["tta_generation"]
